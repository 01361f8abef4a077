"""What run.json says of a run whose samples were shared, among jobs or among processes."""

from typing import Annotated, TypedDict

from fastvlm_bench.records.sample_line import Count, Limits, Positive

Time = Annotated[str, Limits(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


class Shard(TypedDict):
    """The share of the samples that a run has, with --shard. Its suites hold the samples of the share alone."""

    number: Annotated[Positive, "which share, from 1"]
    of: Annotated[Positive, "into how many shares the samples were divided"]


class MergedShard(TypedDict):
    """A run that was merged."""

    number: Annotated[Positive, "its share"]
    run_id: Annotated[str, "name of its folder when it was made"]
    status: Annotated[str, "how it ended"]
    lines: Annotated[Count, "its lines that count"]
    host: Annotated[str | None, "where it was measured"]
    started_at: Annotated[Time, "when it began"]
    completed_at: Annotated[Time | None, "when it ended"]


class Merged(TypedDict):
    """What `merge` made the run of."""

    of: Annotated[Positive, "into how many shares the samples were divided"]
    missing: Annotated[list[Positive], "shares that are not there, by --allow-missing"]
    shards: Annotated[list[MergedShard], "those that are"]


class Rank(TypedDict):
    """One of several processes, by the last invocation."""

    rank: Annotated[Count, "its number; the lines name it"]
    host: Annotated[str, "where it ran"]
    device: Annotated[str | None, "its device"]
