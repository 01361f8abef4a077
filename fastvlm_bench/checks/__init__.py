"""What must hold around a measurement: the target can be gated, prompts fit, outputs are lossless.

May import the rooms below `scoring`.

preflight.py       facts about a target and what it can read, before any sample; `models --check`
longest_prompt.py  the longest prompt of a suite, and whether it fits
self_check.py      verification must give the logits of full passes, or the model is refused
batch_check.py     a row of a batch must give the logits that it gives alone, or batches are refused
losslessness.py    decides whether an output that differs from the reference's is a near-tie or a violation
read_back.py       reads an answer through the target in blocks, to see what rounding does to its logits
ranking.py         ranks given answers by log-likelihood, outside the clock
"""
