"""What must hold around a measurement: the target can be gated, prompts fit, outputs are lossless.

May import the rooms below `scoring`.

preflight.py       facts about a target and what it can read, before any sample; `models --check`
longest_prompt.py  the longest prompt of a suite, and whether it fits
self_check.py      verification must give the logits of full passes, or the model is refused
engine_check.py    the engine graphs must say what eager says, or eager decodes
batch_check.py     a batch must give the logits of the plain model's batch, or batches are refused
losslessness.py    decides why an output differs: a near-tie, an unsteady target, or a violation
plain_passes.py    reads a text through the plain model, by transformers alone: the only source of noise
rounding.py        units in the last place, and how much rounding may explain
ranking.py         ranks given answers by log-likelihood, outside the clock
"""
