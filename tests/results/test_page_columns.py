"""Tables for a page: headers in words with units, MiB, milliseconds, points; intervals that do not contradict words."""

import re
from types import SimpleNamespace

import pytest

from fastvlm_bench import metrics
from fastvlm_bench.analysis.speedup import SLOWER, word
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.report.columns import columns
from fastvlm_bench.report.export import rows_latex, rows_markdown, run_markdown
from fastvlm_bench.report.numbers import MIB, interval, ratio
from fastvlm_bench.report.page_columns import header, metric_of, part_of, shown

NAMES = [column.name for column in columns()]


def test_every_column_has_a_header_in_words_of_its_own() -> None:
    headers = [header(name) for name in NAMES]
    assert not [one for one in headers if "_" in one]
    assert len(set(headers)) == len(headers), sorted({h for h in headers if headers.count(h) > 1})


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_bytes")])
def test_bytes_are_mebibytes(name: str) -> None:
    assert header(name).endswith("(MiB)") and float(shown(name)(3 * MIB)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_units_are_of_what_the_column_holds(name: str) -> None:
    """By the ends of names: `_per_s` is a rate, other seconds are milliseconds; counts and ranks of metrics stay."""
    part = part_of(name)
    factor, unit = 1.0, None
    if name.endswith("_per_s"):
        unit = "/s"
    elif name.endswith("_bytes"):
        factor, unit = 1 / MIB, "(MiB)"
    elif re.search(r"_s(_median|_p5|_p95|_per_token|_per_round)?$", name):
        factor, unit = 1000.0, "(ms)"
    elif part is not None:
        factor, unit = (100.0, "(0-100)") if part.kind == "share" else (1.0, None)
    elif metric_of(name):
        return  # the next test
    assert float(shown(name)(0.5)) == pytest.approx(0.5 * factor, abs=0.05 if "_bytes" in name else 0)
    assert header(name).endswith(unit) if unit else "(" not in header(name)


@pytest.mark.parametrize("metric", metrics.names())
def test_scores_are_on_the_scale_that_the_header_names(metric: str) -> None:
    scale = metrics.kind_of(metric).scale
    for end in ("", "_delta"):
        assert f"({metrics.kind_of(metric).unit})" in header(f"quality_{metric}{end}")
        assert float(shown(f"quality_{metric}{end}")(0.5)) == 0.5 * scale
    assert shown(f"quality_{metric}_won")(7) == "7" and "(" not in header(f"quality_{metric}_won")


def test_a_page_has_words_and_latex_that_every_engine_takes(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[fake.suite(n=6)])
    text = rows_latex(summarise(run))
    assert text.isascii() and r"$\alpha$" in text and "TTFT (ms)" in text and "peak RSS (MiB)" in text
    assert not re.search(r"[a-z]\\_[a-z]", text)
    cells = [line.split("|")[1:-1] for line in rows_markdown(summarise(run)).splitlines()]
    values = dict(zip((cell.strip() for cell in cells[0]), (cell.strip() for cell in cells[3]), strict=True))
    row = summarise(run)[1]
    assert float(values["peak RSS (MiB)"]) == pytest.approx((row.memory.peak_rss_bytes or 0) / MIB, abs=0.1)
    assert float(values["TTFT (ms)"]) == pytest.approx((row.times.ttft_s.median or 0) * 1000, rel=0.01)
    assert float(values["BLEU-4 (0-100)"]) == pytest.approx((row.quality[0].value or 0) * 100, abs=0.1)
    assert "Seconds and bytes" not in run_markdown(run)


@pytest.mark.parametrize(("low", "high"), [(0.97, 0.998), (0.9, 0.9996), (1.0004, 1.2), (0.2, 0.9999), (1.002, 3.5)])
def test_a_bound_beside_one_does_not_read_as_one(low: float, high: float) -> None:
    """An interval that leaves out 1 shows it, or SLOWER and FASTER would contradict what is printed."""
    estimate = Estimate((low + high) / 2, low, high, 40)
    assert word(estimate) == (SLOWER if high < 1 else "FASTER")
    for text in (ratio(estimate), interval(estimate.value, low, high)):
        below, above = (float(bound) for bound in text[text.index("[") + 1 : -1].split(", "))
        assert below > 1 or above < 1, text


def test_usual_intervals_keep_two_digits() -> None:
    assert ratio(Estimate(2.35, 2.3, 2.4, 40)) == "2.35× [2.30, 2.40]"
    assert ratio(Estimate(1.0, 0.996, 1.004, 40)) == "1.00× [1.00, 1.00]", "it holds 1, and no word says otherwise"
