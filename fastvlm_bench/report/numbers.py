"""Numbers as tables show them: never more digits than they carry, a dash for what was not measured."""

from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.report.layout import NOTHING

MIB = 2**20


def number(value: float | None, digits: int = 2, scale: float = 1.0) -> str:
    """A fixed-point number, or a dash for what was not measured."""
    return NOTHING if value is None else f"{value * scale:.{digits}f}"


def share(value: float | None) -> str:
    """A share of one, in per cent; what rounds to nothing has no sign."""
    return NOTHING if value is None else f"{round(value, 2) + 0.0:.0%}".replace("%", " %")


def milliseconds(value: float | None) -> str:
    """Seconds as milliseconds with three digits or so."""
    return NOTHING if value is None else f"{value * 1000:.{2 if value < 0.01 else 1 if value < 0.1 else 0}f}"


def ratio(estimate: Estimate | None) -> str:
    """A ratio with its interval, in as many digits as the interval carries."""
    if estimate is None:
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}×"
    digits = 1 if estimate.high - estimate.low >= 1 else 2
    return f"{estimate.value:.{digits}f}× [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def mebibytes(value: int | None, signed: bool = False) -> str:
    """Bytes as MiB."""
    return NOTHING if value is None else f"{value / MIB:{'+' if signed else ''}.1f}"
