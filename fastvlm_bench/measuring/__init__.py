"""`fastvlm-bench run`: from a checked configuration to recorded lines, tables and an exit code.

May import the rooms below `embedded`.

benchmark.py       `run` from configuration to exit code
before_loading.py  the checks that need no model
measure_suites.py  loads, builds, checks, warms up and measures
control_arm.py     in half precision, `control` is measured beside the methods
bench.py           what the loop needs before anything counts: inputs, self-check, warm-up, threads
runner.py          THE LOOP: samples x methods x repeats, interleaved, recorded as measured
promising.py       which cells of a sweep a prediction holds possible winners
williams.py        the order of the methods on each sample, a balanced design
lines.py           the lines that one generation leaves in samples.jsonl
dialogs.py         the turns of samples of several: their order, and the answers that they follow
pieces.py          the text of each token, so that a record is shown without the tokenizer
batch_sweep.py     `run --batch-size 1,2,4,8`: one run per size
invocation.py      `run --invocations N`: one process after the other on the same run
apart.py           measured apart from the samples: the parts of memory, energy
live.py            the progress bar with the current estimate
live_grid.py       the same of a sweep: a grid
signals.py         how Ctrl-C and SIGTERM end a measurement
"""
