"""An ablation's table, from the records of its runs alone: what each draft is, accepts, costs and gains. No torch."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.numbers import interval

COLUMNS = (
    "suite", "target", "draft", "exit", "head", "losses", "refined", "parameters", "held_out_alpha", "alpha", "tau",
    "predicted_speedup", "predicted_gamma", "predicted_stop_below", "gamma", "stop_below",
    "decode_speedup_geomean", "decode_low", "decode_high", "e2e_speedup_geomean", "identical",
    "samples", "quality_change",
)  # fmt: skip
BLOCK = "block"
METHODS = ("fastvlm", "layerskip", "medusa", BLOCK)
"""What decodes with a trained draft, or with the raw exit."""


def ablation_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for each draft and suite: runs in the order given, methods in the order of their run.

    predicted_speedup was computed when the draft was trained, from held-out text and the costs on that machine, for
    predicted_gamma and predicted_stop_below, the best of a grid, and for `fastvlm` alone where a draft is decoded by
    `block`, too; gamma and stop_below are those that were measured.
    decode_speedup_geomean is measured, with its 95 % interval, against standard decoding of the same target.
    quality_change: what phase 1 did to the target's scores, for drafts of a fine-tuned backbone.
    """
    out = []
    for run in runs:
        tuned = run.meta["model"].get("phase_1")
        for row in summarise(run):
            method = run.method(row.method)
            if row.speedup.decode_speedup_geomean is None or method["name"] not in METHODS:
                continue
            out.append(_row(row, method, tuned))
    return out


def _row(row: Row, method: dict[str, Any], tuned: dict[str, Any] | None) -> dict[str, Any]:
    draft = method.get("draft") or {}
    data, name = draft.get("data", {}), method["options"].get("draft") or row.method.partition(":")[0]
    blocks = method["name"] == BLOCK  # a block draft is measured by `fastvlm`, too, of which its advice speaks
    recipe, advice = data.get("recipe", {}), {} if blocks else draft.get("advice", {})
    speedup = row.speedup.decode_speedup_geomean or Estimate(float("nan"), None, None, 0)
    e2e = row.speedup.e2e_speedup_geomean
    head = draft.get("head", "none (raw exit)")
    if depth := draft.get("head_options", {}).get("depth"):
        head += f" x{depth}"
    validation = list(draft.get("validation", {}).values())
    return {
        "suite": row.suite, "target": f"{tuned['of']} + phase 1 ({tuned['how']})" if tuned else row.model,
        "draft": f"{name}, by {BLOCK}" if blocks and name != BLOCK else name,
        "exit": method["options"].get("exit_layer", "none"), "head": head,
        "losses": " ".join(f"{name} {weight:g}" for name, weight in draft.get("losses", {}).items()),
        "refined": "" if not draft else "yes" if recipe.get("refine") and data.get("refine_updates") else "no",
        "parameters": draft.get("head_parameters", 0),
        "held_out_alpha": sum(validation) / len(validation) if validation else None,
        "alpha": row.acceptance.alpha, "tau": row.acceptance.tau,
        "predicted_speedup": advice.get("speedup"), "predicted_gamma": advice.get("gamma"),
        "predicted_stop_below": advice.get("stop_below"), "gamma": row.settings.gamma,
        "stop_below": row.settings.stop_below,
        "decode_speedup_geomean": speedup.value, "decode_low": speedup.low, "decode_high": speedup.high,
        "e2e_speedup_geomean": e2e.value if e2e else None,
        "identical": row.sameness.identical, "samples": row.counts.samples_paired,
        "quality_change": _change(row.suite, tuned),
    }  # fmt: skip


def _change(suite: str, tuned: dict[str, Any] | None) -> str:
    own = [q for q in (tuned or {}).get("quality", []) if q["suite"] == suite and q["delta"] is not None]
    return "; ".join(f"{q['metric']} {q['delta']:+.4f} ({q['verdict']})" for q in own)


def ablation_csv(rows: Sequence[dict[str, Any]]) -> str:
    """All columns at full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def ablation_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown, with the columns that a paper would show."""
    several = len({row["suite"] for row in rows}) > 1
    tuned = any(row["quality_change"] for row in rows)
    heads = [
        *(["suite"] if several else []), "target", "draft", "exit", "head", "losses", "refined", "parameters",
        "α held out", "α", "τ", "predicted", "decode speed-up", "end to end", "identical",
        *(["Δ quality by phase 1"] if tuned else []),
    ]  # fmt: skip
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        value, low, high = (row[name] for name in ("decode_speedup_geomean", "decode_low", "decode_high"))
        lines.append([
            *([row["suite"]] if several else []), row["target"], row["draft"], str(row["exit"]), row["head"],
            row["losses"], row["refined"], f"{row['parameters']:,}", _number(row["held_out_alpha"], 3),
            _number(row["alpha"], 3), _number(row["tau"], 2), _predicted(row),
            f"{value:.2f}" if low is None else interval(value, low, high), _number(row["e2e_speedup_geomean"], 2),
            "" if row["identical"] is None else f"{row['identical']}/{row['samples']}",
            *([row["quality_change"]] if tuned else []),
        ])  # fmt: skip
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _predicted(row: dict[str, Any]) -> str:
    """The predicted speed-up; with the setting that it is for where another one was measured."""
    told, own = [(row[f"{kind}gamma"], row[f"{kind}stop_below"]) for kind in ("predicted_", "")]
    said = _number(row["predicted_speedup"], 2)
    return said if not said or told == own else f"{said} (at γ {told[0]}, stop {told[1]:g})"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
