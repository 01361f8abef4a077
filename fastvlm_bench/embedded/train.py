"""Train the embedded vision-language model from scratch: `python -m fastvlm_bench.embedded.train --out DIR`.

Three stages, each a pure function of the seed, each resumable from its last checkpoint:

tower         the SigLIP tower learns what lies in each cell, through a linear probe that is thrown away
language      projector and decoder learn to answer, caption and describe; the tower is frozen
descriptions  the same with half the learning rate and long descriptions in most rows, which are learnt last

The decoder is trained as it stands: no layer is copied, split or added on the way. What the card compares it with is
made by `--halve`, every second layer of a finished model, which learns on; or from scratch by `--layers` and `--tower`
(for the same tower).

The loss is next-token cross-entropy at the last layer, nothing else: no exit ever has a loss of its own. Two threads
make one half of each batch each, take its gradient, and then update one half of the matrices each. They wait for each
other twice per update, not once per operation, so that other work on one core does not slow down the other core.
"""

import argparse
import json
import math
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from fastvlm_bench.embedded.batches import LABELS, Packer, patch_labels, pixels
from fastvlm_bench.embedded.parts import WIDTH, build_config, build_processor, build_tokenizer, save
from fastvlm_bench.training.muon import Muon
from fastvlm_bench.world import language, questions
from fastvlm_bench.world.scenes import sample_scene

LAYERS = 12
ROW_TOKENS = 256
SAVE_EVERY_S = 120.0
HALVES = 2


def tokenizer_texts(seed: int, scenes: int = 3000) -> list[str]:
    """A sample of all prompts and answers, from which the tokenizer learns its vocabulary."""
    prompts = [language.CAPTION_PROMPT, language.PHOTO_PROMPT, language.DESCRIBE_PROMPT, language.LONG_PROMPT]
    rng, texts = np.random.default_rng(seed), prompts * 50
    for _ in range(scenes):
        scene = sample_scene(rng, held_out=False)
        texts += [language.caption(scene, v) for v in range(language.CAPTION_VARIANTS)]
        texts.append(language.description(scene))
        for q in questions.questions(scene, rng):
            texts.append(f"USER: \n{q.text}{questions.UNANSWERABLE}{questions.SHORT_ANSWER} ASSISTANT: {q.answer}")
            texts.append(f"Question: {q.text} Short answer: {q.answer}")
        told = " ".join(f"q: {q.text} a: {q.answer}" for q in questions.dialog(scene, rng, 3))
        texts.append(f"Dialog history: {told}\n Question:")
    return texts


def optimisers(module: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, patches, projector biases and norms."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, param in module.named_parameters():
        if param.requires_grad:
            (matrices if param.ndim == 2 and "layers." in name else others).append(param)
    return [
        *(Muon(matrices[part::HALVES], lr=lr, weight_decay=0.02) for part in range(HALVES)),  # one for each thread
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(done: int, updates: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up, flat, then linear to 2 % over the last 40 % of the stage.

    In the first 60 % it does not depend on `updates`, so a checkpoint from there may be resumed with another total.
    """
    return min(done / warmup + 1e-3, 1.0, 0.02 + 0.98 * (1 - done / updates) / 0.4)


class Stage:
    """One stage: its trained module, its loss, its number of updates. Runs, logs, saves and resumes."""

    def __init__(
        self, name: str, module: nn.Module, loss: Callable[[np.random.Generator], tuple[Tensor, dict[str, float]]],
        *, updates: int, warmup: int, lr: float, seed: int, out: Path,
    ) -> None:  # fmt: skip
        self.warmup = warmup
        self.name, self.module, self.loss, self.updates, self.seed, self.out = name, module, loss, updates, seed, out
        self.lr, self.optimisers = lr, optimisers(module, lr)
        self.params = [p for p in module.parameters() if p.requires_grad]
        self.threads = ThreadPoolExecutor(HALVES, initializer=partial(torch.set_num_threads, 1))

    @property
    def path(self) -> Path:
        return self.out / f"{self.name}.pt"

    def save(self, done: int) -> None:
        state = {"done": done, "updates": self.updates, "module": self.module.state_dict(),
                 "optimisers": [o.state_dict() for o in self.optimisers] if done < self.updates else []}  # fmt: skip
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)

    def _half(self, rng: np.random.Generator) -> tuple[float, dict[str, float], tuple[Tensor, ...]]:
        loss, values = self.loss(rng)
        gradients = torch.autograd.grad(loss, self.params, allow_unused=True, materialize_grads=True)
        return loss.item(), values, gradients

    def _take_gradients(self, done: int) -> dict[str, float]:
        """Set the parameters' gradients to the mean over the halves. Returns the means of the values to log."""
        rngs = [np.random.default_rng([self.seed, *self.name.encode(), done, half]) for half in range(HALVES)]
        halves = list(self.threads.map(self._half, rngs))
        for param, *gradients in zip(self.params, *(half[2] for half in halves), strict=True):
            param.grad = torch.stack(gradients).mean(dim=0)
        logged = [{"loss": loss, **values} for loss, values, _ in halves]
        return {key: float(np.mean([one[key] for one in logged])) for key in logged[0]}

    def _trim_log(self, done: int) -> None:
        """Drop what this stage logged after the checkpoint: those updates will be made and logged again."""
        path = self.out / "log.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        kept = [line for line in lines if line["stage"] != self.name or line["done"] <= done]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def run(self, progress: Progress) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        done = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            if state["updates"] != self.updates and state["done"] > 0.6 * min(self.updates, state["updates"]):
                raise SystemExit(f"{self.path} belongs to a run of {state['updates']} updates; use another --out")
            self.module.load_state_dict(state["module"])
            done = state["done"]
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=False):
                optimiser.load_state_dict(saved)
        self._trim_log(done)
        bar = progress.add_task(self.name, total=self.updates, completed=done, note="")
        saved_at, began, logged = time.monotonic(), time.monotonic(), dict[str, list[float]]()
        while done < self.updates:
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = self.lr * rate(done, self.updates, self.warmup)
            values = self._take_gradients(done)
            if not math.isfinite(values["loss"]):
                raise SystemExit(f"loss is {values['loss']} at update {done} of stage {self.name}")
            nn.utils.clip_grad_norm_(self.params, 1.0)
            list(self.threads.map(lambda optimiser: optimiser.step(), self.optimisers))
            done += 1
            for key, value in values.items():
                logged.setdefault(key, []).append(value)
            if done % 25 == 0 or done == self.updates:
                means = {k: round(float(np.nanmean(v)), 4) for k, v in logged.items()}
                line = {"stage": self.name, "done": done, "elapsed_s": round(time.monotonic() - began, 1), **means}
                with (self.out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                logged.clear()
                progress.update(bar, note=" ".join(f"{k} {v:.3f}" for k, v in means.items()))
            if time.monotonic() - saved_at > SAVE_EVERY_S or done == self.updates:
                self.save(done)
                saved_at = time.monotonic()
            progress.update(bar, completed=done)


def tower_stage(model: LlavaForConditionalGeneration, images: int, **options: Any) -> Stage:
    """The stage that trains the tower through a linear probe on its patches. images: how many an update sees.

    The probe also has to tell each patch's cell, so that positions can be read from the tower's states.
    """
    probes = nn.ModuleDict({name: nn.Linear(WIDTH, classes) for name, classes in LABELS.items()})
    tower = model.model.vision_tower

    def loss(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes = [sample_scene(rng, held_out=False) for _ in range(images // HALVES)]
        states = tower(pixels(scenes)).last_hidden_state
        states = nn.functional.layer_norm(states, (WIDTH,))
        total, right = torch.zeros(()), {}
        labels = patch_labels(scenes)
        occupied = labels["kind"] > 0
        for name, probe in probes.items():
            logits = probe(states)
            total = total + nn.functional.cross_entropy(logits.flatten(0, 1), labels[name].flatten())
            right[name] = (logits.argmax(-1) == labels[name])[occupied].float().mean().item()
        return total, right

    return Stage("tower", nn.ModuleList([tower, probes]), loss, **options)


def language_stage(
    name: str, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, rows: int, described: float,
    **options: Any,
) -> Stage:  # fmt: skip
    """A stage of projector and decoder: weighted next-token cross-entropy, `rows` packed rows an update."""
    packer = Packer(tokenizer, ROW_TOKENS, described)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    model.model.vision_tower.requires_grad_(False)
    one_at_a_time = threading.Lock()  # a call that asks for hidden states patches the tower until it returns

    def loss(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = packer.rows(rows // HALVES, rng)
        with one_at_a_time, torch.no_grad():
            seen = model.model.vision_tower(batch.images, output_hidden_states=True).hidden_states[-1]
        embedded = model.get_input_embeddings()(batch.ids)
        features = model.model.multi_modal_projector(seen)
        embedded = embedded.masked_scatter((batch.ids == image_id)[..., None], features)
        states = model.model.language_model(
            inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        told = batch.targets >= 0
        logits, targets, weights = model.lm_head(states[told]), batch.targets[told], batch.weights[told]
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        right, short = (logits.argmax(-1) == targets).float(), weights == 1
        return (losses * weights).sum() / weights.sum(), {
            "answer_tokens": right[short].mean().item(), "text_tokens": right[~short].mean().item(),
        }  # fmt: skip

    return Stage(name, model, loss, **options)


def every_second_layer(checkpoint: Path) -> LlavaForConditionalGeneration:
    """A finished model without its second, fourth, ... decoder layer, in float32."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    decoder = model.model.language_model
    decoder.layers = nn.ModuleList(decoder.layers[::2])
    for index, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = index
    decoder.config.num_hidden_layers = len(decoder.layers)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, log and the final checkpoint folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=LAYERS, help="layers of the decoder")
    parser.add_argument("--tower", type=Path, help="another training's tower.pt, instead of a tower stage of its own")
    parser.add_argument("--halve", type=Path, help="checkpoint folder: learn on with every second layer of its decoder")
    parser.add_argument("--updates", type=int, nargs=3, default=[2000, 9000, 2400],
                        metavar=("TOWER", "LANGUAGE", "DESCRIPTIONS"))  # fmt: skip
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.halve:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.halve)
        model = every_second_layer(args.halve)
    else:
        tokenizer = build_tokenizer(tokenizer_texts(args.seed))
        model = LlavaForConditionalGeneration._from_config(build_config(tokenizer, args.layers))
    if args.tower and not (args.out / "tower.pt").exists():
        shutil.copy(args.tower, args.out / "tower.pt")
    columns = (TextColumn("{task.description:9}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns) as progress:
        if not args.halve:
            common = {"seed": args.seed, "out": args.out, "updates": args.updates[0], "warmup": 50, "lr": 2e-3}
            tower_stage(model, 48, **common).run(progress)
        for name, updates, described, lr in (("language", args.updates[1], 0.5, 2e-3),
                                             ("descriptions", args.updates[2], 0.88, 1e-3)):  # fmt: skip
            common = {"seed": args.seed, "out": args.out, "updates": updates, "warmup": 160, "lr": lr}
            language_stage(name, model, tokenizer, 8, described, **common).run(progress)
    model.generation_config.max_length = None
    save(model, build_processor(tokenizer), args.out / "checkpoint")
    print(f"checkpoint written to {args.out / 'checkpoint'}")


if __name__ == "__main__":
    main()
