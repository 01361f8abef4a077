"""The page of `report --html` as text: hostile texts stay text, runs side by side, images, and its size."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from hostile_texts import HOSTILE, LABELS, hostile
from results.conftest import BUILDERS
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.report import html_browser
from fastvlm_bench.report.html import html_of, write_html
from fastvlm_bench.report.one_screen import short_labels
from fastvlm_bench.report.plots import write_plots

pytestmark = pytest.mark.usefixtures("quick_bounds")

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden-v1"


class Tags(HTMLParser):
    """What a parser finds: the elements, the addresses that they would fetch, and the handlers they would run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.inside = ""
        self.labels: set[str] = set()
        self.sheets: list[str] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        """Texts of figures, and style sheets."""
        if self.inside in ("text", "tspan"):
            self.labels.add(data)
        if self.inside == "style":
            self.sheets.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.inside = tag
        for name, value in attrs:
            outside = not (value or "").startswith(("#", "data:"))
            if name in ("src", "href", "srcset", "action", "data", "xlink:href") and outside:
                self.fetched.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.handlers.append(f"{tag} {name}")


@pytest.fixture(scope="module")
def hostile_page() -> str:
    return html_of([hostile(BUILDERS)])


def test_hostile_texts_stay_text(hostile_page: str) -> None:
    """Only our elements, nothing fetched, no handler; and the policy names the only script that may run."""
    text = hostile_page
    found = Tags(text)
    assert found.names.count("script") == 2 and not found.fetched and not found.handlers
    assert "img" not in found.names and text.count("<!--") == 0
    assert "{{7*7}}" in text and ">49<" not in text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.S)
    assert json.loads(data)["suites"][0]["samples"][0]["prompt"] == HOSTILE
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'$", policy)


def test_labels_that_look_like_markup_stay_labels_in_figures(hostile_page: str) -> None:
    """Letter by letter as they are, and no rule of a style sheet is a label's."""
    found = Tags(hostile_page)
    assert set(short_labels(LABELS)) <= found.labels
    figures = found.sheets[1:]  # the first is the page's own
    assert figures and not [label for label in LABELS for sheet in figures if label in sheet or "zoom" in sheet]
    assert all(re.fullmatch(r"(\.s\d[\w-]*\{[^{}]*\})*", sheet) for sheet in figures)


def test_several_runs_stand_side_by_side_and_what_differs_is_said(fake: SimpleNamespace) -> None:
    own = [fake.suite("vqav2", n=6)]
    first = fake.run(suites=own)
    text = html_of([first, fake.run(suites=own, meta={"run_id": "other", "model": {"dtype": "bfloat16"}})])
    assert {"A: fastvlm", "B: fastvlm"} <= set(re.findall(r"[AB]: \w+", text.replace("<wbr>", "")))
    assert "Not comparable" in text and "float32 / bfloat16" in text


def test_images_are_shown_where_they_are_and_unchanged(fake: SimpleNamespace) -> None:
    """Of the suite's own samples; one that it lacks, a changed picture and a suite that is nowhere are said."""
    ids = [{"sample_id": name, "image_id": name, "prompt": "", "references": ["a"]} for name in ("1", "2", "none")]
    entry = fake.suite(n=3, samples=ids)

    def told(**changes: Any) -> tuple[Any, str]:
        run = fake.run(suites=[{**entry, **changes}], meta={"config": {"limit": None}})
        own = html_browser.browser_of([_series(run)])
        return [sample["image"] for sample in own.suites[0]["samples"]], own.suites[0]["images"]

    assert told() == ([0, 1, None], "1 images are not shown: the suite here does not have them.")
    places, reason = told(images_sha256="0" * 64)
    assert places == [None] * 3 and "not the ones that were measured" in reason
    places, reason = told(name="no-such-caption")
    assert places == [None] * 3 and "no-such-caption" in reason


@pytest.mark.usefixtures("hub_may_be_asked")
def test_no_report_asks_the_network(fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *told, **_: asked.append(told))
    monkeypatch.setattr("socket.getaddrinfo", lambda *told, **_: asked.append(told))
    entry = fake.suite("textvqa", n=2, split="val", source="hf:owner/set")
    run = fake.run(suites=[entry], meta={"config": {"data": "hf:owner/set"}})
    told = html_browser.browser_of([_series(run)]).suites[0]["images"]
    assert asked == [] and "is not in the hub's cache" in told


def test_rounds_are_coloured_with_and_without_the_text_of_tokens(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[fake.suite(n=3)], tokens=9)
    line = next(line for line in run.lines if line["method"] == "fastvlm")
    old = html_browser.rounds_of(line, None)
    assert old[0][2] == "p" and all(texts is None for *_, texts in old)
    for (_, _, kinds, _), (_, tested, accepted, emitted, *_) in zip(old[1:], line["rounds"], strict=True):
        assert (kinds.count("a"), kinds.count("r")) == (min(accepted, emitted), tested - accepted)
    new = {**line, "token_chars": [len(line["text"]), *[0] * 8], "rejected_ids": [], "rejected_pieces": []}
    for _, tested, accepted, *_ in line["rounds"]:
        new["rejected_ids"].append([5] * (tested - accepted))
        new["rejected_pieces"].append([" no"] * (tested - accepted))
    told = html_browser.rounds_of(new, line)
    assert [kinds for _, _, kinds, _ in told] == [kinds for _, _, kinds, _ in old]
    pairs = [pair for _, _, kinds, texts in told for pair in zip(kinds, texts, strict=True)]
    assert "".join(text for kind, text in pairs if kind != "r") == line["text"]
    assert told[0][1] is None and told[-1][1] == pytest.approx(1.0, abs=0.01)


def _series(run: Run) -> Any:
    from fastvlm_bench.analysis.summary import summarise
    from fastvlm_bench.report.figure_data import series_of

    return series_of([run], [summarise(run)], run.meta["suites"][0]["name"])


def test_a_big_run_shows_what_matters(fake: SimpleNamespace) -> None:
    """Beyond the cap: what failed or differs, and the slowest, are there whatever their place."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] != "standard" and line["sample_id"] == "057":
            return {**line, "token_ids": [9, 2]}
        return {**line, "decode_s": 9.0} if line["method"] != "standard" and line["sample_id"] == "058" else line

    shown = html_browser.choose(_series(fake.run(suites=[fake.suite(n=60)], change=change)), 20)
    assert len(shown) == 20 and {"057", "058", "000"} <= set(shown)


def without_fastvlm(line: dict[str, Any]) -> dict[str, Any] | None:
    return None if line["method"] == "fastvlm" else line


ODD: dict[str, dict[str, Any]] = {
    "reference only": {"labels": ("standard",)},
    "a method without lines": {"change": without_fastvlm},
    "one-token answers": {"tokens": 1},
    "repeats": {"repeats": 3},
    "sampled": {"meta": {"config": {"temperature": 1.0}}},
    "vision not told apart": {"change": lambda line: {**line, "vision_s": None, "prefill_s": line["ttft_s"]}},
    "ranks": {"change": lambda line: {**line, "text": "", "ranks": {"sum": [1, 2], "mean": [2, 1]}}},
    "batches": {"change": lambda line: {**line, "batch": {"id": 0, "size": 4, "row": int(line["sample_id"]),
                                                          "ttft_s": 1.0, "decode_s": 2.0}}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("odd", [*ODD, "all failed", "one sample", "no metrics"])
def test_odd_records_become_a_page_and_figures(odd: str, fake: SimpleNamespace, tmp_path: Path) -> None:
    entry = fake.suite(n=1 if odd == "one sample" else 4, **({"metrics": []} if odd == "no metrics" else {}))
    options = {"change": fake.failed} if odd == "all failed" else ODD.get(odd, {})
    run = fake.run(suites=[entry], **options)
    text = html_of([run])
    seen = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    assert not re.search(r"\b(nan|NaN|None|inf)\b", seen)
    assert all(path.stat().st_size for path in write_plots([run], tmp_path, "svg"))
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.S)
    answers = [answer for sample in json.loads(data)["suites"][0]["samples"] for answer in sample["answers"]]
    if odd == "sampled":
        assert {answer["same"] for answer in answers} == {None}


@pytest.mark.slow
def test_the_page_of_200_samples_and_5_methods_is_small(fake: SimpleNamespace) -> None:
    """Below 5 MB with long answers, the text of every token, and an image of 6 kB for each sample."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        words = " ".join(f"word{token}" for token in line["token_ids"])
        chars = [len(f"word{token} ") for token in line["token_ids"]]
        lost = [[7] * (tested - accepted) for _, tested, accepted, *_ in line["rounds"]]
        return {**line, "text": words + " ", "token_chars": chars, "rejected_ids": lost,
                "rejected_pieces": [[" rejected"] * len(each) for each in lost]}  # fmt: skip

    labels = ("standard", *(f"fastvlm:gamma={gamma}" for gamma in (2, 4, 6, 8)))
    text = html_of([fake.run(suites=[fake.suite(n=200)], labels=labels, tokens=120, change=change)])
    assert len(text.encode()) + 200 * 6000 * 4 / 3 < 5_000_000


def test_the_command_writes_the_page_and_refuses_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(GOLDEN), "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0 and (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert str(tmp_path / "page.html") in done.output.replace("\n", "")
    for path in (tmp_path, tmp_path / "no" / "page.html"):
        with pytest.raises(UsageError, match="--html"):
            write_html([read_run(GOLDEN)], path)


def test_the_sample_page_is_of_its_record() -> None:
    """It is what `report results/demo --html results/demo.html` writes."""
    page = ROOT / "results" / "demo.html"
    text, run = page.read_text(encoding="utf-8"), read_run(ROOT / "results" / "demo")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.S)
    told = json.loads(data)["suites"]
    expected = html_browser.browser_of([_series(run)]).suites
    assert told == json.loads(json.dumps(expected)), "make it again"
    assert run.run_id in text and page.stat().st_size < 1_500_000
