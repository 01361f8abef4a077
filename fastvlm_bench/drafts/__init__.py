"""Drafts: an exit layer and an imitation head, and the folders that hold them.

May import the rooms below `records`; `manifest.py` and `skip_set.py` do without torch.

imitation_head.py      the draft: exit layer and head, loaded and saved
heads.py               the heads: linear, mlp, gated-mlp, attention, twig, eagle; and medusa, at the end
reduced_vocabulary.py  drafting with fewer token ids
manifest.py            the manifest of a draft folder, and which draft a user means
skip_set.py            sets of sub-layers that a target skips while it drafts, and their folders
"""
