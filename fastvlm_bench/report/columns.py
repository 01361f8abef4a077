"""The columns of the CSV, of JSON's rows and of the tables for a page, and where each of them comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from types import UnionType
from typing import Any, get_args, get_type_hints

from fastvlm_bench import metrics
from fastvlm_bench.analysis.quality import Quality
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.analysis.times import Spread
from fastvlm_bench.report.csv_text import cell_text

SOURCES = (
    "run_id", "status", "model", "suite", "settings.suite_version", "settings.split", "settings.source", "method",
    "settings.method_name", "settings.gamma", "settings.exit_layer", "settings.head", "settings.stop_below",
    "settings.draft", "settings.draft_id", "settings.options", "reference", "settings.lossless", "settings.dtype",
    "settings.device", "settings.hardware", "settings.attention", "settings.threads", "settings.tool",
    "settings.commit", "settings.started_at", "settings.max_new_tokens", "settings.ignore_eos",
    "settings.temperature", "settings.top_p", "settings.top_k",
    "counts.samples", "counts.samples_ok", "counts.samples_failed", "counts.samples_paired",
    "counts.samples_one_token", "counts.turns", "counts.repeats", "settings.batch_size", "settings.engine",
    "quality",
    "sameness.identical", "sameness.different_rate_upper", "sameness.diverged", "sameness.near_ties",
    "sameness.near_tie_margin", "sameness.unsteady", "sameness.violations", "sameness.unchecked",
    "sameness.other_contexts",
    "times.ttft_s", "times.tpot_s", "times.decode_s", "times.e2e_s", "times.new_tokens_median",
    "times.decode_tokens_per_s", "times.e2e_tokens_per_s", "times.requests_per_s",
    "speedup.decode_speedup_geomean", "speedup.decode_speedup_verdict",
    "speedup.e2e_speedup_geomean", "speedup.e2e_speedup_verdict",
    "speedup.decode_speedup_totals", "speedup.e2e_speedup_totals",
    "speedup.decode_speedup_holm_p", "speedup.e2e_speedup_holm_p",
    "speedup.decode_speedup_same_holm_p", "speedup.e2e_speedup_same_holm_p", "counts.invocations",
    "speedup.speedup_by_invocation", "speedup.speedup_between", "speedup.outliers",
    "speedup.e2e_speedup_without_outliers", "speedup.ratio_spread", "times.tpot_spread",
    "acceptance.alpha", "acceptance.draft_acceptance_rate", "acceptance.tau", "acceptance.acceptance_by_position",
    "acceptance.accepted_per_round",
    "acceptance.rounds", "acceptance.drafted_per_round", "acceptance.undrafted", "acceptance.alpha_without_stop",
    "acceptance.tau_without_stop", "acceptance.alpha_by_level",
    "costs.draft_s_per_token", "costs.verify_s_per_round", "costs.standard_s_per_token",
    "costs.predicted_decode_speedup", "costs.measured_over_predicted",
    "phases.draft_share", "phases.verify_share", "phases.other_share", "phases.vision_share", "phases.decode_share",
    "speedup.e2e_speedup_ceiling",
    "phases.phase_vision", "phases.phase_prefill", "phases.phase_draft", "phases.phase_verify", "phases.phase_other",
    "phases.phases_by",
    "phases.kernels_prefill", "phases.kernels_draft", "phases.kernels_verify", "phases.kernels_e2e",
    "memory.peak_rss_bytes", "memory.peak_rss_delta_bytes", "memory.peak_allocated_bytes",
    "memory.peak_allocated_delta_bytes", "memory.peak_reserved_bytes", "memory.peak_reserved_delta_bytes",
    "memory.extra_bytes",
    "energy.joules_per_token", "energy.watts",
)  # fmt: skip
"""The fields of a `Row` in the order of the columns, as group.field; `analysis/<group>.py` computes the field.

The column has the field's name. A Spread becomes the columns _median, _p5 and _p95, and an Estimate the columns without
suffix, _low and _high. `quality` becomes the columns of each metric (`quality_columns`).
"""


@dataclass(frozen=True)
class Column:
    """A name with its unit as suffix, how to read it from a row, and what it then is. None is an empty cell.

    kind: str, int, float or bool; str for lists, which are text in every table. interval: the next two columns are the
    bounds of this one.
    """

    name: str
    read: Callable[[Row], Any]
    kind: type
    interval: bool = False


def columns() -> tuple[Column, ...]:
    """The columns of `rows_csv` and `--json`, in order. They are the same for every run of one version of this tool.

    A metric of one's own adds its columns beside those of the others, which stand by name.
    """
    return _columns(tuple(metrics.names()))


@cache
def _columns(known_metrics: tuple[str, ...]) -> tuple[Column, ...]:
    found: list[Column] = []
    for source in SOURCES:
        if source == "quality":
            found += [column for metric in known_metrics for column in quality_columns(metric)]
            continue
        name, kinds = source.rpartition(".")[2], kinds_of(source)
        if Spread in kinds:
            found += [Column(f"{name}_{part}", _reader(source, part), float) for part in ("median", "p5", "p95")]
        elif Estimate in kinds:
            found.append(Column(name, _reader(source, "value"), float, interval=True))
            found += [Column(f"{name}_{part}", _reader(source, part), float) for part in ("low", "high")]
        else:
            found.append(Column(name, attrgetter(source), next((k for k in kinds if k in (int, float, bool)), str)))
    return tuple(found)


def kinds_of(source: str) -> tuple[Any, ...]:
    """The types that a field or property of `SOURCES` may have: (float, NoneType) for `float | None`."""
    owner: Any = Row
    *groups, name = source.split(".")
    for group in groups:
        owner = get_type_hints(owner)[group]
    known = getattr(owner, name, None)
    kind = get_type_hints(known.fget)["return"] if isinstance(known, property) else get_type_hints(owner)[name]
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _reader(source: str, part: str) -> Callable[[Row], Any]:
    whole = attrgetter(source)

    def read(row: Row) -> Any:
        value = whole(row)
        return None if value is None else getattr(value, part)

    return read


def quality_columns(metric: str) -> list[Column]:
    """The columns of one metric. They are empty for suites that do not have it."""

    def column(name: str, read: Callable[[Quality], Any], kind: type) -> Column:
        def of_row(row: Row) -> Any:
            return next((read(quality) for quality in row.quality if quality.metric == metric), None)

        return Column(f"quality_{metric}{name}", of_row, kind)

    def part(name: str) -> Column:
        return column(f"_{name.replace('@', '_at_')}", lambda q: q.parts.get(name), float)

    return [
        column("", lambda q: q.value, float),
        column("_delta", lambda q: q.delta and q.delta.value, float),
        column("_delta_low", lambda q: q.delta and q.delta.low, float),
        column("_delta_high", lambda q: q.delta and q.delta.high, float),
        column("_verdict", lambda q: q.verdict or None, str),
        column("_changed", lambda q: q.changed, int),
        column("_bound", lambda q: q.bound, float),
        column("_difference_p", lambda q: q.difference_p, float),
        column("_margin_p", lambda q: q.margin_p, float),
        column("_won", lambda q: q.flips and q.flips.won, int),
        column("_lost", lambda q: q.flips and q.flips.lost, int),
        column("_mcnemar_p", lambda q: q.flips and q.flips.p, float),
        *(part(name) for name in metrics.kind_of(metric).parts),
        column("_groups", lambda q: [f"{name}={cell_text(value)}" for name, value in q.groups.items()] or None, str),
        column("_reason", lambda q: q.reason or None, str),
    ]


def row_dict(row: Row) -> dict[str, Any]:
    """A row as {column: value}; lists stay lists."""
    return {column.name: column.read(row) for column in columns()}
