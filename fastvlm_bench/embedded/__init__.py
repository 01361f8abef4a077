"""How the embedded model `tiny` was made: scripts for `python -m`, and their outcome in `checkpoint/` and `drafts/`.

May import the rooms below `ablation`; no other room imports this one.

train.py           trains the model
batches.py         its training batches
parts.py           its tokenizer, processor and configuration
evaluate.py        its skill on held-out scenes
depth.py           proves that its depth is used: layers left out, averaged, half of them
easy_drafts.py     what 3-grams and prompt lookup would accept: what the text itself gives away
sight.py           teaches the tower of `smol` to see
swapped.py         whether a target's answers depend on the picture
card.py            writes its model card
render_suites.py   writes the embedded splits of coco-caption, describe, vqav2, okvqa and stories
render_formats.py  writes those of nocaps, gqa, pope and visdial-gen, for the same images
"""
