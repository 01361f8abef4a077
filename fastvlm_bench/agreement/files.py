"""Writes a study: one JSON object, three tables as CSV, and the matrix as a picture."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastvlm_bench.agreement.rates import Rate
from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.agreement.study import Study
from fastvlm_bench.agreement.tables import copy_line, hierarchy_line
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.storage import check_target_file, finite
from fastvlm_bench.report.csv_text import to_csv
from fastvlm_bench.report.export import save
from fastvlm_bench.report.picture_style import FORMATS, INK, WIDTHS, blank, can_draw, save_picture, styled

RATES = ("exit", "exit_layer", "head", "by", "group", "agreement", "agreement_low", "agreement_high", "tokens",
         "images")  # fmt: skip
AGREEMENTS = ("exit", "deeper_exit", "agreement")
PREDICTED = ("exit", "exit_layer", "head", "gamma", "stop_below", "predicted_decode_speedup", "alpha", "tau", "copy")
TARGET = "target"
INCHES = 0.24
"""Of a cell of the picture."""


def check_files(json_file: Path | None, csv: Path | None, picture: Path | None) -> None:
    """UsageError, before anything is loaded, for files that could not be written."""
    for path, option in ((json_file, "--json"), (csv, "--csv"), (picture, "--picture")):
        if path is not None:
            check_target_file(path, option)
    if picture is not None:
        if picture.suffix.removeprefix(".") not in FORMATS:
            raise UsageError(f"--picture {picture}: its name must end with .{', .'.join(FORMATS)}")
        if not can_draw():
            raise UsageError("--picture needs matplotlib: pip install 'fastvlm-bench[plots]'")


def write(found: Study, json_file: Path | None, csv: Path | None, picture: Path | None) -> list[Path]:
    """Write what was asked for. Beside --csv lie NAME-matrix.csv and NAME-predicted.csv. Returns the files."""
    made: list[tuple[Path, Callable[[], str]]] = []
    matrix, predicted = matrix_rows(found), predicted_rows(found)
    if json_file is not None:
        made.append((json_file, lambda: json.dumps(finite(as_dict(found)), indent=1, ensure_ascii=False) + "\n"))
    if csv is not None:
        made += [
            (csv, lambda: to_csv(RATES, [list(_rate(rate).values()) for rate in found.rates])),
            (beside(csv, "matrix"), lambda: to_csv(AGREEMENTS, [list(row.values()) for row in matrix])),
            (
                beside(csv, "predicted"),
                lambda: to_csv(PREDICTED, [list(row.values()) for row in predicted]),
            ),
        ]
    for path, text in made:
        save(path, text())
    if picture is not None:
        draw_matrix(found, picture)
    return [path for path, _ in made] + ([picture] if picture is not None else [])


def beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.stem}-{what}{path.suffix}")


def _source(source: Source) -> dict[str, Any]:
    return {"exit": source.name, "exit_layer": source.exit_layer, "head": source.head}


def _rate(rate: Rate) -> dict[str, Any]:
    return {**_source(rate.source), "by": rate.by, "group": rate.group, "agreement": rate.share.value,
            "agreement_low": rate.share.low, "agreement_high": rate.share.high, "tokens": rate.tokens,
            "images": rate.images}  # fmt: skip


def matrix_rows(found: Study) -> list[dict[str, Any]]:
    """A row for each exit and each deeper one, the target last."""
    rows = []
    for source, shares, own in zip(found.sources, found.matrix.shares, found.matrix.target, strict=True):
        rows += [{"exit": source.name, "deeper_exit": deeper.name, "agreement": share}
                 for deeper, share in zip(found.sources, shares, strict=True) if share is not None]  # fmt: skip
        rows.append({"exit": source.name, "deeper_exit": TARGET, "agreement": own})
    return rows


def predicted_rows(found: Study) -> list[dict[str, Any]]:
    """A row for each cell."""
    return [
        {**_source(cell.source), "gamma": cell.gamma, "stop_below": cell.stop_below,
         "predicted_decode_speedup": cell.speedup, "alpha": cell.alpha, "tau": cell.tau,
         "copy": copy_line(cell.source, cell.gamma, cell.stop_below)} for cell in found.promises
    ]  # fmt: skip


def as_dict(found: Study) -> dict[str, Any]:
    """Everything, with the names of the CSV tables."""
    plain = ("model", "suite", "split", "answers", "texts", "images", "tokens", "forced", "device", "dtype", "threads",
             "standard_s")  # fmt: skip
    costs = []
    for source in found.sources:
        own = found.prices.of(source)
        costs.append({"exit": source.name, "standard_s": own.standard_s, "draft_s": own.draft_s,
                      "verify_s": list(own.verify_s)})  # fmt: skip
    against = found.against
    return {
        **{name: getattr(found, name) for name in plain},
        "rates": [_rate(rate) for rate in found.rates], "matrix": matrix_rows(found), "costs": costs,
        "predicted": predicted_rows(found),
        "hierarchies": [
            {**asdict(one), "levels": [level.name for level in one.levels], "copy": hierarchy_line(one)}
            for one in found.hierarchies
        ],
        "against": None if against is None else {
            "run_id": against.run_id, "samples": against.samples, "other_answers": against.other_answers,
            "within_5_percent": against.close, "cells": len(against.compared), "skipped": list(against.skipped),
            "methods": [{**asdict(one), "source": one.source.name, "error": one.error} for one in against.compared],
        },
    }  # fmt: skip


def draw_matrix(found: Study, picture: Path) -> None:
    """The matrix as a heat map: an exit a row, each deeper exit a column, the target last."""
    names, count, shares = [source.name for source in found.sources], len(found.sources), found.matrix.shares
    deeper = [place for place in range(count) if any(row[place] is not None for row in shares)]
    values = [
        [float("nan") if share is None else share * 100 for share in (*(row[place] for place in deeper), own)]
        for row, own in zip(shares, found.matrix.target, strict=True)
    ]
    across = len(deeper) + 1
    low = min(value for row in values for value in row if value == value)
    with styled("--picture"):
        figure = blank(max(WIDTHS["one-column"], INCHES * across + 1.4), max(INCHES * count + 1.2, 2.0))
        axis = figure.subplots()
        edges = ([place - 0.5 for place in range(many + 1)] for many in (across, count))  # one cell has a size, too
        axis.pcolormesh(*edges, values, cmap="cividis", vmin=low, vmax=100, edgecolors="white", linewidth=0.5)
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                if value == value:
                    axis.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=5.5 if count > 12 else 7,
                              color="white" if value < (low + 100) / 2 else INK)  # fmt: skip
        axis.axvline(across - 1.5, color=INK, linewidth=1)
        axis.set_xticks(range(across), [*(names[place] for place in deeper), TARGET], rotation=90)
        axis.set_yticks(range(count), names)
        axis.set(ylim=(count - 0.5, -0.5), xlabel="chooses the same token, %")
        figure.suptitle(f"{found.model} on {found.suite}: agreement of exits, {found.tokens} tokens", wrap=True)
        axis.grid(visible=False)
        save_picture(figure, picture, "--picture")
