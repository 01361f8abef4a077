"""Which neurons one answer uses: those of each layer that contribute most to one of its tokens (arXiv 2504.07440).

What neuron i of layer l contributes to token y at its place: act_i · (W_down[:, i] · W_U[y]), where act is what enters
the map down at the place that predicts y, and W_U the LM head. Its score in an answer is its largest contribution to
any token. The best `share` of the layer's neurons are key neurons of the answer.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.utilisation.ffn import directions


def key_neurons(target: Target, downs: Sequence[nn.Linear], example: Example, share: float) -> list[Tensor]:
    """For each layer the indices of the answer's key neurons, in no order.

    The answer is read after its prompt, teacher-forced: by the prefill, whose last place predicts its first token, and
    one more pass.
    """
    reads = _Reads(example.answer, downs)
    unstopped(target.model)(
        **example.inputs(target), max_new_tokens=len(example.answer) + 1, do_sample=False, num_beams=1,
        custom_generate=reads,
    )  # fmt: skip
    says = directions(target.model, example.answer)
    found = []
    for down, activations in zip(downs, reads.activations, strict=True):
        if len(activations) != len(example.answer):
            raise RuntimeError(f"{len(activations)} places of an FFN were read, of {len(example.answer)} tokens")
        scores = contributions(activations, down.weight.detach().float(), says.to(activations.device)).amax(dim=0)
        found.append(scores.topk(most_of(down.in_features, share)).indices.cpu())
    return found


def contributions(activations: Tensor, down: Tensor, says: Tensor) -> Tensor:
    """(tokens, neurons): act · (W_down[:, i] · W_U[y]). activations: (tokens, neurons); down: (width, neurons); says:
    (tokens, width)."""
    return activations * (says @ down)


def most_of(neurons: int, share: float) -> int:
    """How many key neurons a layer has in each answer: at least one, for the paper's thousandth of few is none."""
    return max(1, math.floor(neurons * share))


class _Reads:
    """A `custom_generate` that reads a given answer. activations: of each layer's neurons at the places that predict
    the answer's tokens, (tokens, neurons), float32."""

    def __init__(self, answer: Sequence[int], downs: Sequence[nn.Linear]) -> None:
        self.answer, self.downs = list(answer), downs
        self.activations: list[Tensor] = []
        self._seen: list[list[Tensor]] = [[] for _ in downs]

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        with ExitStack() as hooks:
            for down, seen in zip(self.downs, self._seen, strict=True):
                hooks.callback(down.register_forward_pre_hook(lambda _, given, own=seen: own.append(given[0])).remove)
            session.prefill()
            first = [seen[-1].reshape(-1, seen[-1].shape[-1])[-1:] for seen in self._seen]
            session.replace_last(self.answer[0])
            rest: list[Tensor | None] = [None] * len(self.downs)
            if len(self.answer) > 1:
                session.read(self.answer[1:])
                rest = [seen[-1].reshape(-1, seen[-1].shape[-1]) for seen in self._seen]
        self.activations = [
            (one if more is None else torch.cat([one, more])).float() for one, more in zip(first, rest, strict=True)
        ]
        return session.sequences
