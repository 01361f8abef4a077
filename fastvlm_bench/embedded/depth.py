"""Does the embedded target need its depth? `python -m fastvlm_bench.embedded.depth [--learned-on DIR] [--half DIR]`.

Compares it with itself at half the depth, on the same held-out scenes: every second layer left out; each pair of layers
averaged into one; every second layer left out, and what remains learned on (`--learned-on`, the checkpoint that
`train --halve` wrote); half the depth from scratch (`--half`, the checkpoint that `train --layers` wrote). If one of
them were as good, the target's speed-up would measure padding.
"""

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastvlm_bench.embedded.evaluate import Skill, skill
from fastvlm_bench.models.load import Target, load_target

RESAMPLES, SEED = 4000, 0
Halve = Callable[[nn.Module, nn.Module], nn.Module]


def first_of_pair(first: nn.Module, second: nn.Module) -> nn.Module:
    """Leaves out every second layer."""
    return first


def mean_of_pair(first: nn.Module, second: nn.Module) -> nn.Module:
    """One layer with the mean of the weights of two."""
    merged = copy.deepcopy(first)
    with torch.no_grad():
        for own, a, b in zip(merged.parameters(), first.parameters(), second.parameters(), strict=True):
            own.copy_((a + b) / 2)
    return merged


def halved(target: Target, halve: Halve) -> Target:
    """A copy of the target in which each pair of layers became one."""
    small = copy.copy(target)
    small.model = copy.deepcopy(target.model)
    decoder = small.model.model.language_model
    pairs = zip(decoder.layers[::2], decoder.layers[1::2], strict=True)
    decoder.layers = nn.ModuleList(halve(first, second) for first, second in pairs)
    for index, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = index
    decoder.config.num_hidden_layers = len(decoder.layers)
    return small


def scores(found: Skill) -> dict[str, list[float]]:
    """By measure a score for each scene: share of questions, of whole descriptions (0 or 1), CIDEr-D of the caption."""
    return {
        "questions": [sum(ok for _, ok in own) / len(own) for own in found.answered],
        "descriptions": [float(right) for right in found.described],
        "captions": found.caption_scores(),
    }


def loss(whole: Sequence[float], less: Sequence[float]) -> dict[str, float]:
    """Mean of what is lost, with a 95 % interval: the bootstrap over scenes, which are drawn in pairs."""
    lost = np.subtract(whole, less)
    rng = np.random.default_rng(SEED)
    means = rng.choice(lost, size=(RESAMPLES, len(lost))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return {"whole": float(np.mean(whole)), "less": float(np.mean(less)), "lost": float(lost.mean()), "low": low,
            "high": high}  # fmt: skip


def compare(target: Target, trained: Mapping[str, Target], scenes: int) -> dict[str, Any]:
    """{way of halving: {measure: what it costs}} on `scenes` held-out scenes. trained: {way: a model so made}."""
    whole = scores(skill(target, scenes))
    ways = {"every second layer left out": halved(target, first_of_pair),
            "pairs of layers averaged": halved(target, mean_of_pair), **trained}  # fmt: skip
    out: dict[str, Any] = {"scenes": scenes, "layers": len(target.layers), "ways": {}}
    for name, small in ways.items():
        less = scores(skill(small, scenes))
        out["ways"][name] = {"layers": len(small.layers), **{m: loss(whole[m], less[m]) for m in whole}}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--learned-on", help="checkpoint folder that `train --halve` wrote")
    parser.add_argument("--half", help="checkpoint folder of a model of half the depth, trained from scratch")
    parser.add_argument("--scenes", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = {"every second layer left out, then learned on": args.learned_on, "half the depth, from scratch": args.half}
    trained = {way: load_target(folder, device="cpu") for way, folder in made.items() if folder}
    found = compare(load_target(args.model, device="cpu"), trained, args.scenes)
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
