"""The committed ablation is what its records say, and what the table says of a draft comes from its manifest."""

import csv
import io
from functools import cache
from pathlib import Path
from typing import Any

from fastvlm_bench.ablation.table import COLUMNS, ablation_csv, ablation_markdown, ablation_rows
from fastvlm_bench.records.record import Run, read_run

FOLDER = Path(__file__).parents[2] / "results" / "ablation"


def runs() -> list[Run]:
    """The runs of the committed table: the plain target's, then those of models that were fine-tuned."""
    found = [read_run(path.parent) for path in sorted(FOLDER.glob("*/run.json"))]
    return sorted(found, key=lambda run: "phase_1" in run.meta["model"])


@cache
def committed_rows() -> list[Any]:
    return ablation_rows(runs())


def test_the_committed_table_is_what_the_records_say() -> None:
    rows = committed_rows()
    assert (FOLDER / "ablation.md").read_text(encoding="utf-8") == ablation_markdown(rows)
    assert (FOLDER / "ablation.csv").read_text(encoding="utf-8") == ablation_csv(rows)


def test_rows_tell_drafts_raw_exits_and_targets_apart() -> None:
    rows = committed_rows()
    raw = [row for row in rows if row["draft"] == "layerskip"]
    assert raw and all(row["parameters"] == 0 and row["losses"] == "" and row["held_out_alpha"] is None for row in raw)
    trained = {row["draft"]: row for row in rows if row["parameters"]}
    assert "kd" not in trained["attention-no-kd"]["losses"] and "kd 1" in trained["attention-exit1"]["losses"]
    assert trained["attention-no-refinement"]["refined"] == "no" and trained["attention-exit1"]["refined"] == "yes"
    tuned = [row for row in rows if row["target"] != "tiny"]
    assert tuned and all("phase 1" in row["target"] and row["quality_change"] for row in tuned)
    assert not any(row["quality_change"] for row in rows if row["target"] == "tiny")


def test_csv_has_every_column_at_full_precision() -> None:
    rows = committed_rows()
    read = list(csv.DictReader(io.StringIO(ablation_csv(rows))))
    assert list(read[0]) == list(COLUMNS) and len(read) == len(rows)
    assert [float(line["decode_speedup_geomean"]) for line in read] == [row["decode_speedup_geomean"] for row in rows]


def test_a_draft_of_two_methods_has_two_rows_that_are_told_apart() -> None:
    """What training promised of a block draft is for `fastvlm`, which decodes with its first place alone."""
    chain, block = [row for row in committed_rows() if row["head"] == "block"]
    assert (chain["draft"], block["draft"]) == ("block-exit1", "block-exit1, by block")
    assert chain["predicted_speedup"] and block["predicted_speedup"] is None and block["tau"] != chain["tau"]


def test_a_prediction_for_another_setting_says_for_which() -> None:
    """Predicted at γ 2 and measured at γ 10, the two do not stand side by side without a word."""
    rows = committed_rows()
    told = [row for row in rows if row["predicted_speedup"] is not None]
    others = [row for row in told if row["predicted_gamma"] != row["gamma"]]
    assert others
    for row in others:
        line = next(x for x in ablation_markdown(rows).splitlines() if f"| {row['draft']} |" in x)
        assert f"{row['predicted_speedup']:.2f} (at γ {row['predicted_gamma']}, stop" in line
    same = {**others[0], "gamma": others[0]["predicted_gamma"], "stop_below": others[0]["predicted_stop_below"]}
    assert "(at γ" not in ablation_markdown([same])
