"""Phase 1 (arXiv 2510.22641, optional): the backbone itself is fine-tuned, with the task loss and a loss at the exits.

Loss = CE(next token | last layer) + w · mean over exits of CE(next token | exit), both through the target's own norm
and LM head (the exit loss is LayerSkip's, arXiv 2404.16710). The result is another model, in a folder of its own. Its
gain in speed comes from this training, so the change in quality that came with it is always reported, too.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.errors import BenchError, UsageError
from fastvlm_bench.models.hub import quiet
from fastvlm_bench.models.load import PHASE_1, Target
from fastvlm_bench.records.storage import write_atomically
from fastvlm_bench.training import parallel
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.folder import BACKBONE, BACKBONE_STATE, TrainingFolder
from fastvlm_bench.training.micro_batch import MicroBatch
from fastvlm_bench.training.muon import Muon
from fastvlm_bench.training.observe import Observer
from fastvlm_bench.training.order import Order
from fastvlm_bench.training.settings import TrainSettings, check_lora
from fastvlm_bench.training.tail import Tail

SAVE_EVERY_S = 60.0
LORA_RANK = 16


def finetune(
    settings: TrainSettings, target: Target, examples: Sequence[Example], folder: TrainingFolder, display: Display
) -> str:
    """Train the target's decoder layers on the texts and write the new model; returns its folder, `out/backbone`.

    This changes the weights of `target`. A stopped training goes on from its last saved state. UsageError where the
    target cannot be fine-tuned.
    """
    made = folder.path / BACKBONE
    if not parallel.from_leader((made / "config.json").is_file()):
        learning = _Backbone(settings, target, examples, folder, display)
        learning.run()
        parallel.lead(lambda: learning.write(made))
    return str(made)


def remember(made: Path, settings: TrainSettings, quality: Sequence[Mapping[str, Any]]) -> None:
    """Write into the new model's folder how it was made. Its runs record that, and an ablation's table shows it."""
    story = {
        "how": settings.finetune_backbone,
        "of": settings.model,
        "exits": settings.places(),
        "quality": list(quality),
    }
    write_atomically(made / PHASE_1, (json.dumps(story, indent=1) + "\n").encode())


class _Backbone:
    def __init__(
        self, settings: TrainSettings, target: Target, examples: Sequence[Example], folder: TrainingFolder,
        display: Display,
    ) -> None:  # fmt: skip
        if target.model.dtype != torch.float32:
            raise UsageError(
                f"--finetune-backbone trains float32 weights, not {str(target.model.dtype).removeprefix('torch.')}; "
                "add --dtype float32"
            )
        self.settings, self.target, self.examples = settings, target, examples
        self.folder, self.display = folder, display
        self.exits = settings.places()
        self.observer = Observer(target, self.exits, 1)
        self.observer.choose_route(examples)
        if not self.observer.packs:
            raise UsageError(
                f"{type(target.model).__name__} cannot be fine-tuned here: a text passes it otherwise in one piece "
                "than when it is generated; train the draft alone"
            )
        self.micro = MicroBatch(settings.micro, display.say)
        self.tail = Tail(target, self.observer, examples[0])
        self.model = self._trainable()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        matrices = [p for p in self.parameters if p.ndim == 2]
        others = [p for p in self.parameters if p.ndim != 2]
        self.lr = settings.backbone_lr
        self.optimisers: list[torch.optim.Optimizer] = [Muon(matrices, lr=self.lr, weight_decay=0.0)]
        if others:
            self.optimisers.append(torch.optim.AdamW(others, lr=self.lr, betas=(0.9, 0.95), weight_decay=0.0))

    def _trainable(self) -> Any:
        """The model, frozen except for its decoder layers (full) or for adapters on their linear layers (lora)."""
        model = self.target.model
        model.requires_grad_(False)
        if self.settings.finetune_backbone == "full":
            self.target.layers.requires_grad_(True)
            return model
        check_lora()
        import peft

        names = {id(module): name for name, module in model.named_modules()}
        linear = [names[id(m)] for layer in self.target.layers for m in layer.modules() if isinstance(m, nn.Linear)]
        torch.manual_seed(self.settings.seed)
        return peft.get_peft_model(
            model, peft.LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=linear, lora_dropout=0.0)
        )

    def run(self) -> None:
        """Do the updates that are left. Several processes share each batch, and add up their gradients."""
        s, done, total = self.settings, 0, self.settings.backbone_updates
        if stored := self.folder.load(BACKBONE_STATE, self.target.device):
            with torch.no_grad():
                for parameter, value in zip(self.parameters, stored["weights"], strict=True):
                    parameter.copy_(value)
            for optimiser, value in zip(self.optimisers, stored["optimisers"], strict=True):
                optimiser.load_state_dict(value)
            done = stored["done"]
        order, bar, saved = Order(self.examples, s.batch, s.seed), self.display.bar("backbone", total), time.monotonic()
        lately: list[tuple[float, float]] = []
        while done < total:
            batch = order.batch(done)
            sums = self.micro.fit(lambda size: self._backward(batch, done, size), f"at update {done + 1}")  # noqa: B023
            task, exits = parallel.sum_values(sums).values()
            lately.append((task, exits))
            parallel.sum_gradients(self.parameters)
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = self.lr * min((done + 1) / 30, 1.0, 0.02 + 0.98 * (1 - done / total) / 0.5)
                optimiser.step()
            done += 1
            bar(done)
            if done % s.validate_every == 0 or done == total:
                task, exits = (sum(values) / len(values) for values in zip(*lately, strict=True))
                lately.clear()
                self.folder.log({"backbone": done, "task_loss": task, "exit_loss": exits})
                self.display.say(f"backbone, update {done}: task loss {task:.4f}, exit loss {exits:.4f}")
            if time.monotonic() - saved > SAVE_EVERY_S:
                self._save(done)
                saved = time.monotonic()

    def write(self, made: Path) -> None:
        """Write the trained model as a checkpoint folder, under a temporary name until it is complete."""
        model = self.model.merge_and_unload() if self.settings.finetune_backbone == "lora" else self.model
        temporary = made.with_name(f".{BACKBONE}.{os.getpid()}.tmp")
        with quiet(downloads=False):
            model.save_pretrained(temporary)
        self.target.processor.save_pretrained(temporary)
        temporary.rename(made)
        (self.folder.path / BACKBONE_STATE).unlink(missing_ok=True)

    def _backward(self, batch: Sequence[Example], done: int, size: int) -> dict[str, float]:
        """Compute the gradients of the mean loss over all answer tokens, this process's part of it.

        Returns its parts of the task loss and of the exit loss. The first answer token is learnt, too: no draft
        predicts it, but the backbone does.
        """
        positions = sum(len(example.answer) for example in batch)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        sums = {"task": 0.0, "exits": 0.0}
        mine = parallel.share(batch)
        for start in range(0, len(mine), size):
            group = mine[start : start + size]
            inputs, told = self.observer.padded(group)
            told |= told.roll(-1, dims=1)  # also the prompt's last position, which predicts the first answer token
            next_tokens = inputs["input_ids"].roll(-1, dims=1)[told]
            with _layer_inputs(self.target.layers, self.exits) as seen:
                self.target.model(**inputs, use_cache=False, logits_to_keep=1)
            each = [
                nn.functional.cross_entropy(self.tail(states[told]), next_tokens, reduction="sum") / positions
                for states in seen.values()
            ]
            task, exits = each[-1], torch.stack(each[:-1]).mean()
            loss = task + self.settings.exit_weight * exits
            if not torch.isfinite(loss):
                names = ", ".join(e.sample.sample_id for e in group)
                raise BenchError(f"backbone loss is {loss.item()} at update {done + 1} on samples {names}; "
                                 "try a smaller --backbone-lr")  # fmt: skip
            loss.backward()
            sums = {"task": sums["task"] + task.item(), "exits": sums["exits"] + exits.item()}
        return sums

    def _save(self, done: int) -> None:
        weights = [p.detach() for p in self.parameters]
        optimisers = [o.state_dict() for o in self.optimisers]
        self.folder.save(BACKBONE_STATE, {"done": done, "weights": weights, "optimisers": optimisers})


@contextmanager
def _layer_inputs(layers: nn.ModuleList, wanted: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Record, with gradients, what arrives at the wanted layers and, as the last entry, the last layer's output."""
    seen: dict[int, Tensor] = {}

    def arrives(index: int) -> Any:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[index] = args[0] if args else kwargs["hidden_states"]

        return keep

    def leaves(_: nn.Module, __: Any, result: Any) -> None:
        seen[len(layers)] = result[0] if isinstance(result, tuple) else result

    hooks = [layers[i].register_forward_pre_hook(arrives(i), with_kwargs=True) for i in sorted(wanted)]
    hooks.append(layers[len(layers) - 1].register_forward_hook(leaves))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
