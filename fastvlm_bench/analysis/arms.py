"""Groups the lines of a run: one `Arm` per suite and method, and in it one `Measured` per sample."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import itemgetter
from statistics import median
from typing import Any, NamedTuple

from fastvlm_bench.analysis.round_sums import RoundKinds, RoundSums, tally
from fastvlm_bench.records.record import Run


class Measured(NamedTuple):
    """One sample of one arm, or one turn of several: medians over its repeats, and the lines that they come from.

    lines: of samples.jsonl, one per repeat, in the order of the repeats. tokens: new tokens, EOS included. ttft_s,
    decode_s, e2e_s: seconds, with e2e = TTFT + decode. answers: how many texts it stands for: 1, but of a batch or of
    all turns together as many as there are.
    """

    sample_id: str
    image_id: str
    references: tuple[str, ...]
    lines: tuple[Mapping[str, Any], ...]
    tokens: float
    ttft_s: float
    decode_s: float
    e2e_s: float
    answers: int = 1

    @property
    def dialog(self) -> str:
        """The id of the whole sample: its own, or that of the sample of which it is a turn."""
        return str(self.lines[0].get("dialog") or self.sample_id)

    @property
    def text(self) -> str:
        """The text that the metrics score: that of the first repeat, or its ranks in a suite that ranks."""
        return scored(self.lines[0])

    @property
    def decodes(self) -> bool:
        """Whether there is a decoding phase. A one-token answer has none, because the prefill gives the first token."""
        return self.tokens > self.answers and self.decode_s > 0

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first, decode / (tokens - 1). None without a decoding phase."""
        return self.decode_s / (self.tokens - self.answers) if self.decodes else None

    def within(self, invocation: int) -> "Measured | None":
        """The same sample with the repeats of one invocation only; None if that invocation did not measure it."""
        own = [line for line in self.lines if (line.get("invocation") or 0) == invocation]
        return self._replace(lines=tuple(own), **medians(own)) if own else None

    def same_tokens(self, other: "Measured") -> bool:
        """Whether each repeat has the same token ids as that repeat of `other`. Both must have equally many repeats."""
        if len(self.lines) == 1 == len(other.lines):
            return bool(self.lines[0]["token_ids"] == other.lines[0]["token_ids"])
        return all(a["token_ids"] == b["token_ids"] for a, b in zip(self.lines, other.lines, strict=True))

    def divergence(self, other: "Measured") -> int | None:
        """The index of the first differing token, in the first repeat that differs; None if every repeat is the same.

        Where one output is the beginning of the other, it is the length of the shorter one.
        """
        for ours, theirs in zip(self.lines, other.lines, strict=True):
            a, b = ours["token_ids"], theirs["token_ids"]
            if a != b:
                return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        return None


def scored(line: Mapping[str, Any]) -> str:
    """The text of a line that the metrics score: its output, or its options' ranks as `visdial_ranking` reads them."""
    if ranks := line.get("ranks"):
        return "\n".join(" ".join(map(str, ranks[way])) for way in ("sum", "mean"))
    return str(line["text"])


Pair = tuple[Measured, Measured]
"""A sample as our arm measured it, and as the arm that it is compared with did."""


class Pairs(list[Pair]):
    """Pairs of which it is known whether each is an observation of its own: no batches, and one turn a sample.

    Of a data set's samples that is asked again and again, and to look for it in each line is most of the work.
    """

    def __init__(self, found: Iterable[Pair] = (), single: bool = False) -> None:
        super().__init__(found)
        self.single = single


@dataclass(frozen=True)
class Arm:
    """One method on one suite. A sample is in `measured` if no repeat of it failed, and in `failed` otherwise.

    Each turn of a sample of several is an entry of its own. If one failed, the sample has failed, and all its turns are
    in `failed`; while one has no line yet, none is in either.
    suite, method: their entries in `run.json`. measured: by sample id, in the suite's order. failed: ids of samples.
    repeats: the largest number of repeats that any sample has. single: whether each measured sample was decoded alone,
    and has one turn.
    """

    suite: Mapping[str, Any]
    method: Mapping[str, Any]
    measured: Mapping[str, Measured]
    failed: frozenset[str]
    repeats: int
    single: bool

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Every line of the measured samples. The lines of failed samples are left out."""
        return chain.from_iterable(sample.lines for sample in self.measured.values())

    @cached_property
    def rounds(self) -> RoundSums:
        """The sums over all rounds of the measured samples."""
        return self._tally[0]

    @property
    def kinds_of_rounds(self) -> RoundKinds:
        """How many rounds of the measured samples have which counts."""
        return self._tally[1]

    @cached_property
    def _tally(self) -> tuple[RoundSums, RoundKinds]:
        return tally(self.lines())

    @cached_property
    def peaks(self) -> Mapping[str, int]:
        """The largest of each number of bytes that was measured, by its name in a line's `memory`."""
        different = {id(found): found for line in self.lines() if (found := line.get("memory"))}  # most lines share it
        known: dict[str, int] = {}
        for memory in different.values():
            for name, value in memory.items():
                if type(value) is int and value > known.get(name, -1):
                    known[name] = value
        return known


def told_apart(meta: Mapping[str, Any], key: str, arm: Arm) -> Mapping[str, Any] | None:
    """The entry of this suite and method in a list of run.json (`costs`, `without_stop`); None where it has none."""
    mine = (arm.suite["name"], arm.method["label"])
    return next((entry for entry in meta.get(key) or [] if (entry["suite"], entry["method"]) == mine), None)


def arms(run: Run) -> list[Arm]:
    """The arms of a run, by suite and then method, in the order of `run.json`."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in sorted(run.lines, key=itemgetter("repeat")):
        found.setdefault((line["suite"], line["method"]), []).append(line)
    own = []
    for suite in run.meta["suites"]:
        references = {sample["sample_id"]: tuple(sample["references"]) for sample in suite["samples"]}
        for method in run.meta["methods"]:
            lines = _by_sample(found.pop((suite["name"], method["label"]), []))
            own.append(_arm(suite, method, lines, references))
    return own


def _by_sample(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Mapping[str, Any], ...]]:
    alone: dict[str, tuple[Mapping[str, Any], ...]] = {line["sample_id"]: (line,) for line in lines}
    if len(alone) == len(lines):  # a data set is mostly measured once
        return alone
    repeated: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        repeated.setdefault(line["sample_id"], []).append(line)
    return {name: tuple(own) for name, own in repeated.items()}


def _arm(
    suite: Mapping[str, Any], method: Mapping[str, Any], lines: Mapping[str, tuple[Mapping[str, Any], ...]],
    references: Mapping[str, tuple[str, ...]],
) -> Arm:  # fmt: skip
    """references: by sample id. The arms of a suite share them."""
    faulty = {line["sample_id"] for own in lines.values() for line in own if line["error"] is not None}
    there: Collection[str] = lines.keys()
    failed = frozenset(faulty)
    if any("dialog" in sample for sample in suite["samples"]):
        turns: dict[str, list[str]] = {}
        for sample in suite["samples"]:
            turns.setdefault(whole_id(sample), []).append(sample["sample_id"])
        failed = frozenset(one for own in turns.values() if faulty.intersection(own) for one in own if one in lines)
        there = {one for own in turns.values() if all(one in lines for one in own) for one in own}
    measured = {
        name: measured_of(sample, references[name], lines[name])
        for sample in suite["samples"]
        if (name := sample["sample_id"]) in there and name not in failed
    }
    repeats = max((len(own) for own in lines.values()), default=0)
    single = not any("batch" in line or "dialog" in line for one in measured.values() for line in one.lines)
    return Arm(suite, method, measured, failed, repeats, single)


def whole_id(sample: Mapping[str, Any]) -> str:
    """The id of the whole sample, of an entry or a line that may be one of its turns."""
    return str(sample.get("dialog") or sample["sample_id"])


def measured_of(
    sample: Mapping[str, Any], references: tuple[str, ...], lines: tuple[Mapping[str, Any], ...]
) -> Measured:  # fmt: skip
    """One sample of an arm. sample: its entry in the suite. lines: one per repeat, in their order."""
    if len(lines) == 1:
        line = lines[0]
        ttft_s, decode_s = line["ttft_s"], line["decode_s"]
        return Measured(sample["sample_id"], sample["image_id"], references, lines, len(line["token_ids"]), ttft_s,
                        decode_s, ttft_s + decode_s)  # fmt: skip
    return Measured(
        sample_id=sample["sample_id"],
        image_id=sample["image_id"],
        references=references,
        lines=lines,
        **medians(lines),
    )


def medians(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a `Measured` that are medians over its lines: tokens, and seconds."""
    if len(lines) == 1:
        (line,) = lines
        return {"tokens": len(line["token_ids"]), "ttft_s": line["ttft_s"], "decode_s": line["decode_s"],
                "e2e_s": line["ttft_s"] + line["decode_s"]}  # fmt: skip
    return {
        "tokens": median(len(line["token_ids"]) for line in lines),
        "ttft_s": median(line["ttft_s"] for line in lines),
        "decode_s": median(line["decode_s"] for line in lines),
        "e2e_s": median(line["ttft_s"] + line["decode_s"] for line in lines),
    }


def pairs(arm: Arm, reference: Arm) -> Pairs:
    """(ours, reference) for each sample that neither arm failed and that both ran in the same repeats.

    Of a sample of several turns there is a pair for each turn, or none at all.
    """
    fitting, alone = list[Pair](), set[str]()
    for sample_id, ours in arm.measured.items():
        theirs = reference.measured.get(sample_id)
        if theirs is not None and _same_repeats(ours, theirs):
            fitting.append((ours, theirs))
        else:
            alone.add(ours.dialog)
    if arm.single and reference.single:
        return Pairs(fitting, single=True)
    return Pairs((ours, theirs) for ours, theirs in fitting if ours.dialog not in alone)


def _same_repeats(ours: Measured, theirs: Measured) -> bool:
    if len(ours.lines) == 1 == len(theirs.lines):
        return bool(ours.lines[0]["repeat"] == theirs.lines[0]["repeat"])
    return [a["repeat"] for a in ours.lines] == [b["repeat"] for b in theirs.lines]


def by_dialog(paired: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs of each sample: one, or of a sample of several turns one for each."""
    if isinstance(paired, Pairs) and paired.single:
        return [[pair] for pair in paired]
    found: dict[str, list[Pair]] = {}
    for pair in paired:
        found.setdefault(pair[0].dialog, []).append(pair)
    return list(found.values())


def count_samples(paired: Sequence[Pair]) -> int:
    """How many samples the pairs are of; one may have several turns."""
    return len(paired) if isinstance(paired, Pairs) and paired.single else len(by_dialog(paired))


def same_samples(paired: Sequence[Pair]) -> int:
    """How many samples have the same token ids in both arms, in every turn and repeat."""
    if isinstance(paired, Pairs) and paired.single:
        return sum(ours.same_tokens(theirs) for ours, theirs in paired)
    return sum(all(ours.same_tokens(theirs) for ours, theirs in turns) for turns in by_dialog(paired))
