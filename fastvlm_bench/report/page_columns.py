"""How a column of the CSV looks on a page: a header in words, and its values as MiB, milliseconds or points of 100."""

from collections.abc import Callable
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.report.csv_text import cell_text
from fastvlm_bench.report.numbers import MIB

WORDS = {
    "samples": "samples planned", "samples_ok": "samples", "identical": "same outputs",
    "suite_version": "version", "method_name": "method's name",
    "alpha": "α", "tau": "τ", "gamma": "γ", "alpha_without_stop": "α without stop",
    "tau_without_stop": "τ without stop", "alpha_by_level": "α of each level",
    "decode_speedup_geomean": "decode speed-up", "e2e_speedup_geomean": "end-to-end speed-up",
    "draft_s_per_token": "draft, a token", "verify_s_per_round": "verify, a round",
    "standard_s_per_token": "standard, a token", "joules_per_token": "J/token", "run_id": "run",
    "peak_allocated_bytes": "peak tensors", "peak_rss_bytes": "peak RSS", "peak_reserved_bytes": "peak reserved",
    "peak_allocated_delta_bytes": "Δ peak tensors", "peak_rss_delta_bytes": "Δ peak RSS",
    "peak_reserved_delta_bytes": "Δ peak reserved", "extra_bytes": "draft weights",
}  # fmt: skip
"""Columns whose header is not simply their name with spaces."""
PIECES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "end-to-end", "speedup": "speed-up", "id": "ID", "p": "p"}
SECONDS = ("_s", "_s_median", "_s_p5", "_s_p95", "_s_per_token", "_s_per_round")
RATE = "_per_s"
COUNTED = ("_changed", "_won", "_lost", "_p", "_verdict", "_reason", "_groups")
"""Ends of the columns of a metric that are not on the metric's scale."""


def header(name: str) -> str:
    """The words above a column, with its unit in brackets where it has one: "TTFT (ms)" for `ttft_s_median`."""
    if metric := metric_of(name):
        kind, rest = metrics.kind_of(metric), name.removeprefix(f"quality_{metric}").lstrip("_")
        if part := part_of(name):
            return f"{kind.label}: {part.label}" + (" (0-100)" if part.kind == "share" else "")
        delta = rest.startswith("delta")
        words = f"{'Δ ' if delta else ''}{kind.label} {_spaced(rest.removeprefix('delta').lstrip('_'))}".rstrip()
        return words if name.endswith(COUNTED) else f"{words} ({kind.unit})"
    unit = " (MiB)" if name.endswith("_bytes") else " (ms)" if _in_seconds(name) else ""
    if name in WORDS:
        return WORDS[name] + unit
    plain = name.removesuffix("_bytes").removesuffix("_median")
    for end in ("_p5", "_p95"):
        plain = plain.replace(f"_s{end}", end)
    if plain.endswith(RATE):
        return f"{_spaced(plain.removesuffix(RATE))}/s"
    return _spaced(plain.removesuffix("_s") if unit == " (ms)" else plain) + unit


def _in_seconds(name: str) -> bool:
    return name.endswith(SECONDS) and not name.endswith(RATE)


def _spaced(name: str) -> str:
    return " ".join(PIECES.get(piece, piece) for piece in name.split("_"))


def metric_of(name: str) -> str | None:
    """The metric to which a column belongs, if it is of one; the longest name that fits."""
    own = [metric for metric in metrics.names() if name == f"quality_{metric}" or name.startswith(f"quality_{metric}_")]
    return max(own, key=len, default=None)


def part_of(name: str) -> metrics.Part | None:
    """The further value of a metric that a column holds, if it holds one: `r@1` stands in the column `…_r_at_1`."""
    metric = metric_of(name)
    parts = metrics.kind_of(metric).parts if metric is not None else {}
    return {f"quality_{metric}_{key.replace('@', '_at_')}": part for key, part in parts.items()}.get(name)


def shown(name: str) -> Callable[[Any], str]:
    """How a value of this column is written, on the scale that its header names. None is an empty cell."""
    metric = metric_of(name)
    if part := part_of(name):
        return _number(lambda value: f"{value * 100:.1f}" if part.kind == "share" else f"{value:.4g}")
    if metric is not None and not name.endswith(COUNTED):
        scale = metrics.kind_of(metric).scale
        digits, sign = 1 if scale > 1 else 2, "+" if "_delta" in name else ""
        return _number(lambda value: f"{value * scale:{sign}.{digits}f}")
    if name.endswith("_bytes"):
        return _number(lambda value: f"{value / MIB:{'+' if '_delta' in name else ''}.1f}")
    if _in_seconds(name):
        return _number(lambda value: f"{value * 1000:.3g}" if value < 1 else f"{value * 1000:.0f}")
    return lambda value: f"{value:.4g}" if isinstance(value, float) else cell_text(value)


def _number(write: Callable[[float], str]) -> Callable[[Any], str]:
    return lambda value: write(value) if isinstance(value, int | float) else cell_text(value)
