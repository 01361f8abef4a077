"""The decoding methods, one per file: the file name is the name on the command line. `fastvlm.py` is the heart.

May import the rooms below `report`. The parts that methods are made of are in `engine`. A file that has `METHOD` is a
method and says itself what it is, so a new one needs no line here.

fastvlm.py      THE HEART: draft, verify, accept, roll back
standard.py     one pass of the whole target for each token: the reference
adaptive.py     the same, drafting only where and as far as it pays
block.py        several tokens from one pass of the first layers
hierarchical.py  exits that check each other, then the target
layerskip.py    the raw exit without a head
early_exit.py   the draft alone, never verified
control.py      drafts with the whole target, so that only rounding can differ
draft_verify.py  skips a fixed set of the target's sub-layers while it drafts
swift.py        skips a set that it improves while it decodes
clasp.py        skips layers that it chooses anew from a verification's states
prompt_lookup.py  copies what followed the last tokens before
draft_model.py  a smaller model of the same tokenizer drafts
token_timing.py  a model of another vocabulary drafts
medusa.py       drafts with Medusa heads, in a chain or a tree
eagle3.py       drafts with an EAGLE-3 head, which reads three states of the target
eagle.py        drafts with an EAGLE-1/2 head, which reads the last one
mtp.py          drafts with the mtp layer in the target's own checkpoint
hf_generate.py  the loop of transformers, to check that `standard` is no slower
advice.py       γ and stop_below by a draft's advice, where the user typed none
build.py        builds a method from its specification and finds its draft
"""
