"""Lines of a record, grouped: one arm a suite and method, one `Measured` a sample, medians over its repeats."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from fastvlm_bench.records.record import Run


@dataclass(frozen=True)
class Measured:
    """One sample of one arm. Seconds and tokens are medians over the repeats; `lines` holds all of them, in order."""

    sample_id: str
    image_id: str
    references: tuple[str, ...]
    lines: tuple[Mapping[str, Any], ...]
    tokens: float
    ttft_s: float
    decode_s: float
    e2e_s: float

    @property
    def text(self) -> str:
        """What is scored: the text of the first repeat, or its ranks."""
        return scored(self.lines[0])

    @property
    def decodes(self) -> bool:
        """Whether there is a decoding phase: a one-token answer ends with the prefill."""
        return self.tokens > 1 and self.decode_s > 0

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first, (e2e - TTFT) / (tokens - 1)."""
        return (self.e2e_s - self.ttft_s) / (self.tokens - 1) if self.decodes else None

    def within(self, invocation: int) -> "Measured | None":
        """The same sample of one invocation alone; None if that did not measure it."""
        own = [line for line in self.lines if (line.get("invocation") or 0) == invocation]
        return replace(self, lines=tuple(own), **medians(own)) if own else None

    def same_tokens(self, other: "Measured") -> bool:
        """Whether each repeat has the token ids of the other arm's repeat."""
        return all(a["token_ids"] == b["token_ids"] for a, b in zip(self.lines, other.lines, strict=True))

    def divergence(self, other: "Measured") -> int | None:
        """The index of the first token that differs in any repeat; None if none does."""
        for ours, theirs in zip(self.lines, other.lines, strict=True):
            a, b = ours["token_ids"], theirs["token_ids"]
            if a != b:
                return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        return None


def scored(line: Mapping[str, Any]) -> str:
    """What metrics get of a line: its text, or the ranks of its options as `visdial_ranking` reads them."""
    if ranks := line.get("ranks"):
        return "\n".join(" ".join(map(str, ranks[way])) for way in ("sum", "mean"))
    return str(line["text"])


@dataclass(frozen=True)
class Arm:
    """One suite x method: the samples measured in every repeat they were run in, and the ids of those that failed."""

    suite: Mapping[str, Any]
    method: Mapping[str, Any]
    measured: dict[str, Measured]
    failed: frozenset[str]
    repeats: int

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Every line of the measured samples."""
        for sample in self.measured.values():
            yield from sample.lines


@dataclass(frozen=True)
class Counts:
    """Sums over rounds."""

    rounds: int
    drafted: int
    tested: int
    accepted: int
    emitted: int
    draft_s: float
    verify_s: float


def count(lines: Iterable[Mapping[str, Any]]) -> Counts:
    """The sums over all rounds of these lines."""
    rounds = [round_ for line in lines for round_ in line["rounds"]]
    drafted, tested, accepted, emitted, draft_s, verify_s = (sum(r[i] for r in rounds) for i in range(6))
    return Counts(len(rounds), drafted, tested, accepted, emitted, float(draft_s), float(verify_s))


def by_position(lines: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    """Acceptance of the i-th draft of a round, given that it was tested: #(accepted > i) / #(tested > i)."""
    tested: list[int] = []
    accepted: list[int] = []
    for line in lines:
        for _, tested_now, accepted_now, *_ in line["rounds"]:
            while len(tested) < tested_now:
                tested.append(0)
                accepted.append(0)
            for i in range(tested_now):
                tested[i] += 1
                accepted[i] += i < accepted_now
    return tuple(a / t for a, t in zip(accepted, tested, strict=True))


def arms(run: Run) -> list[Arm]:
    """The arms of a run, suites and methods in the order of `run.json`. A sample that failed once is failed."""
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for line in sorted(run.lines, key=lambda line: line["repeat"]):
        found.setdefault((line["suite"], line["method"]), {}).setdefault(line["sample_id"], []).append(line)
    return [
        _arm(suite, method, found.get((suite["name"], method["label"]), {}))
        for suite in run.meta["suites"]
        for method in run.meta["methods"]
    ]


def _arm(suite: Mapping[str, Any], method: Mapping[str, Any], lines: Mapping[str, list[dict[str, Any]]]) -> Arm:
    failed = frozenset(sample for sample, own in lines.items() if any(line["error"] is not None for line in own))
    measured = {
        sample["sample_id"]: _measured(sample, lines[sample["sample_id"]])
        for sample in suite["samples"]
        if sample["sample_id"] in lines and sample["sample_id"] not in failed
    }
    return Arm(suite, method, measured, failed, max((len(own) for own in lines.values()), default=0))


def _measured(sample: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Measured:
    return Measured(
        sample_id=sample["sample_id"],
        image_id=sample["image_id"],
        references=tuple(sample["references"]),
        lines=tuple(lines),
        **medians(lines),
    )


def medians(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tokens and seconds of a `Measured` with these lines, one a repeat."""
    return {
        "tokens": median(len(line["token_ids"]) for line in lines),
        "ttft_s": median(line["ttft_s"] for line in lines),
        "decode_s": median(line["decode_s"] for line in lines),
        "e2e_s": median(line["ttft_s"] + line["decode_s"] for line in lines),
    }


def pairs(arm: Arm, reference: Arm) -> list[tuple[Measured, Measured]]:
    """(ours, reference) for each sample that neither arm failed and that both ran in the same repeats."""
    both = ((ours, reference.measured.get(sample_id)) for sample_id, ours in arm.measured.items())
    return [
        (ours, theirs)
        for ours, theirs in both
        if theirs is not None and [a["repeat"] for a in ours.lines] == [b["repeat"] for b in theirs.lines]
    ]
