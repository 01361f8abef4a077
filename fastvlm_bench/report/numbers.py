"""Numbers as tables show them: no more digits than the measurement supports, a dash for what was not measured."""

from fastvlm_bench import metrics
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.report.layout import NOTHING

MIB = 2**20


def number(value: float | None, digits: int = 2, scale: float = 1.0) -> str:
    """A fixed-point number, or a dash for what was not measured."""
    return NOTHING if value is None else f"{value * scale:.{digits}f}"


def share(value: float | None) -> str:
    """A share of one as per cent; one that rounds to zero has no minus sign."""
    return NOTHING if value is None else f"{round(value, 2) + 0.0:.0%}".replace("%", " %")


def milliseconds(value: float | None) -> str:
    """Seconds as milliseconds, with about three significant digits."""
    return NOTHING if value is None else f"{value * 1000:.{2 if value < 0.01 else 1 if value < 0.1 else 0}f}"


def ratio(estimate: Estimate | None) -> str:
    """A ratio with its interval, with one digit less where the interval is wide."""
    if estimate is None:
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}×"
    digits = 1 if estimate.high - estimate.low >= 1 else 2
    return f"{estimate.value:.{digits}f}× [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def mebibytes(value: int | None, signed: bool = False) -> str:
    """Bytes as MiB, with one decimal; signed: with a plus sign, as differences have."""
    return NOTHING if value is None else f"{value / MIB:{'+' if signed else ''}.1f}"


def score(metric: str, value: float | None, signed: bool = False) -> str:
    """A metric's value or difference on its tables' scale, with one decimal where that is 0-100, else two."""
    if value is None:
        return NOTHING
    scale = metrics.kind_of(metric).scale
    return f"{value * scale:{'+' if signed else ''}.{1 if scale > 1 else 2}f}"
