"""From records to numbers: every rate, interval, verdict and warning is computed here.

May import the rooms below `decoding`, and never brings torch.

arms.py         lines grouped by suite and method, and paired with the reference
batches.py      lines of a batch put together again
speed.py        speed-ups of pairs, costs of rounds, phases
summary.py      from records to rows: the numbers of the CSV columns
quality.py      scores and paired differences of quality
flips.py        answers that change between right and wrong: McNemar's exact test
statistics.py   intervals and tests
drift.py        outliers, slow starts, trends
notices.py      the word of each comparison, and the warnings about times
verdict.py      all warnings; VALID or INVALID
comparison.py   what `compare` computes
comparable.py   which runs it shows when none is named
batch_sizes.py  runs at several batch sizes as rows
stopping.py     when a suite may end early: by the width of its interval or by time
"""
