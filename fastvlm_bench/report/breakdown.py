"""Where a suite's time, energy and memory went: the tables of phases, of joules, and of the parts of a memory peak."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from fastvlm_bench.analysis.groups import GroupRow
from fastvlm_bench.analysis.phases import PHASES
from fastvlm_bench.analysis.statistics import divide
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.layout import NOTHING, Cells
from fastvlm_bench.report.numbers import mebibytes, milliseconds, number, ratio, share

PARTS = ("weights", "head", "cache", "activation", "rest")
"""The parts of a memory peak, in the order in which the picture stacks them from the bottom."""


def time_columns(rows: Sequence[Row]) -> list[Cells]:
    """The phases of the end-to-end time, and the decode speed-up that the costs of single passes predict."""

    def column(header: str, cell: Callable[[Row], str]) -> Cells:
        return Cells(header, tuple(cell(row) for row in rows))

    def phase(name: str) -> Callable[[Row], str]:
        def cell(row: Row) -> str:
            value = getattr(row.phases, f"phase_{name}")
            return NOTHING if name == "draft" and not value else share(value)

        return cell

    kernels = [
        column("kernels,\n% of verify", lambda r: share(r.phases.kernels_verify)),
        column("kernels,\n% of draft", lambda r: share(r.phases.kernels_draft)),
    ]
    return [
        *(column(f"{name}\n%", phase(name)) for name in PHASES),
        *(kernels if any(row.phases.kernels_e2e is not None for row in rows) else ()),
        column("decode\n% of e2e", lambda r: share(r.phases.decode_share)),
        column("predicted\ndecode ×", lambda r: number(r.costs.predicted_decode_speedup)),
        column("measured\n/predicted", lambda r: number(r.costs.measured_over_predicted)),
    ]


def group_columns(rows: Sequence[GroupRow]) -> list[Cells]:
    """Speed-ups and acceptance over each part of a data set."""

    def column(header: str, cell: Callable[[GroupRow], str]) -> Cells:
        return Cells(header, tuple(cell(row) for row in rows))

    return [
        column("samples\n", lambda r: str(r.samples)),
        column("decode\n× ↑", lambda r: ratio(r.decode)),
        column("end-to-end\n× ↑", lambda r: ratio(r.e2e)),
        column("same\ntokens", lambda r: f"{r.same_tokens}/{r.paired}"),
        column("α ↑\n", lambda r: number(r.alpha)),
        column("τ ↑\n", lambda r: number(r.tau)),
    ]


def outside(run: Run, suite: str) -> str:
    """What was outside the clock (image, processor, model load, first calls), in one line; "" if not recorded."""
    lines = [line for line in run.lines if line["suite"] == suite and line.get("image_s") is not None]
    if not lines:
        return ""
    image, processor = (median(line[name] for line in lines) for name in ("image_s", "processor_s"))
    said = f"outside the clock, a sample: image {milliseconds(image)} ms, processor {milliseconds(processor)} ms"
    if before := run.meta.get("outside"):
        calls = ", ".join(f"{method} {seconds:.2f} s" for method, seconds in before[0]["first_call_s"].items())
        said += f"; once: model load {before[0]['model_load_s']:.1f} s" + (f", first call {calls}" if calls else "")
    return said


def energy_columns(run: Run, rows: Sequence[Row]) -> list[Cells]:
    """Joules per token of each method, its power and the idle power in watts; [] where nothing was measured."""
    entry = (run.meta.get("energy") or {}).get(rows[0].suite) or {}
    found = [(row.energy.joules_per_token, row.energy.watts) for row in rows]
    if all(joules is None for joules, _ in found):
        return []
    base = next((own for own, row in zip(found, rows, strict=True) if row.method == row.reference), (None, None))[0]
    return [
        Cells("energy\nJ/token ↓", tuple(number(joules, 3) for joules, _ in found)),
        Cells("of the\nreference's", tuple(number(divide(joules, base) if joules is not None else None)
                                           for joules, _ in found)),
        Cells("power\nW", tuple(number(watts, 1) for _, watts in found)),
        Cells("idle\nW", tuple(number(entry.get("idle_w"), 1) for _ in found)),
    ]  # fmt: skip


def energy_reason(run: Run, suite: str) -> str:
    """The reason why the energy that was asked for could not be measured; "" where there is none."""
    entry = (run.meta.get("energy") or {}).get(suite) or {}
    return f"energy: not measured: {entry['reason']}" if entry and entry.get("source") is None else ""


def memory_parts(run: Run, suite: str) -> dict[str, dict[str, Any]]:
    """{method: the parts of its memory peak in bytes}, as run.json has them; {} for records without them."""
    return {part["method"]: part for part in run.meta.get("memory") or [] if part["suite"] == suite}


def memory_columns(run: Run, rows: Sequence[Row]) -> list[Cells] | None:
    """The parts of each method's memory peak on one sample, in MiB, and the peak's difference to the reference's.

    None for records without them.
    """
    parts = memory_parts(run, rows[0].suite)
    if not parts:
        return None

    def column(header: str, name: str, less: str | None = None) -> Cells:
        def cell(row: Row) -> str:
            value = parts.get(row.method, {}).get(name)
            base = parts.get(row.reference, {}).get(name) if less else 0
            return NOTHING if value is None or base is None else mebibytes(value - base, signed=bool(less))

        shown = [NOTHING if less and row.method == row.reference else cell(row) for row in rows]
        return Cells(header, tuple(shown))

    kind = "tensors" if any(part["kind"] == "allocated" for part in parts.values()) else "RSS"
    return [
        column("weights\nMiB", "weights_bytes"), column("draft\nhead", "head_bytes"),
        column("KV\ncache", "cache_bytes"), column("acti-\nvations", "activation_bytes"),
        column("all\nelse", "rest_bytes"), column(f"= peak\n{kind}", "peak_bytes"),
        column("Δ peak,\none sample", "peak_bytes", less="reference"), column("allocator\nMiB", "reserved_bytes"),
        column("device\nMiB", "device_used_bytes"),
    ]  # fmt: skip
