"""The whole of `acceptance`: answers, guesses, shares, prices, predictions, and a run beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvlm_bench.agreement.against import Against, check_against, compare
from fastvlm_bench.agreement.guesses import read_all
from fastvlm_bench.agreement.pricing import Prices, price, timed_exits
from fastvlm_bench.agreement.rates import KIND, LENGTH, OVERALL, POSITION, Matrix, Rate, matrix, rates
from fastvlm_bench.agreement.sources import Source, choose_sources
from fastvlm_bench.agreement.speedups import Hierarchy, Promise, hierarchies, promises
from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import UsageError
from fastvlm_bench.measuring.before_loading import drafts_of
from fastvlm_bench.method_spec import GAMMA, STOP_BELOW
from fastvlm_bench.models.load import load_target
from fastvlm_bench.models.names import check_model_name, layer_count
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.suites.suite import check_images, load_suite
from fastvlm_bench.sweeping.ranges import read_range
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.samples import training_sample


@dataclass(frozen=True)
class Asked:
    """What was asked for. config: its model, suite and samples. exit_layer, gamma, stop: as typed."""

    config: RunConfig
    exit_layer: str | None
    head: tuple[str, ...]
    gamma: str
    stop: str
    against: Path | None = None


@dataclass(frozen=True)
class Study:
    """What was found. answers: how many, of which `texts` have a second token. forced: of `tokens` tokens after the
    first, the share that the teacher-forced pass of the target chooses as decoding did."""

    model: str
    suite: str
    split: str
    answers: int
    texts: int
    images: int
    tokens: int
    forced: float
    device: str
    dtype: str
    threads: int
    sources: tuple[Source, ...]
    rates: tuple[Rate, ...]
    matrix: Matrix
    standard_s: float
    prices: Prices
    promises: tuple[Promise, ...]
    hierarchies: tuple[Hierarchy, ...]
    against: Against | None


def study(asked: Asked, *, quiet: bool = False) -> Study:
    """Do all of it. UsageError for whatever is wrong with what was asked, before the model is loaded where possible."""
    config, suite_name = asked.config, asked.config.suites[0]
    check_model_name(config.model)
    gammas = [int(value) for value in read_range("--gamma", asked.gamma, GAMMA)]
    stops = [float(value) for value in read_range("--stop", asked.stop, STOP_BELOW)]
    run = read_run(asked.against) if asked.against is not None else None
    if run is not None:
        check_against(run, suite_name, config.model)
    suite = load_suite(suite_name, split=config.split, data=config.data, limit=config.limit, offline=config.offline,
                       prompt_set=config.prompt_set, prompt=config.prompt)  # fmt: skip
    check_images(suite)
    if (layers := layer_count(config.model)) is not None:
        _sources(asked, layers)
    target = load_target(config.model, **config.loading)
    sources = _sources(asked, len(target.layers))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    most = config.max_new_tokens or suite.max_new_tokens
    samples = [training_sample(suite.name, sample) for sample in suite.openings]
    with Display(quiet=quiet, stderr=True) as display:
        bars = {name: display.bar(name, len(samples)) for name in ("answers", "forced passes")}
        texts, guesser, longest = read_all(target, sources, samples, most, lambda name, done: bars[name](done))
        flags = {stop > 0 for stop in stops} | ({True, False} if run is not None else set())
        heads, raw = sum(source.folder is not None for source in sources), len(timed_exits(len(target.layers)))
        timing, timed = display.bar("timing passes", (heads + raw) * len(flags)), iter(range(1, 10**6))
        longest_gamma = max([*gammas, *_gammas(run)])
        prices = {flag: price(target, guesser.drafts, longest, longest_gamma + 1, flag, lambda: timing(next(timed)))
                  for flag in sorted(flags)}  # fmt: skip
    agreement = matrix(texts, sources)
    plain = prices.get(False) or prices[True]
    tokens = [(forced, own) for text in texts for forced, own in zip(text.forced, text.answer[1:], strict=True)]
    return Study(
        model=config.model, suite=suite.name, split=suite.split, answers=len(samples), texts=len(texts),
        images=len({text.image_id for text in texts}), tokens=len(tokens),
        forced=sum(forced == own for forced, own in tokens) / len(tokens),
        device=str(target.device), dtype=str(target.model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(), sources=tuple(sources),
        rates=tuple(rate for by in (OVERALL, POSITION, KIND, LENGTH) for rate in rates(texts, sources, by)),
        matrix=agreement, standard_s=plain.standard_s, prices=plain,
        promises=tuple(promises(texts, sources, gammas, stops, prices)),
        hierarchies=tuple(hierarchies(sources, gammas, agreement, plain)),
        against=None if run is None else compare(run, suite.name, texts, sources, prices),
    )  # fmt: skip


def _sources(asked: Asked, layers: int) -> list[Source]:
    config = asked.config
    if layers < 2:
        raise UsageError(f"model '{config.model}' has {layers} decoder layer, so it has no exit")
    return choose_sources(model=config.model, layers=layers, drafts=drafts_of(config), suite=config.suites[0],
                          exit_layer=asked.exit_layer, head=asked.head)  # fmt: skip


def _gammas(run: Run | None) -> Sequence[int]:
    """Every γ of a run's methods."""
    methods = [] if run is None else run.meta["methods"]
    return [int(options["gamma"]) for method in methods if (options := method.get("options") or {}).get("gamma")]
