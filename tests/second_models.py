"""Draft models of one's own for tests: copies of a target whose weights are a little off, and given inputs."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from families.builders import plain
from torch import Tensor

from fastvlm_bench.decoding.draft_model import DraftModel
from fastvlm_bench.engine.session import placeholders
from fastvlm_bench.models.load import Target


@dataclass
class Given(Target):
    """A model whose inputs are given as tensors: the prompt of `encode` is their number."""

    inputs: list[dict[str, Tensor]] = field(default_factory=list)

    def encode(self, image: Any, prompt: str) -> dict[str, Tensor]:
        return self.inputs[int(prompt)]


def given(model: Any, tokenizer: Any, *inputs: dict[str, Tensor]) -> Given:
    return Given("given", model, tokenizer, torch.device("cpu"), None, inputs=list(inputs))


def off(model: Any, share: float, seed: int = 0) -> Any:
    """A copy of `model` with noise added to its matrices, whose size is this share of theirs."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim == 2:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * parameter.std() * share)
    return other


def show(method: Any, count: int = 1) -> Any:
    method.show([(None, str(number)) for number in range(count)])
    return method


def continuation(model: Any, inputs: dict[str, Tensor], said: list[int], count: int, **options: Any) -> list[int]:
    """What transformers' own greedy loop lets a model say after its prompt and `said`; no placeholders."""
    longer = dict(inputs)
    for key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if key in inputs:
            more = said if key == "input_ids" else [int(key == "attention_mask")] * len(said)
            longer[key] = torch.cat([inputs[key], torch.tensor([more], dtype=inputs[key].dtype)], dim=1)
    return plain(model, longer, count, **{"suppress_tokens": silent(model), **options})


def silent(model: Any) -> list[int] | None:
    """The placeholders of a model, for the option `suppress_tokens`."""
    return sorted(placeholders(model)) or None


class Watched(DraftModel):
    """Remembers for each round and row what had been said, and what was drafted then."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: list[tuple[int, list[int], list[int]]] = []

    def propose(self, session: Any, drafts: Any) -> None:
        before = [(row.place, list(row.tokens)) for row in session.rows]
        super().propose(session, drafts)
        self.seen += [(*told, list(own)) for told, own in zip(before, drafts.tokens, strict=True)]


def drafts_of_its_own(method: Watched, every: int = 3, **options: Any) -> int:
    """Check that drafts are what the draft model says by itself, in a loop of transformers. Returns how many were.

    every: check each so many'th round. options: with which the target was asked.
    """
    model, checked = method.second.model, 0
    never = placeholders(model)
    for place, said, drafted in method.seen[::every]:
        if drafted and not never.intersection(said):  # else the loop of transformers would look for an image
            own = continuation(model, method._shown[place], said, len(drafted), **options)
            assert drafted[: len(own)] == own, (place, len(said))
            checked += len(own)
    return checked


def stood(method: Any) -> tuple[int, int]:
    """(accepted, rejected) drafts of the latest call."""
    rounds = [done for row in method.trace.rows for done in row.rounds]
    return sum(r.accepted for r in rounds), sum(r.tested - r.accepted for r in rounds)
