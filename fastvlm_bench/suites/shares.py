"""The share of a suite that one process measures: `--shard i/N` of a job array, and the ranks of `torchrun`.

A share is every Nth batch, so that any two shares differ by one batch at most, each has samples of the whole file, and
the batches are those that one process alone would make. Without --batch-size a batch is one sample. The turns of a
sample are never divided, since a later one is asked after the answers to those before.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.suite import Suite

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """Batches first, first + step, first + 2 · step … of a suite, counted from 0."""

    first: int = 0
    step: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Read "2/4": the second of four shares. UsageError for anything else."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, of = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= number <= of:
            allowed = f"1/{of} … {of}/{of}" if of else "i/N, with i from 1 to N, as in 1/4 … 4/4"
            raise UsageError(f"--shard is '{text}'; it must be {allowed}")
        return cls(number - 1, of)

    def number(self, place: int) -> int:
        """The number within the suite of this share's batch at a place, from 0."""
        return self.first + self.step * place

    def take(self, samples: Sequence[Item], size: int) -> list[Item]:
        """The samples of this share, each with all its turns. size: samples in a batch."""
        return [item for batch in batches(samples, size)[self.first :: self.step] for item in batch]


WHOLE = Share()


def batches(samples: Sequence[Item], size: int) -> list[list[Item]]:
    """The samples, or their entries in a record, in batches of `size`: a batch has all turns of each of its samples."""
    whole: list[list[Item]] = []
    before = None
    for item in samples:
        dialog = item.get("dialog") if isinstance(item, Mapping) else getattr(item, "dialog", None)
        if dialog and dialog == before:
            whole[-1].append(item)
        else:
            whole.append([item])
        before = dialog
    return [[item for own in whole[start : start + size] for item in own] for start in range(0, len(whole), size)]


def check_shard(text: str | None, **ends: Any) -> None:
    """UsageError for a share that there is not, and with options by which the parts would not be parts of one run."""
    if text is None:
        return
    Share.parse(text)
    for name, given in ends.items():
        if given:
            raise UsageError(f"--{name.replace('_', '-')} goes by all that was measured before, of which --shard has a "
                             "part; leave one of them out")  # fmt: skip


def shared(suite: Suite, share: Share, size: int) -> Suite:
    """The suite with the samples of this share alone. UsageError where none is left.

    Its hash stays that of all samples, so that shares of one suite are known by it; CIDEr-D still weighs words by all.
    """
    if share == WHOLE:
        return suite
    own = share.take(suite.samples, size)
    if not own:
        many = len(batches(suite.samples, size))
        raise UsageError(f"--shard {share.first + 1}/{share.step} of {suite.name} is empty: there are {many} "
                         f"{'samples' if size == 1 else 'batches'}; choose at most so many shards")  # fmt: skip
    every = suite.documents or tuple((sample.group, sample.references) for sample in suite.samples)
    return replace(suite, samples=tuple(own), documents=every if "cider_d" in suite.metrics else suite.documents)


def interleaved(shares: Sequence[tuple[Share, Sequence[Item]]], size: int) -> list[Item]:
    """The items of several shares in the order of the whole. size: items in a batch."""
    placed: list[tuple[int, Any]] = []
    for share, items in shares:
        placed += [(share.number(place), batch) for place, batch in enumerate(batches(items, size))]
    return [item for _, batch in sorted(placed, key=lambda each: each[0]) for item in batch]
