"""Predictions beside what a run measured, on the same samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastvlm_bench.agreement.guesses import Text
from fastvlm_bench.agreement.pricing import Prices
from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.analysis.arms import Arm, arms, pairs, told_apart
from fastvlm_bench.analysis.best_cell import is_cell
from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.analysis.round_sums import sum_rounds
from fastvlm_bench.analysis.statistics import divide
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run
from fastvlm_bench.sweeping.grid import RAW
from fastvlm_bench.training.prediction import simulate

CLOSE = 0.05
"""A prediction within this share of the measured speed-up counts as close."""
METHODS = {"fastvlm", "layerskip"}
"""The methods that draft as a source does. Others may have an exit layer, too."""


@dataclass(frozen=True)
class Compared:
    """One method of a run. speedup, alpha: predicted and measured on the same `samples`.

    speedup_measured: Σ reference decode seconds / Σ the method's. own_costs: the passes were timed by the run itself,
    else here. alpha_...: over the drafts that the method tested.
    """

    method: str
    source: Source
    gamma: int
    stop_below: float
    speedup_predicted: float
    speedup_measured: float
    alpha_predicted: float
    alpha_measured: float | None
    samples: int
    own_costs: bool

    @property
    def error(self) -> float:
        """Predicted / measured - 1."""
        return self.speedup_predicted / self.speedup_measured - 1


@dataclass(frozen=True)
class Against:
    """A run beside the predictions. skipped: its drafting methods without a source here. other_answers: how many of
    `samples` the run's reference answers otherwise than the target does here."""

    run_id: str
    compared: tuple[Compared, ...]
    skipped: tuple[str, ...]
    samples: int
    other_answers: int

    @property
    def close(self) -> int:
        """How many predictions are within `CLOSE`."""
        return sum(abs(one.error) <= CLOSE for one in self.compared)

    @property
    def sentence(self) -> str:
        own = sum(one.own_costs for one in self.compared)
        where = "the run's own pass costs" if own == len(self.compared) else "pass costs measured here"
        told = f"within {CLOSE:.0%} on {self.close} of {len(self.compared)} cells, by {where}".replace("%", " %")
        if self.other_answers:
            told += f"; {self.other_answers} of {self.samples} answers are not those of the run"
        return told


def check_against(run: Run, suite: str, model: str) -> None:
    """UsageError for a run that predictions of greedy single-sample decoding cannot be laid beside."""
    name = run.run_id
    suites = [own["name"] for own in run.meta["suites"]]
    if suite not in suites:
        raise UsageError(f"--against {name} measured {', '.join(suites)}, not {suite}; give --suite {suites[0]}")
    if run.meta["model"]["id"] != model:
        raise UsageError(f"--against {name} is of model '{run.meta['model']['id']}'; give it by --model")
    config = run.meta["config"]
    if config.get("temperature"):
        raise UsageError(f"--against {name} sampled at temperature {config['temperature']:g}, and agreement is of "
                         "greedy decoding; give a run without --temperature")  # fmt: skip
    if (config.get("batch_size") or 1) > 1:
        raise UsageError(f"--against {name} decoded in batches; give a run of single samples")
    if not any(_drafts(arm) for arm in arms(run)):
        raise UsageError(f"--against {name} has no method that drafts from an exit (fastvlm, layerskip); give another")


def compare(
    run: Run, suite: str, texts: Sequence[Text], sources: Sequence[Source], prices: Mapping[bool, Prices]
) -> Against:  # fmt: skip
    """Each method of the run that drafts from one of the sources, on the samples of `texts` that the run measured.

    UsageError where the run has none of the samples.
    """
    own = [arm for arm in arms(run) if arm.suite["name"] == suite]
    reference = next(arm for arm in own if arm.method["label"] == run.meta["reference"])
    by_id = {text.sample_id.removeprefix(f"{suite}/"): text for text in texts}
    found, skipped = [], []
    known = {(source.exit_layer, source.head): source for source in sources}
    for arm in own:
        if not _drafts(arm):
            continue
        options = arm.method["options"]
        source = known.get((options["exit_layer"], options.get("head") or RAW))
        if source is None:
            skipped.append(arm.method["label"])
        elif (one := _compared(run, arm, reference, source, by_id, prices)) is not None:
            found.append(one)
    both = [(by_id[key], sample) for key, sample in reference.measured.items() if key in by_id]
    if not both:
        raise UsageError(f"--against {run.run_id} measured none of these samples of {suite}; leave --split and --limit "
                         "as in the run")  # fmt: skip
    others = sum(tuple(sample.lines[0]["token_ids"]) != text.answer for text, sample in both)
    return Against(run.run_id, tuple(found), tuple(skipped), len(both), others)


def _drafts(arm: Arm) -> bool:
    return arm.method["name"] in METHODS and is_cell(arm.method)


def _compared(
    run: Run, arm: Arm, reference: Arm, source: Source, by_id: Mapping[str, Text], prices: Mapping[bool, Prices]
) -> Compared | None:
    both = [
        pair for pair in pairs(arm, reference) if pair[0].sample_id in by_id and pair[0].decodes and pair[1].decodes
    ]
    if not both:
        return None
    options = arm.method["options"]
    gamma, stop = int(options["gamma"]), float(options["stop_below"])
    seen = simulate([by_id[ours.sample_id].checked(source) for ours, _ in both], gamma, stop)
    told = told_apart(run.meta, "costs", arm)
    costs = (PassCosts(told["standard_s"], told["draft_s"], told["verify_s"]) if told is not None
             else prices[stop > 0].of(source))  # fmt: skip
    rounds = sum_rounds(line for ours, _ in both for line in ours.lines)
    return Compared(
        arm.method["label"], source, gamma, stop, seen.speedup(costs),
        sum(theirs.decode_s for _, theirs in both) / sum(ours.decode_s for ours, _ in both),
        seen.alpha, divide(rounds.accepted, rounds.tested), len(both), told is not None,
    )  # fmt: skip
