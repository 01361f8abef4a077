"""Reads the values of an option of a sweep: 1,2,4,8, or 2:12:2, which has both ends. Without torch."""

from decimal import Decimal, InvalidOperation

from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import Option

MOST_VALUES = 64


def read_range(name: str, text: str, of: Option) -> list[int | float]:
    """The values, in rising order and each once. UsageError for an empty range and for values that `of` refuses.

    name: the option that a user typed. text: values and ranges FIRST:LAST or FIRST:LAST:STEP, separated by commas.
    """
    found: set[int | float] = set()
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            raise UsageError(f"{name} is '{text}'; {_form(of)}")
        for one in _expanded(name, text, part, of):
            value = of.parse(one)
            if value is None or isinstance(value, str):
                raise UsageError(f"{name} has '{one}'; each value must be {of.allowed}; {_form(of)}")
            found.add(value)
            if len(found) > MOST_VALUES:
                raise UsageError(f"{name} {text} has more than {MOST_VALUES} values; give a wider step")
    return sorted(found)


def _expanded(name: str, text: str, part: str, of: Option) -> list[str]:
    """The values of one part as texts, one more than may be at the most."""
    pieces = part.split(":")
    if len(pieces) == 1:
        return pieces
    try:
        first, last, step = (Decimal(piece.strip()) for piece in (*pieces, "1")[:3])
    except (InvalidOperation, ValueError):
        raise UsageError(f"{name} has '{part}'; {_form(of)}") from None
    if len(pieces) > 3 or not all(number.is_finite() for number in (first, last, step)):
        raise UsageError(f"{name} has '{part}'; {_form(of)}")
    if step <= 0 or last < first:
        why = "a step must be above 0" if step <= 0 else "its last value is below its first"
        raise UsageError(f"{name}: the range {part} is empty: {why}; {_form(of)}")
    if of.kind is float and len(pieces) == 2:
        raise UsageError(f"{name}: the range {part} needs a step, as in {part}:0.1")
    found: list[str] = []
    while first <= last and len(found) <= MOST_VALUES:
        found.append(format(first.normalize(), "f"))
        first += step
    return found


def _form(of: Option) -> str:
    example = "0,0.3,0.5 or 0:0.6:0.2" if of.kind is float else "1,2,4,8 or 2:12:2 (both ends count)"
    return f"give values as in {example}"
