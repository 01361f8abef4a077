"""Numbers as tables show them: no more digits than the measurement supports, a dash for what was not measured."""

from fastvlm_bench import metrics
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.report.layout import NOTHING

MIB = 2**20
MOST_DIGITS = 4


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
    return interval(estimate.value, estimate.low, estimate.high, "×", 1 if estimate.high - estimate.low >= 1 else 2)


def interval(value: float, low: float, high: float, unit: str = "", digits: int = 2) -> str:
    """A ratio and its interval, "0.93 [0.91, 0.96]", with so many digits that a bound beside 1 does not read as 1.

    "Slower" with the interval [0.97, 1.00] would contradict itself where the bound is 0.998.
    """
    while digits < MOST_DIGITS and not low <= 1 <= high and 1 in (round(low, digits), round(high, digits)):
        digits += 1
    return f"{value:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def mebibytes(value: int | None, signed: bool = False) -> str:
    """Bytes as MiB, with one decimal; signed: with a plus sign, as differences have."""
    return NOTHING if value is None else f"{value / MIB:{'+' if signed else ''}.1f}"


def score(metric: str, value: float | None, signed: bool = False) -> str:
    """A metric's value or difference on its tables' scale, with one decimal where that is 0-100, else two."""
    if value is None:
        return NOTHING
    scale = metrics.kind_of(metric).scale
    return f"{value * scale:{'+' if signed else ''}.{1 if scale > 1 else 2}f}"
