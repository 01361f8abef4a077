"""What one process measures of a run, where others measure the rest: which batches, and how its lines are marked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fastvlm_bench.config import RunConfig
from fastvlm_bench.measuring.dialogs import by_turns
from fastvlm_bench.suites.shares import WHOLE, Share, batches
from fastvlm_bench.suites.suite import Sample, Suite


@dataclass(frozen=True)
class Part:
    """The part of a run that is this process's own.

    share: that of `--shard`, whose samples the suites hold. marks: `shard` and `rank` of its lines, where there are
    any. places: suite -> which of its batches, each with all turns of its samples, are measured here, counted from 0; a
    suite that is not named is measured in full.
    """

    share: Share = WHOLE
    marks: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: RunConfig, rank: int | None = None, places: Mapping[str, Sequence[int]] | None = None
    ) -> "Part":
        """The part of one process. rank: None where there is one process only."""
        marks = {"shard": config.share.first + 1} if config.shard else {}
        return cls(config.share, marks if rank is None else {**marks, "rank": rank}, places or {})

    def batches(self, suite: Suite, size: int) -> Iterator[tuple[int, list[Sample]]]:
        """The batches to measure, turn by turn, each with its number within the whole suite. size: samples in a batch.

        The turns of a sample follow each other, and so do those of a batch: one turn of each of its samples at a time.
        """
        every = batches(suite.samples, size)
        for place in self.places.get(suite.name, range(len(every))):
            for turn, samples in enumerate(by_turns(every[place])):
                yield self.share.number(place) * suite.most_turns + turn, samples

    def samples(self, suite: Suite, size: int) -> int:
        """How many samples these batches have."""
        if suite.name not in self.places:
            return len(suite.samples)
        return sum(len(samples) for _, samples in self.batches(suite, size))
