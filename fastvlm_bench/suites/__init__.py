"""The data: suite files, images, the official formats (`readers/`), and the samples that they give.

May import the rooms below `engine`, and never brings torch.

catalogue.py        which suites there are, and where their files lie
suite.py            loads a suite: finds, checks and hashes its files
definition.py       reads `suites/<name>.toml`
files.py            where the official files of a suite lie, and what is missing
where.py            whether a split is read from official files, a table, or the hub
image_files.py      opens an image file: which kinds, how many pixels, to its last byte
hub_data.py         files of a folder or of a repository of the hub
tables.py           a split from parquet or arrow files, images unpacked
table_definition.py  what a suite file declares about its table
table_files.py      which files hold a table's rows
table_rows.py       reads them by columns and batches
table_entries.py    their rows as entries
turns.py             samples of several turns and images, shared by the readers
line_breaks.py      characters that other scorers take for the end of a line
choices.py          multiple-choice questions, shared by the readers
annotations.py      entries and documents, shared by the readers
results_formats.py  the official formats of results
check.py            what `suites check` finds
show.py             what `suites` and `suites show` print
prepare.py          what `suites prepare` downloads
remote_zip.py       single files out of an archive on a server
contact_sheet.py    the picture of `suites sheet`
"""
