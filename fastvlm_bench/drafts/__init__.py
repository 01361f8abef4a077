"""Drafts: an exit layer and an imitation head, and the folders that hold them.

Heads of other people's, which read states of the target's own passes, are here as well.

May import the rooms below `records`. `manifest.py`, `speculation_profile.py`, `skip_set.py`, `formats.py` and
`fitting.py` do without torch.

imitation_head.py      the draft: exit layer and head, loaded and saved
heads.py               the heads: linear, mlp, gated-mlp, attention, twig, eagle, block; and medusa, at the end
reduced_vocabulary.py  drafting with fewer token ids
manifest.py            the manifest of a draft folder, and which draft a user means
speculation_profile.py how many tokens of a draft stand, in a file beside it
skip_set.py            sets of sub-layers that a target skips while it drafts, and their folders
formats.py             tells other people's heads by their config.json, and whether one fits a target
fitting.py             the same by the files of both, before anything is loaded
head_files.py          reads weights from safetensors or PyTorch's own files
state_heads.py         heads that read the target's states: what the loop needs of one, and EAGLE-1, 2 and 3
eagle_layers.py        their decoder layers
load_eagle.py          loads an EAGLE head for a target
mtp_head.py            the layer for multi-token prediction in the target's own checkpoint
"""
