"""Which cases of a parameterised test the default run takes; the others are marked `slow`, and none is lost."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def covering(cases: Iterable[Any], quick: Iterable[Any] | Callable[[Any], bool]) -> list[Any]:
    """`cases` as pytest parameters, in their order; a tuple is the values of several arguments.

    quick: the cases of the default run, or whether a case is one. They are the one or two in which a fault would most
    likely show: a head that attends and reads the state before, an exit and a γ in between, an unusual family. Further
    values of the same kind, and pairs, wait for the slow run. ValueError where it names what is no case, or none.
    """
    there = list(cases)
    chosen = [case for case in there if quick(case)] if callable(quick) else list(quick)
    if not chosen or any(case not in there for case in chosen):
        raise ValueError(f"the default run takes {chosen}, which are not all of the cases {there}")
    return [_parameter(case) if case in chosen else _parameter(case, pytest.mark.slow) for case in there]


def _parameter(case: Any, *marks: pytest.MarkDecorator) -> Any:
    return pytest.param(*case, marks=marks) if isinstance(case, tuple) else pytest.param(case, marks=marks)
