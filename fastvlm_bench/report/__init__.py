"""What people see: tables on a terminal, CSV, LaTeX, Markdown, JSON, pictures. Numbers are computed in `analysis`.

May import the rooms below `checks`, and never brings torch.

one_screen.py      the report of a run on one screen of a terminal
terminal.py        the whole report of a run on a terminal
sentences.py       what is said of methods in sentences
answers.py         an answer token by token, round by round
shown.py           which answers `show` prints, and the same as a picture
quality_tables.py  the tables of quality in that report
contexts.py        the table of acceptance and speed by context length, and its CSV
breakdown.py       the tables of phases, energy and the parts of memory in that report
compare.py         the tables of `compare`
batch_table.py     the table over batch sizes
sweep.py           of a sweep: its grids, the best cell, what cannot be told from it
audit.py           tables and exports of `audit`
layout.py          tables that fit a terminal of any width
labels.py          names of rows that say in what rows of the same method differ
numbers.py         how numbers are written
columns.py         the columns of CSV and JSON, in order, and the group of `analysis` that has each of them
export.py          CSV, LaTeX, Markdown and JSON, one row per suite and method
eval_results.py    scores as the YAML that a model's repository on the Hub shows
trackers.py        `--report-to`: Weights & Biases, MLflow
sample_export.py   every sample as CSV
page_columns.py    how a column of the CSV looks on a page: words, MiB, milliseconds, points
csv_text.py        how a value is written in CSV
frames.py          rows and samples as pandas data frames
memory_picture.py  the parts of memory as a picture
picture_style.py   the one style of all pictures
figure_data.py     the data of each figure
drawing.py         how each figure is drawn from its data
figures.py         the figures by name; a figure as a picture or as an SVG for a page
html.py            `report --html`: the page of a run or several, with the template, style and script in page/
html_table.py      the main table of that page
html_browser.py    the samples' browser of that page
thumbnails.py      small pictures of samples
plots.py           `report --plots`: the figures for a paper, with their data
"""
