"""The command line: options are read, one function is called, its exit code is returned. No logic.

May import every other room; nothing heavy is imported before a command needs it.

app.py     the application, and the commands that read results
models.py  `models`, and the options of loading that commands share
suites.py  `suites` and the commands below it
train.py   `train` and `ablate`
"""
