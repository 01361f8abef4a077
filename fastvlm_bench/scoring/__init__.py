"""`score` and `verify-metrics`: predictions of any tool, scored with the metrics of a suite.

May import the rooms below `training`.

table_references.py  references from the parquet form of data sets
score.py           what `score` computes, and the predictions files of `run`
verify_metrics.py  what `verify-metrics` compares: the official scorer's values with those of this tool
"""
