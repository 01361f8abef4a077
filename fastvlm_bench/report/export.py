"""Rows as CSV, LaTeX, Markdown and JSON. All have their columns from one list, `report.columns.SOURCES`."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.best_cell import is_sweep
from fastvlm_bench.analysis.generation import generation_line
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.analysis.verdict import INVALID, judge, judged_rows, stamped
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.records.document_frequencies import FREQUENCIES, cider_df
from fastvlm_bench.records.record import Run
from fastvlm_bench.records.storage import check_target_file, finite, write_output
from fastvlm_bench.report.columns import columns, row_dict
from fastvlm_bench.report.contexts import context_values, contexts_csv
from fastvlm_bench.report.csv_text import to_csv
from fastvlm_bench.report.eval_results import eval_results
from fastvlm_bench.report.labels import labels
from fastvlm_bench.report.numbers import interval
from fastvlm_bench.report.page_columns import header, shown
from fastvlm_bench.report.sample_export import sample_lines
from fastvlm_bench.report.sweep import sweep_json
from fastvlm_bench.visible import visible

TABLE_COLUMNS = (
    "model", "suite", "split", "method", "samples_ok", "decode_speedup_geomean", "e2e_speedup_geomean", "identical",
    "ttft_s_median", "tpot_s_median", "decode_tokens_per_s", "alpha", "tau", "peak_allocated_bytes", "peak_rss_bytes",
)  # fmt: skip
"""What fits a page: the columns of `rows_latex` and `rows_markdown`, followed by the suites' metrics."""


def save(path: Path, text: str | Iterable[str]) -> None:
    """Write text as UTF-8, as `write_output` does, with its line feeds as they are. WriteFailed if that fails.

    A long text may come in pieces. A lone surrogate becomes a question mark.
    """
    pieces = [text] if isinstance(text, str) else text
    write_output(Path(path), (piece.encode("utf-8", "replace") for piece in pieces))


def deliver(make: Callable[[], str | Iterable[str]], out: Path | None) -> None:
    """Print a text or write it to the file of --out, which is looked at before the text is made. UsageError for it."""
    if out is None:
        text = make()
        sys.stdout.writelines([text] if isinstance(text, str) else text)
    else:
        check_target_file(out, "--out")
        save(out, make())


# ------------------------------------------------------------------------------------------ CSV and JSON


def rows_csv(rows: Sequence[Row], excel_safe: bool = False) -> str:
    """One line per suite x method; empty means not measured. For pandas: `dtype=str, keep_default_na=False`."""
    names = columns()
    return to_csv(
        [column.name for column in names], ([column.read(row) for column in names] for row in rows), excel_safe
    )


def run_json(run: Run, rows: Sequence[Row] | None = None) -> str:
    """What `--json` prints: the run without its samples, its rows, warnings and verdict."""
    rows = summarise(run) if rows is None else rows
    verdict = judge(run, rows)
    rows = stamped(rows, verdict)
    meta = {name: value for name, value in run.meta.items() if name != "suites"}
    meta["suites"] = [
        {**{name: value for name, value in suite.items() if name not in ("samples", FREQUENCIES)},
         **({"cider_df": cider_df(suite, run.meta["config"])} if "cider_d" in suite["metrics"] else {})}
        for suite in run.meta["suites"]
    ]  # fmt: skip
    meta |= {"warnings": [notice.as_dict() for notice in verdict.warnings], "verdict": verdict.as_dict()}
    document = {**meta, "rows": [row_dict(row) for row in rows], "contexts": list(context_values(run, verdict.status))}
    if is_sweep(run):
        document["swept"] = sweep_json(run, rows)
    return json.dumps(finite(document), allow_nan=False, indent=1) + "\n"


# ------------------------------------------------------------------------------------------ LaTeX and Markdown


def _page(rows: Sequence[Row], names: Sequence[str] | None) -> tuple[list[str], list[list[str]]]:
    """Headers in words and cells of a table for a page, with the columns of these names (KeyError for an unknown one).

    None is `TABLE_COLUMNS` and the metrics, without the columns that are empty in every row.
    """
    by_name = {column.name: column for column in columns()}
    own = dict.fromkeys(quality.metric for row in rows for quality in row.quality)
    wanted = [*TABLE_COLUMNS, *(f"quality_{m}" for m in own if m in metrics.METRICS)] if names is None else list(names)
    cells = {name: [by_name[name].read(row) for row in rows] for name in wanted}
    if "method" in cells:
        cells["method"] = labels(rows)
    kept = [name for name in wanted if names is not None or any(value is not None for value in cells[name])]

    def cell(name: str, row: Row, value: Any) -> str:
        if by_name[name].interval:
            low, high = (by_name[name + suffix].read(row) for suffix in ("_low", "_high"))
            if low is not None and high is not None:
                return interval(value, low, high)
        return shown(name)(value)

    body = [[cell(name, row, cells[name][i]) for name in kept] for i, row in enumerate(rows)]
    place = kept.index("method") if "method" in kept else 0
    for row, line in zip(rows, body, strict=True):
        if row.status == INVALID:  # in every table, whatever its columns are
            line[place] = f"{line[place]} (INVALID)".strip()
    return [header(name) for name in kept], body


def rows_markdown(rows: Sequence[Row], names: Sequence[str] | None = None) -> str:
    """A table in GitHub's Markdown, with the columns named, or by default those that fit a page."""
    return markdown_table(*_page(rows, names))


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown; what would be markup in a cell is escaped."""
    escapes = str.maketrans({"\\": "\\\\", "|": "\\|", "\n": " ", "_": "\\_", "*": "\\*", "<": "&lt;"})

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(visible(cell).translate(escapes) for cell in cells) + " |"

    return (
        "\n".join(["| " + " | ".join(header) + " |", "|" + " --- |" * len(header), *(line(cells) for cells in body)])
        + "\n"
    )


LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "α": r"$\alpha$", "τ": r"$\tau$", "γ": r"$\gamma$", "Δ": r"$\Delta$", "×": r"$\times$", "–": "--",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "\n": " ",
})  # fmt: skip


def rows_latex(rows: Sequence[Row], names: Sequence[str] | None = None) -> str:
    """A booktabs tabular with the columns named, or by default those that fit a page; everything is escaped."""
    return latex_table(*_page(rows, names), words=("model", "suite", "split", "method"))


def latex_table(header: Sequence[str], body: Sequence[Sequence[str]], words: Sequence[str]) -> str:
    """A booktabs tabular, everything escaped. words: the columns that are aligned left."""
    spec = "".join("l" if name in words else "r" for name in header)
    lines = [" & ".join(visible(cell).translate(LATEX) for cell in cells) + r" \\" for cells in [header, *body]]
    top = ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{spec}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def run_markdown(run: Run, rows: Sequence[Row] | None = None) -> str:
    """`summary.md` of a run: the table, the warnings and the verdict."""
    rows = summarise(run) if rows is None else rows
    verdict = judge(run, rows)
    rows = stamped(rows, verdict)
    reasons = "".join(f"\n- {reason}" for reason in verdict.reasons)
    warnings = "".join(f"\n- **{notice.name}** {notice.message}" for notice in verdict.warnings)
    model = run.meta["model"]
    return (
        f"# {run.run_id}\n\n{model['id']}, {model['dtype']}, {model['device']}; reference {run.meta['reference']}. "
        f"{_generation(run)}Speed-ups are geometric means of reference / method with 95 % "
        f"intervals; docs/measuring.md explains the columns.\n\n{rows_markdown(rows)}"
        + (f"\n## Warnings\n{warnings}\n" if warnings else "")
        + f"\n## {verdict.status}\n{reasons}\n"
    )


def _generation(run: Run) -> str:
    line = generation_line(run)
    return line and f"{line[0].upper()}{line[1:]}. "


FORMATS = ("csv", "samples-csv", "contexts-csv", "latex", "markdown", "json")
OF_ONE_RUN = "eval-results"
"""A further format, which takes one run: a model has one value for each task."""


def _check(
    form: str, names: Sequence[str] | None = None, dataset: str | None = None, method: str | None = None,
    excel_safe: bool = False,
) -> None:  # fmt: skip
    """UsageError for a form or a column that there is not, and for what belongs to another form."""
    known_forms = (*FORMATS, OF_ONE_RUN)
    if form not in known_forms:
        choice = f"{did_you_mean(form, known_forms)}; choose one of: {', '.join(known_forms)}"
        raise UsageError(f"unknown format '{form}'{choice}")
    if (dataset or method) and form != OF_ONE_RUN:
        raise UsageError(f"--dataset and --method are for eval-results; {form} has every method")
    if excel_safe and not form.endswith("csv"):
        raise UsageError(f"--excel-safe is for csv and samples-csv, and contexts-csv; no spreadsheet opens {form}")
    known = [column.name for column in columns()]
    for name in names or ():
        if name not in known:
            raise UsageError(f"unknown column '{name}'{did_you_mean(name, known)}; docs/measuring.md lists them")
    if names and form not in ("latex", "markdown"):
        raise UsageError(f"--columns is for latex and markdown; {form} always has every column")


def export_pieces(
    runs: Sequence[Run], form: str, names: Sequence[str] | None = None, *, excel_safe: bool = False, **more: Any
) -> Iterable[str]:
    """What `export_runs` gives, in pieces: the table of samples line by line, for it may be as long as a data set."""
    if form != "samples-csv":
        return [export_runs(runs, form, names, excel_safe=excel_safe, **more)]
    _check(form, names, excel_safe=excel_safe, **more)
    return sample_lines(runs, excel_safe)


def export_runs(
    runs: Sequence[Run], form: str, names: Sequence[str] | None = None, *, dataset: str | None = None,
    method: str | None = None, excel_safe: bool = False,
) -> str:  # fmt: skip
    """Runs in one of `FORMATS`: one table of all of them, or as JSON one object, and an array of several.

    names: the columns of a LaTeX or Markdown table. dataset, method: as in `eval_results`. excel_safe: as in `to_csv`.
    UsageError for an unknown format or column, and for what belongs to another format.
    """
    _check(form, names, dataset, method, excel_safe)
    if form == OF_ONE_RUN:
        if len(runs) > 1:
            raise UsageError(f"eval-results is of one run, not of {len(runs)}: name its folder")
        return eval_results(runs[0], judged_rows(runs[0])[0], dataset, method)
    if form == "samples-csv":
        return "".join(sample_lines(runs, excel_safe))
    if form == "contexts-csv":
        first, *others = (contexts_csv(run, excel_safe) for run in runs)
        return first + "".join(text[text.index("\n") + 1 :] for text in others)
    if form == "json":
        objects = [run_json(run) for run in runs]
        return objects[0] if len(objects) == 1 else "[\n" + ",\n".join(text.rstrip() for text in objects) + "\n]\n"
    judged = [judged_rows(run) for run in runs]
    rows = [row for own, _ in judged for row in own]
    if form == "csv":
        return rows_csv(rows, excel_safe)
    why = [visible(f"INVALID, do not publish: {run.run_id}: {'; '.join(verdict.reasons)}")
           for run, (_, verdict) in zip(runs, judged, strict=True) if verdict.status == INVALID]  # fmt: skip
    if form == "latex":
        return rows_latex(rows, names) + "".join(f"% {' '.join(text.split())}\n" for text in why)
    return rows_markdown(rows, names) + "".join(f"\n{' '.join(text.split())}\n" for text in why)
