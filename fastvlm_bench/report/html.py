"""`report --html FILE`: one self-contained page of a run or several. It opens from disk and requests nothing.

The page is `page/report.html.j2`, filled by Jinja2 with autoescape, because captions, ids and labels are whatever a
data set says. Its policy (CSP) forbids every request and every script but its own, whose hash it names.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvlm_bench.analysis.generation import generation_line
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.analysis.verdict import Verdict, judge
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run
from fastvlm_bench.records.storage import check_target_file
from fastvlm_bench.report.compare import obstacles
from fastvlm_bench.report.export import save
from fastvlm_bench.report.figure_data import Series, run_names, series_of, suite_names
from fastvlm_bench.report.figures import figures_of, inline_svg, places_of, reading_of, render
from fastvlm_bench.report.html_browser import Browser, browser_of, points
from fastvlm_bench.report.html_table import Column, table_columns
from fastvlm_bench.report.one_screen import left_out
from fastvlm_bench.report.picture_style import MARKERS, colour, marker, styled
from fastvlm_bench.report.sentences import best, conclusion
from fastvlm_bench.report.terminal import headline, suite_headline

OPTION = "--html"
PAGE = Path(__file__).with_name("page")


@dataclass(frozen=True)
class PictureView:
    """A figure on the page. svg: trusted text of matplotlib's; everything else is escaped.

    pressed: whether its points are samples that can be opened.
    """

    title: str
    reading: str
    svg: str
    pressed: bool


@dataclass(frozen=True)
class SuiteView:
    """What the page says of one suite, over all runs that have it."""

    name: str
    headlines: tuple[str, ...]
    series: tuple[Series, ...]
    columns: tuple[Column, ...]
    pictures: tuple[PictureView, ...]
    absent: tuple[str, ...]
    legend: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class RunView:
    """What the page says of one run as a whole. best: of each suite the sentence on its fastest lossless method.

    sentences: those of all lossless methods, where there are more.
    """

    letter: str
    run: Run
    headline: str
    generation: str
    verdict: Verdict
    best: tuple[str, ...]
    sentences: tuple[str, ...]
    left_out: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


def write_html(runs: Sequence[Run], path: Path, rows: Sequence[Sequence[Row]] | None = None) -> int:
    """Write the page of these runs, side by side. rows: those of each run, where they are known. Returns its bytes.

    UsageError without Jinja2 or matplotlib, and for a file that cannot be written.
    """
    check_target_file(path, OPTION)
    text = html_of(runs, rows)
    save(path, text)
    return len(text.encode("utf-8", "replace"))


def html_of(runs: Sequence[Run], rows: Sequence[Sequence[Row]] | None = None) -> str:
    """The page as text; the same text for the same records and images."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise UsageError(f"{OPTION} needs Jinja2: pip install 'fastvlm-bench[html]'") from None
    rows = [summarise(run) for run in runs] if rows is None else rows
    told = [_run_view(letter, run, own) for letter, run, own in zip(run_names(runs), runs, rows, strict=True)]
    names = suite_names(runs)
    with styled(OPTION):
        suites = [_suite_view(name, number, series_of(runs, rows, name)) for number, name in enumerate(names)]
    browser = browser_of([view.series for view in suites])
    script, sheet = (PAGE / "report.js").read_text(encoding="utf-8"), (PAGE / "report.css").read_text(encoding="utf-8")
    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters["pieces"] = pieces
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        title=" and ".join(dict.fromkeys(run.meta["model"]["id"] for run in runs)) + ": " + ", ".join(names),
        runs=told, suites=suites, differing=obstacles(runs), browser=browser, data=embedded_json(browser),
        script=script, sheet=sheet, script_sha256=digest,
    )  # fmt: skip


def embedded_json(browser: Browser) -> str:
    """The browser's data as JSON that cannot end the element it stands in, whatever the captions say."""
    text = json.dumps(browser.as_dict(), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _run_view(letter: str, run: Run, rows: Sequence[Row]) -> RunView:
    known = {name: value for name, value in run.meta.get("environment", {}).items() if name != "reasons"}
    model = {f"model {name}": value for name, value in run.meta["model"].items()}
    config = {f"--{name.replace('_', '-')}": value for name, value in run.meta["config"].items()
              if value not in (None, False, [], ())}  # fmt: skip
    told = {**model, **config, **known, "started": run.meta.get("started_at"), "ended": run.meta.get("completed_at")}
    said = [f"{row.suite}: {text}" for row in rows if (text := conclusion(run, row))]
    first = [f"{suite}: {text}" for suite in suite_names([run])
             if (text := best(run, [row for row in rows if row.suite == suite]))]  # fmt: skip
    return RunView(
        letter, run, headline(run), generation_line(run), judge(run, rows),
        tuple(first), tuple(said) if len(said) > len(first) else (), tuple(left_out(run)),
        tuple((name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
              for name, value in told.items() if value is not None),
    )  # fmt: skip


def pieces(label: str) -> list[str]:
    """A method's label in pieces that a narrow column may break apart: after its colons and commas."""
    return re.split(r"(?<=[:,])", label)


def _suite_view(name: str, number: int, series: Sequence[Series]) -> SuiteView:
    pictures, absent = [], []
    for kind in figures_of(series):
        data = kind.data(series)
        if data:
            figure = render(kind, data, places_of(series), legend=False)
            svg = inline_svg(figure, f"s{number}-{kind.name}", kind.title)
            pressed = "data-points=" in svg and any(points(series))
            pictures.append(PictureView(kind.title, reading_of(kind, series), svg, pressed))
        else:
            absent.append(kind.title)
    heads = dict.fromkeys(suite_headline(one.row) for one in series)
    legend = tuple((one.marked, MARKERS[marker(one.place)], colour(one.place)[1:]) for one in series)
    return SuiteView(name, tuple(heads), tuple(series), tuple(table_columns(series)), tuple(pictures), tuple(absent),
                     legend)  # fmt: skip
