"""`fastvlm-bench utilisation`: which share of a model's FFN neurons its answers to a suite use, layer by layer.

May import the rooms below `cli` and `notebook`.

ffn.py      finds the FFN of each decoder layer: the matrix from its neurons back to the states
neurons.py  which neurons one answer uses: their contribution to its tokens
study.py    asks the samples, and counts
tables.py   prints it, and writes JSON and CSV
"""
