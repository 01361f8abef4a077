"""The report on one screen: what fits, what is dropped first, the one sentence, each warning once."""

import io
import re
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering
from rich.console import Console

from fastvlm_bench.analysis.notices import Notice
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.report.html import html_of
from fastvlm_bench.report.layout import Cells
from fastvlm_bench.report.one_screen import DROPPED, fitting, merged, print_screen, short_labels
from fastvlm_bench.report.terminal import print_report

from .test_schema import COMMITTED, meta_of

pytestmark = pytest.mark.usefixtures("quick_bounds")

TWELVE = ("standard", "fastvlm", "fastvlm:head=attention", "fastvlm:head=twig", "fastvlm:head=attention,exit_layer=2",
          *(f"fastvlm:head=mlp,exit_layer={n},gamma=4" for n in (2, 4, 8)), "layerskip:exit_layer=1,gamma=4",
          "layerskip:exit_layer=8,gamma=4", "early-exit", "hf-generate")  # fmt: skip


def printed(run: Run, width: int, **options: Any) -> str:
    stream = io.StringIO()
    print_screen(run, Console(width=width, file=stream, _environ={}, **options))
    return stream.getvalue()


def lines_of(run: Run, width: int) -> list[str]:
    return printed(run, width).splitlines()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_twelve_methods_fit_one_screen(fake: SimpleNamespace, width: int) -> None:
    lines = lines_of(fake.run(labels=TWELVE), width)
    assert len(lines) <= 40 and max(map(len, lines)) <= width
    assert sum("[" in line and "–" in line for line in lines) == len(TWELVE) - 1, "every method has its interval"


LARGE = [folder for folder in COMMITTED if len(meta_of(folder)["methods"]) >= 12]
WIDTHS = (80, 120)


@pytest.mark.parametrize(
    ("folder", "width"),
    covering(product(LARGE, WIDTHS), [(LARGE[0], WIDTHS[0])]),
    ids=lambda value: getattr(value, "name", None),
)
def test_committed_runs_fit_one_screen(folder: Any, width: int) -> None:
    lines, methods = lines_of(read_run(folder), width), len(meta_of(folder)["methods"])
    assert len(lines) <= (40 if methods <= 12 else 4 * methods), "more methods: a few lines each"
    assert max(len(line) for line in lines if not line.startswith("records: ")) <= width


def test_columns_are_dropped_in_the_stated_order(fake: SimpleNamespace) -> None:
    rows = summarise(fake.run(labels=("standard", "fastvlm", "early-exit")))
    label, before, gone = Cells("method", tuple(row.method for row in rows), "left"), None, list[str]()
    for width in range(200, 20, -1):
        names = list(fitting(label, rows, width))
        gone += [name for name in before or () if name not in names]
        before = names
    assert gone == [name for name in DROPPED if name in gone] and before == ["decode"]
    assert {"memory", "τ", "α", "TPOT", "TTFT", "quality", "same", "end-to-end"} == set(gone)


def test_the_numbers_are_those_of_the_rows(fake: SimpleNamespace) -> None:
    row = summarise(run := fake.run())[1]
    text = " ".join(printed(run, 120).split())
    value, low, high = (f"{n:.2f}" for n in vars(row.speedup.decode_speedup_geomean).values() if isinstance(n, float))
    assert f"fastvlm {value} [{low}–{high}]" in text
    assert f"{row.sameness.identical}/{row.counts.samples_paired} " in text and f"{row.acceptance.tau:.2f}" in text
    assert text.count("VALID") == 1 and "records: run" in text and "report --details" in text


def test_settings_of_the_checkpoint_are_said_where_they_matter(fake: SimpleNamespace) -> None:
    usual = {"in_force": {"do_sample": False, "num_beams": 1, "eos_token_id": [2]}, "overridden": {}}
    other = {**usual, "overridden": {"do_sample": True}}
    assert "generation:" not in printed(fake.run(meta={"generation": usual}), 100)
    assert "not as the checkpoint asks: do_sample true" in printed(fake.run(meta={"generation": other}), 100)


def test_no_colour_and_ascii(fake: SimpleNamespace) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    print_screen(fake.run(), Console(width=80, file=stream, _environ={"NO_COLOR": "1"}))
    text = raw.getvalue().decode("ascii")
    assert "\x1b" not in text and "?" not in text and max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in printed(fake.run(), 100)
    assert "\x1b" in printed(fake.run(), 100, force_terminal=True, color_system="standard")


@pytest.mark.parametrize("change", ["failed", "nothing"])
def test_a_run_without_any_measurement(fake: SimpleNamespace, change: str) -> None:
    run = fake.run(suites=[fake.suite(n=3)], change=fake.failed if change == "failed" else lambda line: None)
    text = printed(run, 80)
    assert not re.search(r"\b(nan|inf|None)\b", text) and "INVALID" in text


def test_failed_samples_and_suites_without_metrics_are_shown(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        bad = line["method"] == "fastvlm" and line["sample_id"] in ("001", "002")
        return dict(fake.failed(line)) if bad else line

    text = printed(fake.run(suites=[fake.suite(metrics=[])], change=change), 80)
    assert "failed" in text and "CIDEr" not in text
    assert re.search(r"^fastvlm .* 38/38 +2/40 ", text, flags=re.M)


FEWER = list(product(("the same", "others"), ("standard", "fastvlm", "")))


@pytest.mark.parametrize(("texts", "fails"), covering(FEWER, [FEWER[4]]))
def test_a_difference_of_fewer_samples_says_so(fake: SimpleNamespace, fails: str, texts: str) -> None:
    """Its value is of other samples than the reference's, so that "=" beside another value would be a riddle."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] == fails and line["sample_id"] in ("001", "002"):
            return dict(fake.failed(line))
        return {**line, "text": "a car"} if (texts, line["method"]) == ("others", "fastvlm") else line

    run = fake.run(suites=[fake.suite(metrics=["rouge_l"])], change=change)
    console = Console(width=160, file=io.StringIO(), _environ={})
    print_report(run, console)
    for text in (printed(run, 160), printed(run, 100), console.file.getvalue(), html_of([run])):  # type: ignore[attr-defined]
        assert re.search(r"[=l\d], n = 38\)", text) if fails else ", n = " not in text


def test_each_kind_of_warning_is_printed_once() -> None:
    slow = [Notice("SlowerThanReference", f"coco, layerskip:exit_layer={n}: 0.9x as fast; try γ") for n in range(6)]
    assert merged([slow[0], Notice("EmbeddedData", "coco: embedded"), slow[1]]) == [
        "SlowerThanReference: coco, layerskip:exit_layer=0: 0.9x as fast; try γ (and 1 more)",
        "EmbeddedData: coco: embedded",
    ]
    assert merged(slow) == [f"SlowerThanReference: {slow[0].message} (and 5 more)"]


def test_short_labels() -> None:
    assert short_labels(TWELVE)[4:6] == ["fastvlm attention exit 2", "fastvlm mlp exit 2 γ4"]
    assert short_labels(["draft-model:model=/a/b/small/,gamma=3", "swift:x=1"]) == ["draft-model small γ3", "swift x=1"]
    alike = ["fastvlm:draft=a/one", "fastvlm:draft=b/one"]
    assert short_labels(alike) == alike
