"""From records to numbers: every rate, interval, verdict and warning is computed here.

May import the rooms below `decoding`, and never brings torch.

arms.py         groups the lines of a run by suite and method, and pairs them with the reference's
round_sums.py   sums over the rounds of lines
batches.py      puts the lines of one batch together again
summary.py      from records to rows: a row is a suite x method, and its numbers are in the groups below

settings.py     what was measured, and how the model ran
generation.py   the settings of `generate` that were in force, in words
counts.py       samples: planned, measured, failed, paired
quality.py      scores, and their paired differences to the reference
sameness.py     identical outputs, near-ties, unsteady ones, violations
differing.py    why outputs differ: rounding, the model itself, or the method
times.py        TTFT, TPOT, tokens per second
groups.py       speed and acceptance by topic, for suites without scores
contexts.py     acceptance and speed by the length of the context
speedup.py      ratios against the reference: FASTER, SLOWER, SAME or AMBIGUOUS
emitted.py      an answer token by token: the target's own, drafted and accepted, rejected
acceptance.py   alpha, tau, and acceptance by position
costs.py        seconds of drafting and verifying, and the speed-up that single passes predict
prediction.py   prices rounds with the costs of single passes
phases.py       shares of the time
memory.py       peaks in bytes
energy.py       joules per token

differences.py  the word for a paired difference of quality
bounds.py       its bounds, which hold their level although few samples changed
flips.py        answers that change between right and wrong: McNemar's exact test
statistics.py   intervals and tests
shares.py       the interval of a share, over images
drift.py        outliers, slow starts, trends
order_effect.py  whether seconds depend on the place in the turn, or on the method before
notices.py      the warnings about times
remedies.py     what to do about a draft that does not pay
floors.py       the bounds that a run must keep, for scripts
verdict.py      all warnings; VALID or INVALID
comparison.py   what `compare` computes
packed.py       of the first of compared runs as much as the others are compared with
comparable.py   which runs it shows when none is named
best_cell.py    of a sweep: the fastest cell, and which cannot be told from it
batch_sizes.py  runs at several batch sizes as rows
audit.py        what `audit` computes: results files of other tools
audit_rows.py   its numbers
audit_notices.py  its warnings
stopping.py     when a suite may end early: by the width of its interval or by time
"""
