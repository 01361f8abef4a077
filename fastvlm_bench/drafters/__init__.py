"""What drafts for the methods beside `fastvlm`: second models, heads on the target's states, skipped layers.

May import the rooms below `analysis`. The round that these methods share is `engine/proposing.py`.

following.py         a second model that drafts: its session follows what the target has said
wording.py           text of tokens, and the tokens that continue others and say a text
time_warping.py      aligns two spellings of one text
from_states.py       methods that draft with a head which reads states of the target's own passes
state_reader.py      feeds such a head, row by row, and keeps its cache
recorded_reader.py   the same by recorded passes, for one sequence
target_states.py     those states, by hooks on the decoder layers
draft_tree.py        grows a tree of drafts with such a head
levels.py            one round of exits that check each other
exit_tree.py         grows a tree with the first layers and a head, and verifies it
eagle_method.py      what the methods `eagle3` and `eagle` share
last_states.py       what enters the LM head, for drafts that stand at the end
skip_drafting.py     the frame of methods whose draft is the target with sub-layers skipped
layer_skipping.py    lets sub-layers of any decoder be skipped while it drafts
skip_proposals.py    which sets of sub-layers to try next
layer_choice.py      chooses the layers to skip by dynamic programming over their states
transformers_loop.py the speculative loops of transformers, watched from outside
"""
