"""What figures and the page compare: one kind of speed-up for all methods, and batches where those were timed."""

import re
from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.records.record import Run
from fastvlm_bench.report import html_browser
from fastvlm_bench.report.figure_data import Data, Series, series_of
from fastvlm_bench.report.figures import FIGURES, inline_svg, places_of, reading_of, render
from fastvlm_bench.report.html import html_of
from fastvlm_bench.report.picture_style import styled
from fastvlm_bench.report.sentences import best

from .test_batches import grouped

LABELS = ("standard", "fastvlm", "fastvlm:gamma=4", "early-exit")
COMPARED = ("speedup-by-length", "speedup-distribution", "speedup-quality", "speedup-memory")
"""The figures of speed-ups."""


def of(*runs: Run) -> list[Series]:
    return series_of(runs, [summarise(run) for run in runs], runs[0].meta["suites"][0]["name"])


def data_of(name: str, series: Sequence[Series]) -> Data:
    return next(kind for kind in FIGURES if kind.name == name).data(series)


def texts(name: str, series: Sequence[Series]) -> str:
    """What a figure says, on its axes, too."""
    kind = next(kind for kind in FIGURES if kind.name == name)
    with styled("--plots"):
        svg = inline_svg(render(kind, kind.data(series), places_of(series)), "x", kind.title)
    return " ".join(re.findall(r">([^<>]+)</(?:text|tspan)>", svg))


def short(line: dict[str, Any], *methods: str) -> dict[str, Any]:
    """Answers of one token of these methods: they have no decoding."""
    if line["method"] not in methods:
        return line
    return {**line, "token_ids": line["token_ids"][-1:], "decode_s": 0.0, "rounds": []}


SHORTS = {"none": (), "one": ("early-exit",), "all": LABELS}
EACH = [(name, list(SHORTS)[place % 3]) for place, name in enumerate(COMPARED)]


@pytest.mark.parametrize(("name", "which"), covering(product(COMPARED, SHORTS), EACH[:2]))
def test_a_figure_has_one_kind_of_speedup_and_names_it(name: str, which: str, fake: SimpleNamespace) -> None:
    shorts = SHORTS[which]
    series = of(fake.run(suites=[fake.suite(n=8)], labels=LABELS, change=lambda line: short(line, *shorts)))
    data, by = data_of(name, series), "e2e" if shorts else "decode"
    assert {row["speedup_of"] for row in data} == {by}
    assert {row["series"] for row in data if row[f"{by}_speedup"] is not None} >= {one.name for one in series[1:]}
    for row in data:
        if row["method"] in shorts and row["method"] != "standard":
            assert row["decode_speedup"] is None, "end to end is not called decode"
    assert ("end-to-end speed-up" in texts(name, series)) == bool(shorts)
    assert ("decode speed-up" in texts(name, series)) != bool(shorts)


def test_where_there_is_no_ratio_there_is_no_figure(fake: SimpleNamespace) -> None:
    alone = of(fake.run(change=lambda line: None if line["method"] != "standard" else line))
    assert not any(data_of(name, alone) for name in ("speedup-by-length", "speedup-distribution"))
    bare = of(fake.run(suites=[fake.suite(metrics=["rouge_l"])], change=fake.failed))
    assert not any(data_of(name, bare) for name in COMPARED)


def test_no_methods_decoding_is_ranked_against_anothers_whole_request(fake: SimpleNamespace) -> None:
    """End to end, the method without decoding is the faster one; the other's decoding alone is faster still."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        scale = {"standard": (1.0, 1.0), "prompt-lookup": (1.0, 0.05), "hf-generate": (0.5, 1.0)}[line["method"]]
        if line["sample_id"] < "020":  # of which hf-generate answers no other
            return {**short(line, *labels), "ttft_s": scale[0]}
        return (dict(fake.failed(line)) if line["method"] == "hf-generate" else
                {**line, "ttft_s": scale[0], "decode_s": line["decode_s"] * scale[1]})  # fmt: skip

    labels = ("standard", "prompt-lookup", "hf-generate")
    run = fake.run(labels=labels, change=change)
    said = best(run, summarise(run))
    assert said.startswith("Fastest end to end of 2 lossless methods") and ": hf-generate answers" in said


FEW = ("speedup-memory", "accepted-per-round")


@pytest.mark.parametrize("kind", covering(FIGURES, lambda kind: kind.name in FEW), ids=lambda kind: kind.name)
def test_a_lossy_method_is_called_so_in_every_picture(kind: Any, fake: SimpleNamespace) -> None:
    """By what it is, or by what one of its outputs shows."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        return line | ({"losslessness": {"outcome": "violation"}, "token_ids": [9, *line["token_ids"][1:]]}
                       if (line["method"], line["sample_id"]) == ("fastvlm:gamma=4", "003") else {})  # fmt: skip

    series = of(fake.run(suites=[fake.suite(n=8)], labels=LABELS, change=change))
    told = {row["method"]: row["lossless"] for row in kind.data(series)}
    assert told == {name: name in ("standard", "fastvlm") for name in told}
    if told:
        shown = texts(kind.name, series)
        assert shown.count("(lossy)") == list(told.values()).count(False)
    assert [one.marked.endswith(" (lossy)") for one in series] == [False, False, True, True]


# ------------------------------------------------------------------------------------------ failed samples


def test_failed_samples_are_missing_in_sight_and_means_are_over_common_ones(fake: SimpleNamespace) -> None:
    """One method fails on the longest samples: it would else seem to be the faster one in the mean."""
    lost = ("000", "001", "002")

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["sample_id"] not in lost:
            return line
        return dict(fake.failed(line)) if line["method"] == "fastvlm" else {**line, "ttft_s": 100 * line["ttft_s"]}

    series = of(fake.run(suites=[fake.suite(n=8)], labels=LABELS, change=change))
    for kind in FIGURES:
        told = {row["method"]: (row["samples"], row["samples_planned"]) for row in kind.data(series)}
        assert told.get("fastvlm", (5, 8)) == (5, 8), kind.name
        if kind.data(series):
            assert ("fastvlm (n = 5/8)" in texts(kind.name, series).replace("\n", " ")) == ("fastvlm" in told)
    parts = data_of("phases", series)
    assert {row["samples"] for row in parts} == {5}
    means = {name: sum(row["mean_s"] for row in parts if row["method"] == name) for name in LABELS}
    for one in series:
        kept = [sample.e2e_s for name, sample in one.arm.measured.items() if name not in lost]
        assert means[one.row.method] == pytest.approx(sum(kept) / len(kept))


# ------------------------------------------------------------------------------------------ batches


def batched(fake: SimpleNamespace) -> Run:
    """Batches of 4, of which one is slow."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        own = grouped(4)(line)
        slow = 50 if line["method"] == "fastvlm" and own["batch"]["id"] == 4 else 1
        return {**own, "decode_s": own["decode_s"] * slow}

    made: Run = fake.run(suites=[fake.suite(n=24)], change=change, meta={"config": {"batch_size": 4}})
    return made


def test_a_point_of_a_batch_is_called_a_batch_and_opens_no_sample(fake: SimpleNamespace) -> None:
    run = batched(fake)
    series = of(run)
    by_length = next(kind for kind in FIGURES if kind.name == "speedup-by-length")
    assert reading_of(by_length, series).startswith("Each point is a batch.")
    assert reading_of(by_length, of(run, fake.run())).startswith("Each point is a batch or sample.")
    for name in ("speedup-by-length", "speedup-distribution"):
        assert {row["observation"] for row in data_of(name, series)} == {"batch"}
        assert "of a batch, ×" in texts(name, series)
    assert not any(html_browser.points(series)) and any(html_browser.points(of(fake.run())))


@pytest.mark.slow
def test_only_a_page_whose_points_open_samples_says_so(fake: SimpleNamespace) -> None:
    assert "Press a point" not in html_of([batched(fake)]) and "Press a point" in html_of([fake.run()])


def test_samples_have_the_speedup_of_their_batch(fake: SimpleNamespace) -> None:
    series = of(batched(fake))
    told = html_browser.browser_of([series]).suites[0]
    ratios = {sample["id"]: sample["answers"][1]["ratio"] for sample in told["samples"]}
    known = {ratio.sample_id: ratio.decode for ratio in series[1].ratios}
    assert ratios == {name: pytest.approx(known[f"batch {int(name) // 4}"], rel=1e-3) for name in ratios}
    assert told["series"][1]["ratio"] == "decode speed-up of its batch"
    assert {"016", "017", "018", "019"} <= set(html_browser.choose(series, 12)), "the slowest batch"
    assert html_browser.browser_of([of(fake.run())]).suites[0]["series"][1]["ratio"] == "decode speed-up"
