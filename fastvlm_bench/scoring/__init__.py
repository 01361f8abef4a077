"""`score` and `verify-metrics`: predictions of any tool, scored with the metrics of a suite.

May import the rooms below `training`.

score.py           `score`
verify_metrics.py  `verify-metrics`: the official scorer beside the scores of this tool
"""
