"""Prints a utilisation, and writes it: one JSON object, a CSV with a row for each layer."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from fastvlm_bench.records.storage import check_target_file, finite
from fastvlm_bench.report.csv_text import to_csv
from fastvlm_bench.report.export import save
from fastvlm_bench.report.layout import Cells, draw, say
from fastvlm_bench.report.numbers import number
from fastvlm_bench.utilisation.study import Utilisation

COLUMNS = ("layer", "neurons", "key_neurons", "used_neurons", "utilisation", "utilisation_up_to", "to_full_model")


def rows(found: Utilisation) -> list[dict[str, Any]]:
    """A row for each layer. utilisation_up_to: of the layers up to it, which are those of an exit after it."""
    return [
        dict(zip(COLUMNS, (one.layer, one.neurons, one.key, one.used, one.share, found.below(one.layer),
                           found.below(one.layer) / found.whole), strict=True)) for one in found.layers
    ]  # fmt: skip


def print_utilisation(console: Console, found: Utilisation) -> None:
    say(console, f"utilisation of {found.model} on {found.suite} · split {found.split} · {found.samples} samples, "
                 f"{found.tokens} tokens · {found.dtype} · {found.device}", "bold")  # fmt: skip
    say(console, f"Of each layer's FFN, the neurons that are among the {found.key_share:.3%} that contribute most to "
                 "a token of some answer.".replace("%", " %"), "dim")  # fmt: skip
    own = rows(found)
    draw(console, Cells("layer\n", tuple(str(row["layer"]) for row in own)), [
        Cells("neurons\n", tuple(str(row["neurons"]) for row in own)),
        Cells("used\n", tuple(str(row["used_neurons"]) for row in own)),
        Cells("used\n%", tuple(number(row["utilisation"] * 100) for row in own)),
        Cells("layers up to\nhere %", tuple(number(row["utilisation_up_to"] * 100) for row in own)),
        Cells("/ full\nmodel", tuple(number(row["to_full_model"]) for row in own)),
    ])  # fmt: skip
    grown = ", ".join(f"{share * 100:.2f} of {samples}" for samples, share in found.growth)
    say(
        console,
        f"Full model: {found.whole * 100:.2f} % (model utilisation index, arXiv 2504.07440). It grows with "
        f"the samples: {grown}. So compare only on the same samples, with the same share of key neurons.",
    )


def check_files(json_file: Path | None, csv: Path | None) -> None:
    """UsageError, before anything is loaded, for files that could not be written."""
    for path, option in ((json_file, "--json"), (csv, "--csv")):
        if path is not None:
            check_target_file(path, option)


def write(found: Utilisation, json_file: Path | None, csv: Path | None) -> list[Path]:
    """Write what was asked for. Returns the files."""
    made = []
    if json_file is not None:
        plain = {name: getattr(found, name) for name in ("model", "suite", "split", "samples", "tokens", "key_share",
                                                         "device", "dtype")}  # fmt: skip
        told = {**plain, "utilisation": found.whole, "layers": rows(found), "growth": [
            {"samples": samples, "utilisation": share} for samples, share in found.growth]}  # fmt: skip
        made.append((json_file, json.dumps(finite(told), indent=1, ensure_ascii=False) + "\n"))
    if csv is not None:
        made.append((csv, to_csv(COLUMNS, [list(row.values()) for row in rows(found)])))
    for path, text in made:
        save(path, text)
    return [path for path, _ in made]
