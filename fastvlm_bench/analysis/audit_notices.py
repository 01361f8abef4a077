"""Warnings of `audit`: what in a results file makes its speed-up say less than it seems to."""

from collections.abc import Iterable, Sequence

from fastvlm_bench.analysis.audit_rows import Audited, Pair, counted_pairs, timed_pairs
from fastvlm_bench.analysis.notices import Notice
from fastvlm_bench.foreign import Answer, ResultsFile

FEWEST = 30
"""With fewer pairs an interval of ratios says little."""
LENGTH = 0.01
MEANS_APART = 0.05
"""By these shares lengths and two kinds of mean must differ before it is told."""
DAY_S = 86400.0
RUNNING, STILL = 0.01, 0.8
"""A mean of all samples so far hardly moves late in a file: less than the one, in more than the other of all steps."""


def notices(base: ResultsFile, other: ResultsFile, pairs: Sequence[Pair], row: Audited) -> Iterable[Notice]:
    """The warnings of one method, the gravest kind first."""
    yield from _files(base, other, pairs, row)
    if row.same_first_turn < len(pairs):
        parted = len(pairs) - row.same_first_turn
        yield Notice("OtherTexts", f"{parted} of {len(pairs)} first answers differ from the reference's: the two "
                     "decode other texts. A greedy lossless method returns the reference's text, but for rounding; the "
                     "ratio of seconds also compares unlike answers")  # fmt: skip
    later = sum(a.texts[0] == b.texts[0] and a.texts != b.texts for a, b in pairs)
    if later:
        yield Notice("OtherContexts", f"{later} samples differ in later turns only; a turn is asked after the method's "
                     "own earlier answers, so that turns after a difference answer another prompt")  # fmt: skip
    yield from _lengths(pairs, row)
    yield from _means(row)
    if len(pairs) < FEWEST:
        yield Notice("TooFewSamples", f"{len(pairs)} samples; below {FEWEST} an interval says little")
    for note in other.contents.notes:
        yield Notice("AsRecorded", note)


def _files(base: ResultsFile, other: ResultsFile, pairs: Sequence[Pair], row: Audited) -> Iterable[Notice]:
    for file in (base, other):
        if file.torn:
            yield Notice("Truncated", f"{file.path.name} ends within a line, which was left out: its run or its copy "
                         "broke off")  # fmt: skip
        if file.repeated:
            yield Notice("Repeated", f"{file.path.name} has {file.repeated} lines with an id that comes again: two "
                         "runs went into one file; the last line of each id counts")  # fmt: skip
    more = len([key for key in other.answers if key not in base.answers])
    if row.missing or more:
        yield Notice("MissingSamples", f"{row.missing} samples of the reference are missing here, and {more} are only "
                     f"here; only the {len(pairs)} of both files count")  # fmt: skip
    shared = [a.sample_id for a, _ in pairs]
    kept = set(shared)
    if [key for key in other.answers if key in kept] != shared:
        yield Notice("OtherOrder", "the samples stand in another order than in the reference's file; warm-up and heat "
                     "then fall on other samples")  # fmt: skip
    if base.contents.placed and (bare := sum(not a.prompt.keys() & b.prompt.keys() for a, b in pairs)):
        yield Notice("PairedByPlace", f"{bare} pairs are of the same place in both files, and nothing tells that their "
                     "prompts are the same: make sure that both runs asked the same in the same order")  # fmt: skip
    if failed := sum(bool(a.failed) for file in (base, other) for a in file.answers.values()):
        yield Notice("FailedSamples", f"{failed} answers are errors; they are left out in both files")
    if base.contents.concurrency != other.contents.concurrency:
        yield Notice("OtherLoad", f"requests in flight differ: {base.contents.concurrency} in the reference, "
                     f"{other.contents.concurrency} here (None: no bound)")  # fmt: skip
    times = [[a.recorded_at for a in file.answers.values() if a.recorded_at] for file in (base, other)]
    if all(times) and (gap := max(min(times[1]) - max(times[0]), min(times[0]) - max(times[1]))) > DAY_S:
        yield Notice("RecordedApart", f"recorded {gap / DAY_S:.1f} days apart: what changed on the machine in between "
                     "is in the ratio; methods that take turns on each sample exclude that")  # fmt: skip
    untimed = len(pairs) - len(timed_pairs(pairs))
    if untimed and any(a.seconds and b.seconds for a, b in pairs):
        yield Notice("NotTimed", f"{untimed} pairs have no positive seconds in both files, or unequal turns; no ratio "
                     "counts them")  # fmt: skip
    counted = len(counted_pairs(pairs))
    if 0 < counted < len(pairs):
        yield Notice("NotCounted", f"{len(pairs) - counted} pairs have no tokens in both files; the length ratio and "
                     f"what is per token is of the other {counted}")  # fmt: skip
    rounds = sum(bool(b.tokens and b.rounds) for _, b in pairs)
    if 0 < rounds < len(pairs):
        yield Notice("RoundsMissing", f"{len(pairs) - rounds} answers have no tokens or no rounds; τ is of the other "
                     f"{rounds}")  # fmt: skip


def _lengths(pairs: Sequence[Pair], row: Audited) -> Iterable[Notice]:
    measures = (("tokens", row.length_ratio), ("characters", row.text_length_ratio))
    apart = [(name, ratio) for name, ratio in measures if ratio is not None and abs(ratio - 1) > LENGTH]
    if apart:
        name, ratio = apart[0]
        work = "less work, which is not speed" if ratio < 1 else "more work"
        per = "" if row.speedup_per_token is None else f"; per token the ratio of totals is {row.speedup_per_token:.2f}"
        yield Notice("OtherLengths", f"answers have {ratio:.3f} times the reference's {name}: {work}{per}")
    same = [(a, b) for a, b in pairs if a.texts == b.texts and a.tokens and b.tokens]
    if odd := [(a, b) for a, b in same if a.tokens != b.tokens]:
        more = sum(sum(b.tokens) - sum(a.tokens) for a, b in odd)
        yield Notice("OtherCounting", f"{len(odd)} of {len(same)} answers with the same text count other tokens "
                     f"({more:+d} in all): one file counts what the other cuts, such as drafts accepted after the end; "
                     "tokens per second and ratios per token of these files are not comparable")  # fmt: skip
    if running_mean([b for _, b in pairs]):
        yield Notice("RunningMean", "the acceptance length in this file is the mean of all samples so far, not "
                     "the sample's own; τ here is tokens / rounds")  # fmt: skip


def _means(row: Audited) -> Iterable[Notice]:
    macro, micro, rates = row.speedup_geomean, row.speedup_totals, row.speedup_of_rates
    if macro is None or micro is None:
        return
    if max(macro.value, micro.value) > (1 + MEANS_APART) * min(macro.value, micro.value):
        long = "long" if micro.value > macro.value else "short"
        printed = "" if rates is None else f"; that of mean tokens per second is {rates:.2f}"
        yield Notice("MeansDiffer", f"a request gains {macro.value:.2f} (geometric mean of ratios), the whole job "
                     f"{micro.value:.2f} (ratio of totals): {long} answers gain more; say which one is "
                     f"meant{printed}")  # fmt: skip
    if macro.low is not None and macro.high is not None and macro.low <= 1 <= macro.high:
        yield Notice("NotShown", "the interval of the geometric mean includes 1: no gain and no loss is shown")


def running_mean(answers: Sequence[Answer]) -> bool:
    """Whether the recorded acceptance lengths follow the mean of all turns so far, while the turns' own do not."""
    told = [(tokens / rounds, said) for a in answers if len(a.told) == len(a.tokens) == len(a.rounds)
            for tokens, rounds, said in zip(a.tokens, a.rounds, a.told, strict=True) if rounds]  # fmt: skip
    if len(told) < FEWEST:
        return False
    own, said = zip(*told[len(told) // 2 :], strict=True)
    return _still(said) > STILL and _still(own) < 1 - STILL


def _still(values: Sequence[float]) -> float:
    """The share of steps from a value to the next that are smaller than `RUNNING`."""
    steps = [abs(second / first - 1) for first, second in zip(values, values[1:], strict=False) if first]
    return sum(step < RUNNING for step in steps) / max(1, len(steps))
