"""Measured samples of an arm of which only what another run is compared with is kept, as bytes.

Of a data set's run the objects of all lines take a gigabyte. Packed, a sample takes a few hundred bytes, and is
made again whenever it is looked at.
"""

import marshal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fastvlm_bench.analysis.arms import Arm, Measured, measured_of

COMPARED = ("repeat", "invocation", "token_ids", "text", "ranks", "ttft_s", "decode_s", "batch", "dialog")
"""The fields of a line that a sample of another run is compared with. Both are scored by that run's references."""


class Packed(Mapping[str, Measured]):
    """The `measured` of an arm, with the COMPARED fields of its lines. samples: its suite's entries by id."""

    def __init__(self, measured: Mapping[str, Measured], samples: Mapping[str, Mapping[str, Any]]) -> None:
        self._samples = samples
        self._names: list[tuple[str, ...]] = []  # the fields that lines have: a few different lists of them
        self._packed = {key: marshal.dumps([self._values(line) for line in one.lines]) for key, one in measured.items()}

    def _values(self, line: Mapping[str, Any]) -> list[Any]:
        names = tuple(name for name in COMPARED if name in line)
        if names not in self._names:
            self._names.append(names)
        return [self._names.index(names), *(line[name] for name in names)]

    def __getitem__(self, key: str) -> Measured:
        of_lines = marshal.loads(self._packed[key])
        lines = (dict(zip(self._names[kind], values, strict=True)) for kind, *values in of_lines)
        return measured_of(self._samples[key], (), tuple(lines))

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def packed(arms: list[Arm]) -> list[Arm]:
    """The arms of a run with their samples packed. The suites' entries are looked up once for all of them."""
    samples = {arm.suite["name"]: {one["sample_id"]: one for one in arm.suite["samples"]} for arm in arms}
    return [replace(arm, measured=Packed(arm.measured, samples[arm.suite["name"]])) for arm in arms]
