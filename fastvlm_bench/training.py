"""Fits imitation heads on a frozen target: one forward pass serves every exit and head at once.

Section 3 of arXiv 2510.22641, phase 2: cosine similarity to deeper hidden states + knowledge distillation + cross-
entropy. The text is the target's own greedy output, so a head is trained on exactly the prefixes that it will be
tested on: a drafted token is worth something only while everything before it was the target's choice.
"""

import copy
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.decoding.layer_gate import Head
from fastvlm_bench.drafts import Manifest
from fastvlm_bench.heads import ImitationHead, new_head
from fastvlm_bench.imitation_head import Draft, describe_target
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.muon import Muon

LOSSES = {"cosine": 0.1, "kd": 1.0, "ce": 0.5}
FUSED = 3  # the cosine term's aim is the mean of the last three layers' states, reported best by the paper


@dataclass
class Example:
    """Processor outputs for one prompt (batch of one, on the target's device) and the target's answer, EOS included."""

    inputs: dict[str, Tensor]
    answer: list[int]


@dataclass
class Exit:
    """A head in training at its exit layer, with the running counts of its last validation."""

    layer: int
    kind: str
    head: ImitationHead
    alpha: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind}-exit{self.layer}"


@dataclass
class Captured:
    """Layer inputs of one pass, as the layers got them. states: layer -> (batch, tokens, width); kwargs likewise."""

    states: dict[int, Tensor] = field(default_factory=dict)
    kwargs: dict[int, dict[str, Any]] = field(default_factory=dict)


@contextmanager
def captured(layers: nn.ModuleList, wanted: Sequence[int]) -> Iterator[Captured]:
    """Record what arrives at the wanted layers (a pre-hook: `output_hidden_states` is wrong where DeepStack adds)."""
    seen, hooks = Captured(), []

    def hook(index: int) -> Callable[..., None]:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.states[index] = args[0] if args else kwargs["hidden_states"]
            seen.kwargs[index] = {k: v for k, v in kwargs.items() if k not in ("hidden_states", "past_key_values")}

        return keep

    try:
        hooks = [layers[i].register_forward_pre_hook(hook(i), with_kwargs=True) for i in wanted]
        yield seen
    finally:
        for handle in hooks:
            handle.remove()


class HeadTrainer:
    """Trains several (exit layer, head kind) pairs together on one frozen target."""

    def __init__(self, model: Any, exits: Sequence[tuple[int, str]], *, lr: float = 1e-2, updates: int) -> None:
        self.model, self.layers = model.requires_grad_(False), decoder_layers(model)
        self.exits = [Exit(layer, kind, new_head(kind, model, layer)) for layer, kind in exits]
        for item in self.exits:
            item.head.requires_grad_(True).train()
        self.updates, self.done = updates, 0
        parameters = [p for item in self.exits for p in item.head.parameters()]
        self.lr = lr
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon([p for p in parameters if p.ndim == 2], lr=lr, weight_decay=0.01),
            torch.optim.AdamW([p for p in parameters if p.ndim != 2], lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        # Final norm and LM head are called as the target has them; the width of the last layer's output fits both.
        self.norm = copy.copy(_final_norm(model))
        self.output = model.get_output_embeddings()

    def update(self, batch: "Batch") -> dict[str, float]:
        """One optimiser step on one batch; returns each exit's loss."""
        seen, top, deeper = self._observe(batch)
        with torch.no_grad():
            logits = self.output(self.norm(top[batch.told]))
            soft, hard = logits.log_softmax(-1), logits.argmax(-1)
            aim = deeper[batch.told]
        total, values = torch.zeros((), device=top.device), {}
        for item in self.exits:
            states = self._imitate(item, seen)[batch.told]
            drafted = self.output(self.norm(states)).log_softmax(-1)
            loss = (
                LOSSES["cosine"] * (1 - nn.functional.cosine_similarity(states, aim, dim=-1)).mean()
                + LOSSES["kd"] * nn.functional.kl_div(drafted, soft, log_target=True, reduction="batchmean")
                + LOSSES["ce"] * nn.functional.nll_loss(drafted, hard)
            )
            if not torch.isfinite(loss):
                raise FloatingPointError(f"loss of {item.name} is {loss.item()} at update {self.done}")
            total, values[item.name] = total + loss, loss.item()
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        total.backward()
        for item in self.exits:  # each head by itself: one that is far off must not slow the others
            nn.utils.clip_grad_norm_(item.head.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.lr * self._rate()
            optimiser.step()
        self.done += 1
        return values

    def _rate(self) -> float:
        """Learning-rate factor: linear warm-up over 30 updates, flat, linear to 2 % over the last half."""
        return min((self.done + 1) / 30, 1.0, 0.02 + 0.98 * (1 - self.done / self.updates) / 0.5)

    @torch.no_grad()
    def validate(self, batches: Sequence["Batch"], suite: str) -> None:
        """α of each exit on held-out batches: how often its argmax is the target's, on the target's own text."""
        right, tested = dict.fromkeys((e.name for e in self.exits), 0), 0
        for batch in batches:
            seen, top, _ = self._observe(batch)
            hard = self.output(self.norm(top[batch.told])).argmax(-1)
            tested += hard.numel()
            for item in self.exits:
                states = self._imitate(item, seen)[batch.told]
                right[item.name] += int((self.output(self.norm(states)).argmax(-1) == hard).sum())
        for item in self.exits:
            item.alpha[suite] = round(right[item.name] / max(tested, 1), 4)

    def drafts(self, data: dict[str, Any], default: str = "") -> dict[str, Draft]:
        """The trained heads as drafts with their manifests; the one named `default` is marked as such."""
        made = {}
        for item in self.exits:
            manifest = Manifest(
                exit_layer=item.layer,
                head=item.kind,
                losses=LOSSES,
                data=data,
                validation=item.alpha,
                default=item.name == default,
                head_parameters=sum(p.numel() for p in item.head.parameters()),
                **describe_target(self.model),
            )
            made[item.name] = Draft(item.layer, item.head.eval(), manifest)
        return made

    def _observe(self, batch: "Batch") -> tuple[Captured, Tensor, Tensor]:
        """A frozen pass: layer inputs, the last layer's output and the mean of the last three layers' outputs."""
        last = len(self.layers)
        wanted = sorted({e.layer for e in self.exits} | {last - FUSED + 1 + i for i in range(FUSED - 1)})
        tops: list[Tensor] = []
        handle = self.layers[last - 1].register_forward_hook(
            lambda _, __, out: tops.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            with torch.no_grad(), captured(self.layers, wanted) as seen:
                self.model(**batch.inputs, use_cache=False, logits_to_keep=1)
        finally:
            handle.remove()
        deeper = [seen.states[last - i] for i in range(1, FUSED)] + tops
        return seen, tops[0], torch.stack(deeper).mean(0)

    @staticmethod
    def _imitate(item: Exit, seen: Captured) -> Tensor:
        head: Head = item.head
        return head(seen.states[item.layer], **{**seen.kwargs[item.layer], "past_key_values": None})


@dataclass
class Batch:
    """Right-padded examples. `told`, (batch, tokens), marks the positions whose next token the target chose itself."""

    inputs: dict[str, Tensor]
    told: Tensor


def batched(examples: Sequence[Example], size: int, pad: int, seed: int) -> Iterator[Batch]:
    """Endless batches; examples of like length together, so that little is padding."""
    order = random.Random(seed)
    while True:
        indices = sorted(range(len(examples)), key=lambda i: (len(examples[i].answer) // 8, order.random()))
        groups = [indices[i : i + size] for i in range(0, len(indices), size)]
        order.shuffle(groups)
        for group in groups:
            yield collate([examples[i] for i in group], pad)


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Prompt + answer of each example, padded on the right: causal attention then needs no thought for padding."""
    rows = [torch.cat([e.inputs["input_ids"][0], e.inputs["input_ids"].new_tensor(e.answer)]) for e in examples]
    length = max(len(row) for row in rows)
    ids = rows[0].new_full((len(rows), length), pad)
    mask, told = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, (row, example) in enumerate(zip(rows, examples, strict=True)):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
        # The first answer token comes from prefill and is never drafted; the state of EOS predicts nothing.
        told[i, len(row) - len(example.answer) : len(row) - 1] = True
    others = {
        key: torch.cat([e.inputs[key] for e in examples])
        for key in examples[0].inputs
        if key not in ("input_ids", "attention_mask")
    }
    return Batch({"input_ids": ids, "attention_mask": mask, **others}, told)


@torch.inference_mode()
def own_answers(model: Any, processor: Any, inputs: Sequence[dict[str, Tensor]], most: int, size: int) -> list[Example]:
    """The target's greedy answers, generated in left-padded batches of prompts of any length."""
    pad, eos = processor.tokenizer.pad_token_id, model.generation_config.eos_token_id
    ends = {eos} if isinstance(eos, int) else set(eos)
    out: list[Example] = []
    for start in range(0, len(inputs), size):
        group = inputs[start : start + size]
        width = max(i["input_ids"].shape[1] for i in group)
        ids = torch.cat(
            [nn.functional.pad(i["input_ids"], (width - i["input_ids"].shape[1], 0), value=pad) for i in group]
        )
        mask = torch.cat([nn.functional.pad(i["attention_mask"], (width - i["input_ids"].shape[1], 0)) for i in group])
        others = {k: torch.cat([i[k] for i in group]) for k in group[0] if k not in ("input_ids", "attention_mask")}
        made = model.generate(
            input_ids=ids, attention_mask=mask, **others, max_new_tokens=most, do_sample=False, pad_token_id=pad
        )
        for one, row in zip(group, made[:, width:].tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
            out.append(Example(dict(one), row[:end]))
    return out


def _final_norm(model: Any) -> nn.Module:
    """The text decoder's final norm, by the names in use; identity where the decoder has none."""
    decoder = model.get_decoder()
    for name in ("norm", "final_layer_norm", "final_layernorm", "ln_f", "layer_norm"):
        module = getattr(decoder, name, None)
        if isinstance(module, nn.Module):
            return module
    return nn.Identity()


def fit(
    trainer: HeadTrainer, batches: Iterator[Batch], validation: Mapping[str, Sequence[Batch]],
    report: Callable[[int, float, dict[str, float]], None], *, every: int = 100,
) -> None:  # fmt: skip
    """Run all updates; validate and report every `every` updates and at the end."""
    began = time.monotonic()
    while trainer.done < trainer.updates:
        losses = trainer.update(next(batches))
        if trainer.done % every == 0 or trainer.done == trainer.updates:
            for suite, held_out in validation.items():
                trainer.validate(held_out, suite)
            report(trainer.done, time.monotonic() - began, losses)
