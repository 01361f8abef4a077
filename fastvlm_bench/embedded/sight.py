"""Teach the target `smol` to see: `python -m fastvlm_bench.embedded.sight --out DIR`, with the extra `smol`.

Its language model stays as published. A SigLIP tower and a projector learn to put, at each image position, the text
embedding of one word of a fixed description of the scene (`world/slots.py`). So the language model reads the picture as
it would read that description, and no gradient has to pass through it.

First the tower learns to tell the words apart: the loss at a position is the cross-entropy of the right word among
all words that a slot can hold, by the squared distance of the projector's output to their embeddings. That says which
word is nearest, not how near it is, and the language model reads no word in a vector that is far from all. So a new
projector is then fitted on the finished tower, to the embeddings themselves. What a stopped training reached is found
in DIR and goes on.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlavaConfig, SiglipVisionConfig, SiglipVisionModel
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from fastvlm_bench.embedded.batches import pixels
from fastvlm_bench.models.smol import language_model
from fastvlm_bench.models.smol_package import package_file
from fastvlm_bench.training.muon import Muon
from fastvlm_bench.world.pictures import IMAGE_SIZE
from fastvlm_bench.world.scenes import Scene, sample_scene
from fastvlm_bench.world.slots import SLOTS, slots, text_of, words

PATCH, WIDTH, LAYERS, HEADS = 20, 192, 6, 3
SAVE_EVERY_S = 120.0
SHARPNESS = 20.0  # of the distances, in units of the mean squared distance between two words


def vision_config() -> SiglipVisionConfig:
    """The tower: 36 patches, one for each slot."""
    return SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        image_size=IMAGE_SIZE, patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip


class Sight(nn.Module):
    """Tower and projector. config: of the whole model, whose projector has the width of its language model."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.vision_tower = SiglipVisionModel(config.vision_config)
        self.multi_modal_projector = LlavaMultiModalProjector(config)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, 120, 120) -> (n, SLOTS, width of the language model)."""
        found: Tensor = self.multi_modal_projector(self.vision_tower(images).last_hidden_state)
        return found


def word_embeddings(model: Any, tokenizer: Any) -> Tensor:
    """(words, width): the language model's embedding of every word that a slot can hold, each of which is one token."""
    ids = [tokenizer(text_of(word), add_special_tokens=False)["input_ids"] for word in words()]
    if longer := [word for word, found in zip(words(), ids, strict=True) if len(found) != 1]:
        raise SystemExit(f"not one token of the language model: {', '.join(longer)}")
    found: Tensor = model.get_input_embeddings().weight[[one for (one,) in ids]].detach().float().clone()
    return found


def labels(scenes: list[Scene]) -> Tensor:
    """(scenes, SLOTS): the index of each slot's word in `slots.words()`."""
    index = {word: i for i, word in enumerate(words())}
    return torch.tensor([[index[word] for word in slots(scene)] for scene in scenes])


def logits(states: Tensor, embeddings: Tensor) -> Tensor:
    """(n, SLOTS, words): minus the squared distance to each word's embedding, scaled."""
    scale = SHARPNESS / torch.cdist(embeddings, embeddings).pow(2).mean()
    return -scale * torch.cdist(states, embeddings[None].expand(len(states), -1, -1)).pow(2)


def rate(done: int, updates: int) -> float:
    """Warm-up over 50 updates, flat, linear to 2 % over the last 40 %."""
    return min(done / 50 + 1e-3, 1.0, 0.02 + 0.98 * (1 - done / updates) / 0.4)


def train(model: Sight, embeddings: Tensor, *, updates: int, images: int, lr: float, seed: int, out: Path) -> None:
    """Train from the last checkpoint in `out`, if there is one. An update depends on the seed and its number alone."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ("layers." in n or "linear" in n)]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimisers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=lr, weight_decay=0.02), torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    ]  # fmt: skip
    path, done = out / "sight.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        done = state["done"]
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
    began = saved_at = time.monotonic()
    logged: list[tuple[float, float]] = []
    while done < updates:
        rng = np.random.default_rng([seed, done])
        scenes = [sample_scene(rng, held_out=False) for _ in range(images)]
        told, wanted = logits(model(pixels(scenes)), embeddings), labels(scenes)
        loss = nn.functional.cross_entropy(told.flatten(0, 1), wanted.flatten())
        if not math.isfinite(loss.item()):
            raise SystemExit(f"loss is {loss.item()} at update {done}")
        logged.append((loss.item(), (told.argmax(-1) == wanted).float().mean().item()))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr * rate(done, updates)
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        done += 1
        if done % 25 == 0 or done == updates:
            mean_loss, right = np.mean(logged, axis=0).round(4).tolist()
            line = {"done": done, "elapsed_s": round(time.monotonic() - began, 1), "loss": mean_loss, "right": right}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)
            logged.clear()
        if time.monotonic() - saved_at > SAVE_EVERY_S or done == updates:
            state = {"done": done, "model": model.state_dict(), "optimisers": [o.state_dict() for o in optimisers]}
            torch.save(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            saved_at = time.monotonic()


@torch.no_grad()
def features(model: Sight, scenes: list[Scene]) -> Tensor:
    """(scenes, SLOTS, width of the tower)."""
    return torch.cat([
        model.vision_tower(pixels(scenes[i : i + 50])).last_hidden_state for i in range(0, len(scenes), 50)
    ])  # fmt: skip


def relative_error(states: Tensor, wanted: Tensor) -> Tensor:
    """(n, SLOTS): |state - embedding|^2 / |embedding|^2."""
    return (states - wanted).pow(2).sum(-1) / wanted.pow(2).sum(-1)


def fit_projector(model: Sight, embeddings: Tensor, *, scenes: int, updates: int, seed: int, images: int = 64) -> None:
    """Fit a new projector to the words' embeddings, by the mean relative squared error; the tower stays as it is."""
    rng = np.random.default_rng([seed, scenes])
    shown = [sample_scene(rng, held_out=False) for _ in range(scenes)]
    read, wanted = features(model, shown), embeddings[labels(shown)]
    projector = model.multi_modal_projector
    for part in (projector.linear_1, projector.linear_2):
        part.reset_parameters()
    optimiser = torch.optim.AdamW(projector.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=updates)
    for update in range(updates):
        chosen = torch.from_numpy(rng.integers(0, scenes, images))
        loss = relative_error(projector(read[chosen]), wanted[chosen]).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if (update + 1) % 500 == 0:
            print({"projector": update + 1, "relative squared error": round(loss.item(), 4)}, flush=True)


@torch.no_grad()
def held_out_words(model: Sight, embeddings: Tensor, scenes: int, seed: int = 7) -> dict[str, Any]:
    """How often each slot's nearest word is right on held-out scenes, how often all of a picture's are, how near."""
    rng = np.random.default_rng(seed)
    shown = [sample_scene(rng, held_out=True) for _ in range(scenes)]
    states, wanted = model.multi_modal_projector(features(model, shown)), labels(shown)
    right = logits(states, embeddings).argmax(-1) == wanted
    by_slot = right.float().mean(0).tolist()
    return {"scenes": scenes, "words": right.float().mean().item(), "pictures": right.all(1).float().mean().item(),
            "relative_squared_error": relative_error(states, embeddings[wanted]).mean().item(),
            "by_slot": [round(share, 4) for share in by_slot]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=3600)
    parser.add_argument("--fitted", type=int, default=6000, help="scenes on which the last projector is fitted")
    parser.add_argument("--fit-updates", type=int, default=4000)
    parser.add_argument("--images", type=int, default=32, help="scenes of an update")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    embeddings = word_embeddings(*language_model(package_file(args.out)))
    config = LlavaConfig(vision_config=vision_config(), vision_feature_layer=-1, vision_feature_select_strategy="full")
    config.text_config.hidden_size = embeddings.shape[1]
    if config.vision_config.num_hidden_layers != LAYERS or (IMAGE_SIZE // PATCH) ** 2 != SLOTS:
        raise SystemExit("the tower must have one patch for each slot")
    model = Sight(config)
    train(model, embeddings, updates=args.updates, images=args.images, lr=2e-3, seed=args.seed, out=args.out)
    fit_projector(model.eval(), embeddings, scenes=args.fitted, updates=args.fit_updates, seed=args.seed)
    found = held_out_words(model, embeddings, 500)
    print(json.dumps(found, indent=2))
    (args.out / "sight.json").write_text(json.dumps(found, indent=2) + "\n")
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()},
              args.out / "sight.safetensors")  # fmt: skip


if __name__ == "__main__":
    main()
