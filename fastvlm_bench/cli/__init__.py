"""The command line: options are read, one function is called, its exit code is returned. No logic but that of reading.

May import every other room; nothing heavy is imported before a command needs it.

app.py          the application: which commands there are, options before any command, the console script
run.py          `run`
sweep.py        `sweep` and `tune`
acceptance.py   `acceptance`
utilisation.py  `utilisation`
train.py        `train` and `ablate`
predict.py      `predict`
skip_search.py  `skip-search`
results.py      `compare`, `report`, `show`, `batches`, `export`, `score` and `verify-metrics`
about.py        `methods`, `models` and `doctor`
suites.py       `suites` and the commands below it
options.py      the options that several commands share
resuming.py     `run --resume`: options that were not typed are the recorded ones
config_file.py  --config: a file's keys and values as options
streams.py      standard output and error that may close without ending a measurement
__main__.py     `python -m fastvlm_bench.cli`, the old path of `python -m fastvlm_bench`
help.py         what --help looks like, and how an error ends a command
"""
