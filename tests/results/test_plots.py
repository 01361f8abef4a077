"""The figures of `report --plots`: each has its data beside it, both widths, embedded fonts, and colours apart."""

import csv
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.report import figure_data, picture_style, plots
from fastvlm_bench.report.figures import FIGURES
from fastvlm_bench.report.plots import write_plots

GOLDEN = Path(__file__).parent / "golden-v1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plots")
    assert CliRunner().invoke(app, ["report", str(GOLDEN), "--plots", str(made)]).exit_code == 0
    return made


def series(run: Run) -> list[figure_data.Series]:
    return figure_data.series_of([run], [summarise(run)], run.meta["suites"][0]["name"])


@pytest.mark.slow
def test_each_figure_has_both_widths_and_its_data(folder: Path) -> None:
    tables = sorted(folder.glob("*.csv"))
    assert len(tables) > 4 and len(list(folder.iterdir())) == 3 * len(tables)
    for table in tables:
        assert all((folder / f"{table.stem}-{width}.pdf").stat().st_size > 1000 for width in picture_style.WIDTHS)
        rows = list(csv.DictReader(table.open(newline="", encoding="utf-8")))
        assert rows and {"run_id", "suite", "method", "series"} <= set(rows[0])


@pytest.mark.slow
def test_fonts_are_embedded_and_widths_are_those_of_a_page(folder: Path) -> None:
    for path in folder.glob("*.pdf"):
        data = path.read_bytes()
        assert b"/FontFile2" in data and b"/Type3" not in data
        (width,) = {float(match) for match in re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", data)}
        name = "one-column" if "one-column" in path.name else "two-column"
        assert width == pytest.approx(72 * picture_style.WIDTHS[name])


def test_the_data_are_the_numbers_of_the_rows(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[fake.suite(n=30)])
    own = series(run)
    _, drafting = summarise(run)
    rows = [row for row in figure_data.speedup_distribution(own) if row["method"] == "fastvlm"]
    told = drafting.speedup.decode_speedup_geomean
    assert told is not None and len(rows) == 30
    assert {row["decode_speedup_geomean"] for row in rows} == {told.value}
    product = 1.0
    for row in rows:
        product *= row["decode_speedup"]
    assert product ** (1 / 30) == pytest.approx(rows[0]["decode_speedup_geomean"])
    places = figure_data.acceptance_by_position(own)
    assert tuple(row["accepted_share"] for row in places) == drafting.acceptance.acceptance_by_position
    accepted = figure_data.accepted_per_round(own)
    assert sum(row["rounds_share"] for row in accepted) == pytest.approx(1)
    assert sum(row["rounds"] for row in accepted) == drafting.acceptance.rounds
    shares = [row["share"] for row in figure_data.phases(own) if row["method"] == "fastvlm"]
    assert sum(share or 0 for share in shares) == pytest.approx(1)
    memory = [row["peak_delta_bytes"] for row in figure_data.speedup_memory(own)]
    assert memory == [0, drafting.memory.peak_rss_delta_bytes]


def test_what_was_not_measured_makes_no_figure(fake: SimpleNamespace) -> None:
    bare = series(fake.run(labels=("standard",), change=lambda line: {**line, "memory": {}}))
    assert {kind.name for kind in FIGURES if kind.data(bare)} == {"phases", "speedup-quality"}


@pytest.mark.slow
@pytest.mark.parametrize("form", picture_style.FORMATS)
def test_pictures_are_the_same_each_time(form: str, fake: SimpleNamespace, tmp_path: Path) -> None:
    run = fake.run(suites=[fake.suite("vqav2", n=6)])
    first, second = (write_plots([run], tmp_path / name, form) for name in "ab")
    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in second]
    if form == "png":
        pictures = [Image.open(path) for path in first if path.suffix == ".png"]
        assert pictures and all(picture.info["dpi"][0] == pytest.approx(300, abs=1) for picture in pictures)


@pytest.mark.slow
def test_names_of_methods_are_no_formulas_and_suites_no_paths(fake: SimpleNamespace, tmp_path: Path) -> None:
    methods = [fake.method("standard"), {**fake.method("fastvlm"), "label": r"fastvlm:draft=$\frac{$"}]
    made = write_plots([fake.run(suites=[fake.suite("../caption", n=5)], methods=methods)], tmp_path / "in", "svg")
    assert made and all(path.parent == tmp_path / "in" for path in made)


SHARED = ("run_id", "suite", "method", "series", "lossless", "samples", "samples_planned")
EXPLAINED = ("sample_id", "decode_speedup", "e2e_speedup", "e2e_speedup_geomean", "speedup_of", "observation",
             "metric_title", "higher_is_better",
             "quality", "peak_bytes", "extra_weights_bytes", "phases_by", "part", "memory_kind")  # fmt: skip
"""Columns of a figure's data that bear the name of one that is explained elsewhere, or say themselves what they are."""
BLIND = {
    "deuteranopia": ((0.3673, 0.8606, -0.2280), (0.2801, 0.6725, 0.0474), (-0.0118, 0.0429, 0.9689)),
    "protanopia": ((0.1523, 1.0526, -0.2049), (0.1145, 0.7863, 0.0992), (-0.0039, -0.0481, 1.0520)),
}
"""What becomes of red, green and blue (Machado et al. 2009, severity 1)."""


@pytest.mark.parametrize("matrix", BLIND.values(), ids=BLIND)
def test_colours_stay_apart_for_colour_blind_readers(matrix: tuple[tuple[float, ...], ...]) -> None:
    shades = [[int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
              for text in (picture_style.INK, *picture_style.COLOURS)]  # fmt: skip
    seen = [[sum(m * c for m, c in zip(row, shade, strict=True)) for row in matrix] for shade in shades]
    apart = [math.dist(a, b) for place, a in enumerate(seen) for b in seen[:place]]
    assert min(apart) > 0.1


def test_every_figure_and_column_is_explained(fake: SimpleNamespace) -> None:
    page = (Path(__file__).parents[2] / "docs" / "measuring.md").read_text(encoding="utf-8").split("## Figures")[1]
    assert all(f"`{name}`" in page.split("| figure |")[0] for name in SHARED)
    table = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page.split("## Columns")[0], flags=re.M))
    assert list(table) == [kind.name for kind in FIGURES]
    run = fake.run(suites=[fake.suite(n=6)])
    for kind in FIGURES:
        for column in (kind.data(series(run)) or [{}])[0]:
            stem = re.sub(r"_(low|high)$", "", column)
            known = stem in SHARED or f"`{stem}" in table[kind.name]
            assert known or stem in EXPLAINED, f"{kind.name}: {column}"


def test_methods_are_told_apart_by_more_than_colour() -> None:
    looks = [(picture_style.colour(place), picture_style.marker(place)) for place in range(40)]
    assert len(set(looks)) == 40


@pytest.mark.parametrize(("form", "words"), [("gif", "pdf, png, svg"), ("pfd", "did you mean")])
def test_unknown_formats_are_refused(form: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        write_plots([read_run(GOLDEN)], tmp_path, form)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--plots"):
        write_plots([read_run(GOLDEN)], tmp_path / "file" / "in", "pdf")


def test_figures_of_runs_that_are_not_comparable_say_so(
    fake: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "figures_of", lambda series: [])
    first = fake.run()
    write_plots([first, fake.run(meta={"run_id": "other", "model": {"dtype": "bfloat16"}})], tmp_path)
    assert "warning: Not comparable: " in (told := capsys.readouterr().err) and "float32 / bfloat16" in told
    write_plots([first], tmp_path)
    assert capsys.readouterr().err == ""
