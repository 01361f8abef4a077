"""The small landscapes that the embedded model sees: what is in them, how they look, what is said and asked of them.

May import the rooms below `metrics`; it needs none of them.

scenes.py     what a scene holds, and its random choice
splits.py     which held-out scenes the suites show, and which are left for choosing drafts
drawings.py   how each thing is drawn
pictures.py   how a scene becomes a picture
language.py   captions and descriptions of a scene
questions.py  questions about a scene
knowledge.py  questions that no picture answers
"""
