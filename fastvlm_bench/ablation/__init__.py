"""`fastvlm-bench ablate`: many recipes for drafts, each trained and measured, in one table.

May import the rooms below `cli`.

run.py    trains all recipes, then measures them in one run
table.py  the table, from the run's records
"""
