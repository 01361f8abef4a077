"""Values and ranges of a sweep's options."""

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import EXIT_LAYER, GAMMA, STOP_BELOW
from fastvlm_bench.sweeping.ranges import read_range


@pytest.mark.parametrize(
    ("text", "values"),
    [("2:12:2", [2, 4, 6, 8, 10, 12]), ("1,2,4,8", [1, 2, 4, 8]), ("8, 2,2", [2, 8]), ("3:5", [3, 4, 5]),
     ("1,4:9:3", [1, 4, 7]), ("6:6:2", [6])],
)  # fmt: skip
def test_whole_numbers(text: str, values: list[int]) -> None:
    assert read_range("--gamma", text, GAMMA) == values


@pytest.mark.parametrize(("text", "values"), [("0,0.3,0.5", [0.0, 0.3, 0.5]), ("0:0.3:0.1", [0.0, 0.1, 0.2, 0.3])])
def test_probabilities(text: str, values: list[float]) -> None:
    assert read_range("--stop", text, STOP_BELOW) == values


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "as in 1,2,4,8"), ("2,,4", "as in"), ("8:2", "is empty"), ("2:8:0", "a step must be above 0"),
     ("2:8:-1", "a step must be above 0"), ("2:8:2:2", "as in"), ("a", "'a'"), ("1:b", "'1:b'"), ("0", "at least 1"),
     ("60:70", "at most 64"), ("1:2:0.5", "whole number"), ("1:1000000000", "at most 64"), ("nan:3", "as in"),
     ("1:inf", "as in")],
)  # fmt: skip
def test_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match="--gamma") as error:
        read_range("--gamma", text, GAMMA)
    assert says in str(error.value)


def test_probabilities_refused() -> None:
    for text, says in (
        ("1", "below 1"),
        ("0:0.9", "needs a step"),
        ("-0.1", "from 0"),
        ("0:0.99:0.01", "more than 64"),
    ):
        with pytest.raises(UsageError, match=says):
            read_range("--stop", text, STOP_BELOW)


def test_too_many_layers() -> None:
    with pytest.raises(UsageError, match="more than 64 values"):
        read_range("--exit-layer", "1:999999999", EXIT_LAYER)
