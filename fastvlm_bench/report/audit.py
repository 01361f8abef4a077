"""Prints and exports an audit of other tools' results files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from fastvlm_bench.analysis.audit import Audit, Method
from fastvlm_bench.analysis.audit_rows import Audited
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.records.storage import finite
from fastvlm_bench.report.csv_text import cell_text, to_csv
from fastvlm_bench.report.export import latex_table, markdown_table
from fastvlm_bench.report.layout import NOTHING, Cells, draw, say
from fastvlm_bench.report.numbers import interval, number, ratio

if TYPE_CHECKING:
    from rich.console import Console

PAGE = ("file", "topic", "samples", "same_first_turn", "same_text", "speedup_geomean", "speedup_totals",
        "speedup_per_token", "length_ratio", "alpha", "tau")  # fmt: skip
"""The columns of LaTeX and Markdown."""


def _flat(row: Audited) -> dict[str, Any]:
    """A row by columns: each interval is three of them."""
    found: dict[str, Any] = {}
    kinds = get_type_hints(Audited)
    for field in fields(Audited):
        value = getattr(row, field.name)
        if Estimate in get_args(kinds[field.name]):
            parts = (None,) * 3 if value is None else (value.value, value.low, value.high)
            found |= dict(zip((field.name, f"{field.name}_low", f"{field.name}_high"), parts, strict=True))
        else:
            found[field.name] = value
    return found


def _rows(audit: Audit) -> list[Audited]:
    return [row for method in audit.methods for row in (method.whole, *method.topics)]


def audit_json(audit: Audit) -> str:
    """The reference, and for each method its numbers, warnings and topics."""
    methods = [
        {**{name: value for name, value in _flat(method.whole).items() if name != "topic"},
         "warnings": [notice.as_dict() for notice in method.warnings],
         "topics": [_flat(row) for row in method.topics]}
        for method in audit.methods
    ]  # fmt: skip
    document = {"reference": audit.reference, "samples": audit.samples, "notes": audit.notes, "methods": methods}
    return json.dumps(finite(document), allow_nan=False, indent=1) + "\n"


def audit_csv(audit: Audit) -> str:
    """One line per method and topic ("" is all of them), in full precision."""
    rows = [{"reference": audit.reference, **_flat(row)} for row in _rows(audit)]
    return to_csv(list(rows[0]), (list(row.values()) for row in rows))


def _page(audit: Audit) -> tuple[list[str], list[list[str]]]:
    def cell(value: Any) -> str:
        if isinstance(value, Estimate):
            if value.low is None or value.high is None:
                return f"{value.value:.3f}"
            return interval(value.value, value.low, value.high, digits=3)
        return f"{value:.3f}" if isinstance(value, float) else cell_text(value)

    cells = {name: [cell(getattr(row, name)) for row in _rows(audit)] for name in PAGE}
    kept = [name for name in PAGE if any(cells[name])]
    return kept, [list(line) for line in zip(*(cells[name] for name in kept), strict=True)]


FORMATS: dict[str, Callable[[Audit], str]] = {
    "csv": audit_csv,
    "latex": lambda audit: latex_table(*_page(audit), words=("file", "topic")),
    "markdown": lambda audit: markdown_table(*_page(audit)),
    "json": audit_json,
}


def check_format(form: str) -> None:
    """UsageError unless it is "table" or one of `FORMATS`."""
    if form != "table" and form not in FORMATS:
        known = ("table", *FORMATS)
        raise UsageError(f"unknown format '{form}'{did_you_mean(form, known)}; choose one of: {', '.join(known)}")


def exported(audit: Audit, form: str) -> str:
    """An audit in one of `FORMATS`; UsageError for another."""
    check_format(form)
    return FORMATS[form](audit)


def print_audit(audit: Audit, console: "Console | None" = None) -> None:
    """Print an audit on a terminal of any width: all samples, then by topic, then the warnings of each method."""
    from rich.console import Console

    console = Console() if console is None else console
    say(console, f"reference {audit.reference} ({audit.chosen}) · {audit.tool} · {audit.samples} samples", "bold")
    for note in audit.notes:
        say(console, f"reference: {note}", "yellow")
    console.print()
    wholes = [method.whole for method in audit.methods]
    draw(console, Cells("file", tuple(row.file for row in wholes), "left"), _columns(wholes))
    for method in audit.methods:
        _print_method(console, method)
    console.print()
    say(console, "×: reference's seconds / this file's on the same samples, above 1 is faster; 95 % intervals over "
        "samples. geometric mean: what a request gains; totals: what the whole job gains; of rates: ratio of mean "
        "tokens/s over samples, with the files' own counts. docs/measuring.md has the formulas", "dim")  # fmt: skip


def _print_method(console: "Console", method: Method) -> None:
    console.print()
    whole = method.whole
    say(console, f"{whole.file}: the reference's first answer in {whole.same_first_turn} of {whole.samples} samples, "
        f"all turns in {whole.same_text}" + _speed(whole), "bold")  # fmt: skip
    if method.topics:
        console.print()
        topics = Cells("topic", tuple(row.topic or NOTHING for row in method.topics), "left")
        draw(console, topics, _columns(method.topics))
        console.print()
    if method.example is not None:
        sample, reference, other = method.example
        say(console, f"the first sample that differs is {sample}: reference '{reference}', here '{other}'")
    for notice in method.warnings:
        say(console, f"{notice.name}: {notice.message}", "yellow")


def _speed(row: Audited) -> str:
    if row.speedup_geomean is None or row.speedup_totals is None:
        return ""
    return f"; {row.speedup_geomean.value:.3f}× by the geometric mean, {row.speedup_totals.value:.3f}× by totals"


def _columns(rows: Sequence[Audited]) -> list[Cells]:
    def column(header: str, cell: Callable[[Audited], str]) -> Cells:
        return Cells(header, tuple(cell(row) for row in rows))

    return [
        column("samples\npaired", lambda r: str(r.samples)),
        column("same first\nanswer", lambda r: f"{r.same_first_turn}/{r.samples}"),
        column("same\nall turns", lambda r: f"{r.same_text}/{r.samples}"),
        column("geometric\nmean × ↑", lambda r: ratio(r.speedup_geomean)),
        column("totals\n× ↑", lambda r: ratio(r.speedup_totals)),
        column("per token\n× ↑", lambda r: number(r.speedup_per_token)),
        column("of rates\n× ↑", lambda r: number(r.speedup_of_rates)),
        column("length\nratio", lambda r: number(r.text_length_ratio if r.length_ratio is None else r.length_ratio)),
        column("α ↑\n", lambda r: number(r.alpha)),
        column("accepted\n/drafted", lambda r: number(r.draft_acceptance_rate)),
        column("τ ↑\n", lambda r: number(r.tau)),
    ]
