"""The samples' browser of the page: images, prompts, references, and the answer of each method, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.emitted import emitted_rounds, running_speedup
from fastvlm_bench.report.drawing import MANY_POINTS, SPEEDUPS
from fastvlm_bench.report.figure_data import Series
from fastvlm_bench.report.sample_export import scores_by_line
from fastvlm_bench.report.thumbnails import Thumbnails, thumbnails_of

MOST_SAMPLES = 300
"""Samples of a page over all suites; more would make it too big to send. The tables and figures are of all samples."""
SLOWEST = 10
"""Of each method so many samples with the lowest speed-up are among those that are shown."""


@dataclass
class Browser:
    """images: data URIs. suites: of each its series, samples with answers, and in words what is not shown."""

    images: list[str] = field(default_factory=list)
    suites: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.images, "suites": self.suites}


def browser_of(suites: Sequence[Sequence[Series]]) -> Browser:
    """The browser over these suites, each given as its series."""
    made = Browser()
    scores = {id(run): scores_by_line(run) for run in {id(one.run): one.run for own in suites for one in own}.values()}
    for own in suites:
        made.suites.append(_suite(made.images, own, MOST_SAMPLES // len(suites), scores))
    return made


def _suite(
    images: list[str], series: Sequence[Series], most: int, scores: Mapping[int, Mapping[int, Mapping[str, float]]]
) -> dict[str, Any]:
    entry = series[0].arm.suite
    chosen = set(choose(series, most))
    every = [sample["sample_id"] for sample in entry["samples"]]
    shown: Thumbnails = thumbnails_of(series[0].run, entry, [name for name in every if name in chosen])
    first, places = len(images), {key: place for place, key in enumerate(shown.pictures)}
    images += shown.pictures.values()
    samples = []
    for sample in entry["samples"]:
        name = sample["sample_id"]
        if name in chosen:
            key = shown.of_sample.get(name)
            samples.append({
                "id": name, "prompt": _asked(sample), "references": sample["references"],
                "group": sample.get("group", ""), "image": None if key is None else first + places[key],
                "answers": [answer(series, place, name, scores) for place in range(len(series))],
            })  # fmt: skip
    return {
        "name": entry["name"], "series": [
            {"name": one.marked, "reference": one.is_reference, "against": _place(_reference(one, series), series),
             "ratio": SPEEDUPS[one.speedup_of] + (" of its batch" if one.unit == "batch" else "")}
            for one in series
        ],
        "samples": samples, "all": len(every), "images": shown.reason, "points": points(series),
    }  # fmt: skip


def _asked(sample: Mapping[str, Any]) -> str:
    """What the sample asks; of a later turn also which one it is."""
    which = f"turn {sample['turn']}, after the method's own answers: " if sample.get("turn", 1) > 1 else ""
    return f"{which}{sample.get('question') or sample['prompt']}"


def points(series: Sequence[Series]) -> list[list[str]]:
    """For each series the sample of each point in the figure of speed-ups by length; [] where points are one image.

    A point that is a whole batch opens no sample.
    """
    found = [[ratio.sample_id for ratio in one.ratios if one.speedup(ratio) is not None and one.unit == "sample"]
             for one in series]  # fmt: skip
    return [] if sum(len(one.ratios) for one in series) > MANY_POINTS else found


def choose(series: Sequence[Series], most: int) -> list[str]:
    """Which samples a page shows: all if they are few enough.

    Otherwise first those that failed or differ from the reference, then the slowest of each method, then from the
    beginning.
    """
    every = [sample["sample_id"] for sample in series[0].arm.suite["samples"]]
    if len(every) <= most:
        return every
    told = [name for one in series for name in [*one.arm.failed, *_different(one, series)]]
    slow = [name for one in series for name in _slowest(one)]
    known = set(every)
    return [name for name in dict.fromkeys([*told[: most // 2], *slow, *every]) if name in known][:most]


def _slowest(one: Series) -> list[str]:
    """The samples with the lowest speed-up, or those of the slowest batches."""
    return sorted(one.by_sample, key=one.by_sample.__getitem__)[:SLOWEST]


def _different(one: Series, series: Sequence[Series]) -> list[str]:
    reference = _reference(one, series)
    if reference is None or one is reference:
        return []
    return [name for name, own in one.arm.measured.items() if (theirs := reference.arm.measured.get(name)) is not None
            and own.lines[0]["token_ids"] != theirs.lines[0]["token_ids"]]  # fmt: skip


def _reference(one: Series, series: Sequence[Series]) -> Series | None:
    return next((other for other in series if other.run is one.run and other.is_reference), None)


def _place(one: Series | None, series: Sequence[Series]) -> int | None:
    return next((place for place, other in enumerate(series) if other is one), None)


def answer(
    series: Sequence[Series], place: int, sample_id: str, scores: Mapping[int, Mapping[int, Mapping[str, float]]]
) -> dict[str, Any] | None:
    """What one method said of a sample, in the first repeat, with its seconds as medians over the repeats.

    text: None where `rounds` has the texts of its tokens. None where it was not measured.
    """
    one = series[place]
    own = one.arm.measured.get(sample_id)
    if own is None:
        lines = [line for line in one.run.lines if (line["suite"], line["method"], line["sample_id"])
                 == (one.row.suite, one.row.method, sample_id) and line["error"] is not None]  # fmt: skip
        return {"error": lines[0]["error"]} if lines else None
    line, reference = own.lines[0], _reference(one, series)
    theirs = None if reference in (None, one) else reference.arm.measured.get(sample_id)
    drafts = any(round_[0] for round_ in line["rounds"])
    rounds = rounds_of(line, None if theirs is None else theirs.lines[0]) if drafts else []
    told = bool(rounds) and all(texts is not None for *_, texts in rounds)
    return {
        "text": None if told else line["text"], "stop": line["stop"], "tokens": len(line["token_ids"]),
        "same": None if theirs is None or one.row.settings.sampled else
                line["token_ids"] == theirs.lines[0]["token_ids"],
        "ratio": _short(one.by_sample.get(sample_id)),
        "ttft_ms": _short(own.ttft_s * 1000), "decode_ms": _short(own.decode_s * 1000),
        "scores": {metrics.kind_of(name).label: _short(value * metrics.kind_of(name).scale)
                   for metric, value in scores[id(one.run)].get(line["seq"], {}).items()
                   if (name := metric.removeprefix("score_")) in metrics.METRICS},
        "rounds": rounds,
        "judged": (line.get("losslessness") or {}).get("outcome"),
    }  # fmt: skip


def rounds_of(line: Mapping[str, Any], reference: Mapping[str, Any] | None) -> list[list[Any]]:
    """Each round, prefill first: [milliseconds, running speed-up, kinds, texts], a letter and a text for each token.

    The letters are the first of the kinds in `analysis.emitted`, o for own and p for prefill. texts: None in records
    that do not have them; a rejected draft that was not recorded is an r without text all the same.
    """
    found = []
    for done in emitted_rounds(line):
        kinds = "".join(token.kind[0] for token in done.tokens)
        texts = [token.text for token in done.tokens]
        if not done.complete:
            place = sum(kind in "ad" for kind in kinds)
            kinds, texts = kinds[:place] + "r" + kinds[place:], [*texts[:place], None, *texts[place:]]
        told = None if texts and all(text is None for text in texts) else texts
        speedup = running_speedup(done, reference) if done.number else None
        found.append([_short(done.seconds * 1000), _short(speedup), kinds, told])
    return found


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
