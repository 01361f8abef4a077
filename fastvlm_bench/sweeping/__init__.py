"""`fastvlm-bench sweep` and `tune`: which exit, which head, how many tokens, when to stop.

May import the rooms below `cli`.

ranges.py  reads 1,2,4 and 2:12:2
grid.py    the cells of a sweep: which drafts there are for them
sweep.py   a sweep is a run of many cells; its report
tune.py    the best options within a budget, as a draft's advice
halving.py  sequential halving: which candidates are measured on
tuning_samples.py  the samples of a tuning, which no run reports
advice_file.py  writes the advice into the draft's manifest
"""
