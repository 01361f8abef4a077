"""The data: suite files, images, the official formats (`readers/`), and the samples that they give.

May import the rooms below `engine`, and never brings torch.

suite.py            loads a suite: finds, checks and hashes its files
definition.py       reads `suites/<name>.toml`
files.py            where the files of a suite lie, and what is missing
annotations.py      entries and documents, shared by the readers
results_formats.py  the official formats of results
check.py            what `suites check` finds
show.py             what `suites` and `suites show` print
prepare.py          what `suites prepare` downloads
contact_sheet.py    the picture of `suites sheet`
"""
