"""From records to numbers: every rate, interval, verdict and warning is computed here.

May import the rooms below `decoding`, and never brings torch.

arms.py         groups the lines of a run by suite and method, and pairs them with the reference's
batches.py      puts the lines of one batch together again
speed.py        speed-ups of pairs, costs per round, shares of the phases
summary.py      from records to rows: the numbers of the CSV columns
quality.py      scores, and their paired differences to the reference
flips.py        answers that change between right and wrong: McNemar's exact test
statistics.py   intervals and tests
drift.py        outliers, slow starts, trends
notices.py      FASTER, SLOWER, SAME or AMBIGUOUS for each comparison, and the warnings about times
verdict.py      all warnings; VALID or INVALID
comparison.py   what `compare` computes
comparable.py   which runs it shows when none is named
batch_sizes.py  runs at several batch sizes as rows
stopping.py     when a suite may end early: by the width of its interval or by time
"""
