"""The data: suite files, images, the official formats (`readers/`), and the samples that they give.

May import the rooms below `engine`, and never brings torch.

suite.py            loads a suite: found, checked, hashed
definition.py       reads `suites/<name>.toml`
files.py            where the files of a suite lie, and what is missing
annotations.py      entries and documents, shared by the readers
results_formats.py  the official formats of results
check.py            `suites check`
show.py             `suites` and `suites show`
prepare.py          `suites prepare`
contact_sheet.py    `suites sheet`
"""
