"""The report at several widths and encodings: complete numbers, no line too long, the sentence that sums up."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering
from rich.console import Console

from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.layout import Cells, break_label, draw
from fastvlm_bench.report.memory_picture import draw_memory
from fastvlm_bench.report.numbers import mebibytes, milliseconds, number, ratio, share
from fastvlm_bench.report.one_screen import print_screen
from fastvlm_bench.report.sentences import conclusion, describe
from fastvlm_bench.report.terminal import print_report

pytestmark = pytest.mark.usefixtures("quick_bounds")

LONG = "fastvlm:gamma=6,exit_layer=2,head=attention,stop_below=0.25"


@pytest.fixture
def run(fake: SimpleNamespace) -> Run:
    """Two suites, four methods, one of them lossy, one with a long label."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] != "early-exit":
            return line
        rounds = [[1, 0, 0, 1, 0.0016, 0.0] for _ in line["token_ids"][1:]]
        text = "a blue thing" if int(line["sample_id"]) % 3 == 0 else line["text"]
        return {**line, "rounds": rounds, "decode_s": 0.0018 * len(rounds), "text": text}

    made: Run = fake.run(suites=[fake.suite(n=30), fake.suite("vqa-v2", n=30)], repeats=2, change=change,
                         labels=("standard", LONG, "fastvlm", "early-exit"))  # fmt: skip
    return made


def printed(run: Run, width: int, **options: Any) -> str:
    stream = io.StringIO()
    print_report(run, Console(width=width, file=stream, _environ={}, **options))
    return stream.getvalue()


@pytest.mark.parametrize("width", covering([80, 100, 120, 200], [80]))
def test_fits_and_cuts_nothing(run: Run, width: int) -> None:
    text = printed(run, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in summarise(run):
        for value in (
            ratio(row.speedup.decode_speedup_geomean), ratio(row.speedup.e2e_speedup_geomean),
            milliseconds(row.times.ttft_s.median), milliseconds(row.times.tpot_s.median),
            number(row.times.decode_tokens_per_s, 1), number(row.acceptance.tau), mebibytes(row.memory.peak_rss_bytes),
            share(row.phases.phase_verify), number(row.costs.predicted_decode_speedup),
        ):  # fmt: skip
            assert value in text
        for accepted in [" ".join(f"{a * 100:.0f}" for a in row.acceptance.acceptance_by_position)]:
            assert accepted in text


def test_narrow_and_wide_show_the_same_columns(run: Run) -> None:
    headers = ("decode", "end-to-end", "same", "TTFT", "TPOT", "BLEU-4", "ROUGE-L", "CIDEr-D", "VQA acc.", "peak RSS",
               "α ↑", "τ ↑", "/drafted", "at position", "draft", "verify", "other", "predicted", "/predicted",
               "ceiling", "head", "vision", "prefill")  # fmt: skip
    for width in (80, 200):
        text = printed(run, width)
        assert [header for header in headers if header not in text] == []


@pytest.mark.parametrize("kind", ["rss", "allocated"])
def test_one_difference_of_memory_and_none_of_a_shared_process(fake: SimpleNamespace, kind: str) -> None:
    """Resident memory's peak is that of all methods of a process, so its difference says nothing."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "memory": {**line["memory"], f"peak_{kind}_bytes": 2**29}}

    run = fake.run(change=change)
    screen = io.StringIO()
    print_screen(run, Console(width=160, file=screen, _environ={}))
    for text in (printed(run, 160), screen.getvalue()):
        assert ("Δ peak" in text or "MiB (Δ)" in text) == (kind == "allocated"), text


def test_titles_name_model_split_source_and_machine(run: Run) -> None:
    text = " ".join(printed(run, 100).split())
    assert "tiny · float32 · cpu · 2 threads · attention sdpa" in text
    assert "coco-caption 1 · split embedded · embedded (rendered scenes) · n = 30 × 2 repeats" in text
    assert "at most 40 tokens · reference standard" in text


def test_ascii_and_no_colour(run: Run) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    print_report(run, Console(width=80, file=stream, _environ={"NO_COLOR": "1"}))
    text = raw.getvalue().decode("ascii")
    assert "\x1b" not in text and "?" not in text
    assert "gamma=6" in text and "decode" in text and max(map(len, text.splitlines())) <= 80


def test_colour_only_where_the_terminal_has_it(run: Run) -> None:
    assert "\x1b" not in printed(run, 100)
    assert "\x1b" in printed(run, 100, force_terminal=True, color_system="standard")


def test_text_of_users_is_not_markup(fake: SimpleNamespace) -> None:
    suite = fake.suite(n=5, source="/data/[red]coco[/red] :smile:", metrics=[])
    assert "/data/[red]coco[/red] :smile:" in printed(fake.run(suites=[suite]), 200)


def test_verdict_and_warnings_are_printed(run: Run, fake: SimpleNamespace) -> None:
    text = printed(run, 100)
    assert text.rstrip().endswith("VALID") and "EmbeddedData: coco-caption, vqa-v2" in text and "ShortOutputs" in text
    bad = " ".join(printed(fake.run(suites=[fake.suite(n=2)], status="interrupted"), 100).split())
    assert "INVALID: the run is interrupted, not finished; go on with --resume run; coco-caption, fastvlm: 2" in bad


def test_a_run_without_any_measurement_is_printed(fake: SimpleNamespace) -> None:
    for change in (fake.failed, lambda line: None):
        text = " ".join(printed(fake.run(suites=[fake.suite(n=3)], change=change), 80).split())
        assert "nan" not in text and "inf" not in text and "None" not in text and "INVALID" in text
        assert "nothing was measured together with standard" in text


@pytest.mark.parametrize(
    ("estimate", "identical", "expected"),
    [
        (Estimate(2.31, 2.25, 2.37, 200), 200, "decodes 2.31× faster than standard [2.25, 2.37], end to end 1.50× "
         "[1.40, 1.60], identical on 200 of 200."),
        (Estimate(0.85, 0.80, 0.90, 200), 198, "decodes 0.85× as fast as standard [0.80, 0.90]: it is slower, end to "
         "end 1.50× [1.40, 1.60], identical on 198 of 200."),
        (Estimate(1.0, 0.995, 1.005, 200), 200, "decodes as fast as standard, 1.00× [0.99, 1.00], end"),
        (Estimate(1.1, 0.9, 1.3, 200), 200, "decodes 1.10× as fast as standard [0.90, 1.30]: too few samples or too "
         "much noise to tell, end"),
        (None, 200, "answers 1.50× faster than standard [1.40, 1.60], identical on 200 of 200."),
    ],
)  # fmt: skip
def test_conclusion(
    fake: SimpleNamespace, estimate: Estimate | None, identical: int, expected: str
) -> None:  # fmt: skip
    run = fake.run(suites=[fake.suite(n=5, metrics=[])])
    row = summarise(run)[1]
    e2e = Estimate(1.5, 1.4, 1.6, 200)
    changed = replace(
        row,
        speedup=replace(row.speedup, decode_speedup_geomean=estimate, e2e_speedup_geomean=e2e),
        sameness=replace(row.sameness, identical=identical),
        counts=replace(row.counts, samples_paired=200),
    )
    assert conclusion(run, changed).startswith(f"fastvlm(γ=6, exit 2, attention head) {expected}")
    assert conclusion(run, summarise(run)[0]) == ""


def test_describe_without_options(fake: SimpleNamespace) -> None:
    assert describe(fake.method("standard")) == "standard"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(ratio(Estimate(2.314, 2.25, 2.371, 9)), "2.31× [2.25, 2.37]"),
     (ratio(Estimate(8.04, 6.0, 10.2, 9)), "8.0× [6.0, 10.2]"),
     (ratio(Estimate(2.0, None, None, 1)), "2.00×"), (ratio(None), "–"), (number(None), "–"), (share(0.125), "12 %"),
     (milliseconds(0.00483), "4.83"), (milliseconds(0.0499), "49.9"), (milliseconds(1.234), "1234"),
     (mebibytes(3 * 2**20, True), "+3.0")],
)  # fmt: skip
def test_numbers(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize("label", [LONG, "fastvlm:draft=" + "x" * 90, "standard", "a,b"])
def test_break_label_keeps_every_character(label: str) -> None:
    broken = break_label(label, 26)
    assert broken.replace("\n  ", "") == label
    assert max(map(len, broken.split("\n"))) <= 28


@pytest.mark.parametrize("width", [40, 80])
def test_stacked_tables_repeat_the_label_and_keep_every_column(width: int) -> None:
    stream = io.StringIO()
    columns = [Cells(f"column {i}", (f"{i}{i}{i}", "–")) for i in range(12)] + [Cells("empty", ("–", "–"))]
    draw(Console(width=width, file=stream, _environ={}), Cells("method", ("first", "second"), "left"), columns)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert all(f"column {i}" in text and f"{i}{i}{i}" in text for i in range(12))
    assert text.count("first") == text.count("method") > 1
    assert "empty" not in text


def test_memory_is_taken_apart_and_drawn(fake: SimpleNamespace, tmp_path: Path) -> None:
    part = {"suite": "coco-caption", "sample_id": "029", "kind": "rss", "how": "kernel", "weights_bytes": 35 * 2**20,
            "head_bytes": 0, "cache_bytes": 2**20, "activation_bytes": 3 * 2**20, "rest_bytes": 400 * 2**20,
            "peak_bytes": 439 * 2**20, "reserved_bytes": None, "device_used_bytes": None}  # fmt: skip
    parts = [{**part, "method": "standard"},
             {**part, "method": "fastvlm", "head_bytes": 2**21, "peak_bytes": 441 * 2**20}]  # fmt: skip
    outside = [{"model_load_s": 1.25, "first_call_s": {"standard": 0.5, "fastvlm": 0.25}}]
    run = fake.run(meta={"memory": parts, "outside": outside},
                   change=lambda line: {**line, "image_s": 0.001, "processor_s": 0.002})  # fmt: skip
    text = " ".join(printed(run, 100).split())
    assert "35.0 0.0 1.0 3.0 400.0 439.0 –" in text and "35.0 2.0 1.0 3.0 400.0 441.0 +2.0" in text
    assert "image 1.00 ms, processor 2.00 ms; once: model load 1.2 s, first call standard 0.50 s" in text
    pytest.importorskip("matplotlib")
    draw_memory(run, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
    for name, message in (("memory.txt", "must end in .png"), ("no/memory.png", "choose another")):
        with pytest.raises(UsageError, match=message):
            draw_memory(run, tmp_path / name)
    with pytest.raises(UsageError, match="run it again"):
        draw_memory(fake.run(), tmp_path / "memory.png")


def test_phases_of_hooks_replace_those_of_the_clock(fake: SimpleNamespace) -> None:
    phases = {"vision_s": 0.1, "prefill_s": 0.1, "draft_s": 0.2, "verify_s": 0.4, "other_s": 0.2}
    own = summarise(fake.run(change=lambda line: {**line, "phases": phases}))[1].phases
    assert (own.phase_vision, own.phase_verify, own.phases_by) == (pytest.approx(0.1), pytest.approx(0.4), "events")
    for row in summarise(fake.run()):
        own = row.phases
        shares = (own.phase_vision, own.phase_prefill, own.phase_draft, own.phase_verify, own.phase_other)
        assert sum(share or 0 for share in shares) == pytest.approx(1) and own.phases_by == "clock"
        assert own.phase_other is not None and own.phase_other > 0


def test_energy_stands_beside_idle_power_or_its_absence_is_said(fake: SimpleNamespace) -> None:
    blocks = [{"method": method, "seconds": 5.0, "joules": joules, "tokens": 500, "samples": 9}
              for method, joules in (("standard", 1000.0), ("fastvlm", 600.0))]  # fmt: skip
    there = {"source": "rapl", "idle_w": 40.0, "blocks": [*blocks, *reversed(blocks)]}
    text = " ".join(printed(fake.run(meta={"energy": {"coco-caption": there}}), 100).split())
    assert "standard 2.000 1.00 200.0 40.0" in text and "fastvlm 1.200 0.60 120.0 40.0" in text
    reason = {"source": None, "reason": "no RAPL package"}
    text = printed(fake.run(meta={"energy": {"coco-caption": reason}}), 100)
    assert "energy: not measured: no RAPL package" in text and "J/token" not in text
