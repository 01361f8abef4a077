"""`fastvlm-bench sweep` and `tune`: which exit, which head, how many tokens, when to stop.

May import the rooms below `cli`.

ranges.py  reads 1,2,4 and 2:12:2
grid.py    the cells of a sweep: which drafts there are for them
sweep.py   a sweep is a run of many cells; its report
"""
