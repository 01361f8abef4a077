"""The whole of `utilisation`: answers, their key neurons, and the union over samples, layer by layer."""

from dataclasses import dataclass

import torch

from fastvlm_bench.config import RunConfig
from fastvlm_bench.models.load import load_target
from fastvlm_bench.models.names import check_model_name
from fastvlm_bench.suites.suite import check_images, load_suite
from fastvlm_bench.training.answers import Example, greedy_answers
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.samples import training_sample
from fastvlm_bench.utilisation.ffn import down_projections
from fastvlm_bench.utilisation.neurons import key_neurons, most_of


@dataclass(frozen=True)
class LayerUse:
    """One layer, counted from 1. key: neurons of each answer; used: of all answers together, each counted once."""

    layer: int
    neurons: int
    key: int
    used: int

    @property
    def share(self) -> float:
        return self.used / self.neurons


@dataclass(frozen=True)
class Utilisation:
    """What was found. tokens: of all answers. growth: (samples, share of the full model) after 1, 2, 4, … samples."""

    model: str
    suite: str
    split: str
    samples: int
    tokens: int
    key_share: float
    device: str
    dtype: str
    layers: tuple[LayerUse, ...]
    growth: tuple[tuple[int, float], ...]

    def below(self, exit_layer: int) -> float:
        """The share of the neurons of the layers that run up to an exit."""
        own = self.layers[:exit_layer]
        return sum(one.used for one in own) / sum(one.neurons for one in own)

    @property
    def whole(self) -> float:
        """The share of the full model: the model utilisation index."""
        return self.below(len(self.layers))


def utilisation(config: RunConfig, key_share: float, *, quiet: bool = False) -> Utilisation:
    """Let the target answer the suite's samples greedily, and count the neurons that its answers use.

    UsageError for whatever is wrong with what was asked, before the model is loaded where possible.
    """
    check_model_name(config.model)
    suite = load_suite(config.suites[0], split=config.split, data=config.data, limit=config.limit,
                       offline=config.offline, prompt_set=config.prompt_set, prompt=config.prompt)  # fmt: skip
    check_images(suite)
    target = load_target(config.model, **config.loading)
    downs = down_projections(target.model)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    most = config.max_new_tokens or suite.max_new_tokens
    used = [torch.zeros(down.in_features, dtype=torch.bool) for down in downs]
    total, tokens, growth = sum(len(one) for one in used), 0, list[tuple[int, float]]()
    samples = [training_sample(suite.name, sample) for sample in suite.samples]
    with Display(quiet=quiet, stderr=True) as display, torch.inference_mode():
        report = display.bar("answers", len(samples))
        for number, sample in enumerate(samples, start=1):
            ((answer, ended),) = greedy_answers(target, [sample], most)
            example = Example(sample, answer, ended, most)
            for mine, key in zip(used, key_neurons(target, downs, example, key_share), strict=True):
                mine[key] = True
            tokens += len(answer)
            if number & (number - 1) == 0 or number == len(samples):
                growth.append((number, sum(int(one.sum()) for one in used) / total))
            report(number)
    return Utilisation(
        model=config.model, suite=suite.name, split=suite.split, samples=len(samples), tokens=tokens,
        key_share=key_share, device=str(target.device), dtype=str(target.model.dtype).removeprefix("torch."),
        layers=tuple(
            LayerUse(number, len(one), most_of(len(one), key_share), int(one.sum()))
            for number, one in enumerate(used, start=1)
        ),
        growth=tuple(growth),
    )  # fmt: skip
