"""Write the model card beside the weights: `python -m fastvlm_bench.embedded.card TRAINING_DIR`.

Reads the training log and the held-out scores, both measured by committed commands; needs the extra `plots`.
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fastvlm_bench.report.picture_style import blank, save_picture, styled
from fastvlm_bench.world.scenes import COLORS, KINDS, PLACES, TIMES

DRAFT_COMMANDS = """for heads in "--head eagle --head twig --out drafts/a" \\
  "--head attention --head attention:exit_layer=2 --head mlp:exit_layer=2 --head mlp:exit_layer=4 \\
   --head mlp:exit_layer=8 --out drafts/b"; do
  fastvlm-bench train --suite describe --suite coco-caption --suite vqav2 --samples 3600 --held-out 96 --updates 900 \\
    --refine 0 --threads 1 --exit-layer 1 $heads
done"""
STAGES = {"tower": "loss", "language": "answer_tokens", "deepen": "answer_tokens"}


def curve(log: list[dict[str, Any]], path: Path) -> None:
    """Loss and token accuracy of the two decoder stages, and the tower's loss, against updates."""
    with styled("the card's curve"):
        save_picture(_drawn(log), path, "the card's curve")


def _drawn(log: list[dict[str, Any]]) -> Any:
    figure = blank(10, 3.5)
    left, right = figure.subplots(1, 2)
    start = 0
    for stage in STAGES:
        lines = [line for line in log if line["stage"] == stage]
        steps = [start + line["done"] for line in lines]
        left.plot(steps, [line["loss"] for line in lines], label=stage)
        if stage != "tower":
            right.plot(steps, [line["answer_tokens"] for line in lines], label=f"{stage}: short answers")
            right.plot(steps, [line["text_tokens"] for line in lines], "--", label=f"{stage}: captions, descriptions")
        start += lines[-1]["done"]
    left.set(title="training loss (stages have losses of their own)", xlabel="update", yscale="log")
    right.set(title="token accuracy on training batches", xlabel="update", ylim=(0.5, 1.0))
    for axes in (left, right):
        axes.legend()
    return figure


def card(log: list[dict[str, Any]], scores: dict[str, Any], command: str) -> str:
    """The card's Markdown."""
    stages = []
    for stage in STAGES:
        last = [line for line in log if line["stage"] == stage][-1]
        detail = ", ".join(f"{k} {v}" for k, v in last.items() if k not in ("stage", "done", "elapsed_s"))
        stages.append(f"| {stage} | {last['done']} | {detail} |")
    kinds = "\n".join(f"| {kind} | {100 * value:.1f} % |" for kind, value in scores["vqa_exact_match_by_kind"].items())
    sentences = "\n".join(f"| {kind} | {100 * v:.1f} % |" for kind, v in scores["description_facts_by_kind"].items())
    untrue = ", ".join(k for k, v in scores["description_facts_by_kind"].items() if v < 0.7) or "none"
    weak = ", ".join(k for k, v in scores["vqa_exact_match_by_kind"].items() if v < 0.7) or "none"
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, tiny, speculative-decoding, fastvlm-bench]
---
# The embedded vision-language model of fastvlm-bench

A LLaVA of {scores["parameters"] / 1e6:.1f} M parameters (SigLIP tower of 4 layers, two-layer projector, Llama decoder
of 24 layers, width 192, vocabulary of {scores["vocabulary"]}), trained from scratch on rendered scenes: a meadow, a
beach, a lake, a snowy field or a street by day, at sunset or at night, with one to five things in it, from the sun to a
snowman.
It captions, describes and answers short questions about such scenes, and about nothing else. It exists so that
self-speculative decoding can be measured, tested and understood without a download. It loads with plain
`AutoProcessor` / `AutoModelForImageTextToText`.

## Training
`{command}`

The target is trained plainly: next-token cross-entropy at the last layer, no exit has a loss of its own. Three stages:
the tower alone (labels per patch through a probe that is thrown away), projector and a decoder of 8 layers with the
tower frozen, then every decoder layer is made three in place (its residual branches divided by three, so that three
small steps replace a large one) and all 24 are trained on. `training_log.jsonl` beside this file is the log.

| stage | updates | last logged means over training batches |
|---|---|---|
{chr(10).join(stages)}

![curve](curve.png)

## Drafts
Seven lie in `../drafts`, trained on the target's own greedy answers by two commands, each on one core; their manifests
say on what, `log.jsonl` there is the logs of both. `"default": true` in one manifest is all that was set by hand:

```sh
{DRAFT_COMMANDS}
```

## Held-out skill
{scores["scenes"]} scenes that training never saw (the hash of a scene decides its side), {scores["questions"]}
questions; `python -m fastvlm_bench.embedded.evaluate --scenes {scores["scenes"]}`:

| what | score |
|---|---|
| VQA exact match, all kinds | {100 * scores["vqa_exact_match"]:.1f} % |
| caption CIDEr-D (five references, document frequencies of these scenes) | {scores["caption_cider_d"]:.3f} |
| caption BLEU-4 | {scores["caption_bleu4"]:.3f} |
| sentences of long descriptions that are right word for word | {100 * scores["description_facts"]:.1f} % |
| whole long descriptions right word for word | {100 * scores["descriptions_word_for_word"]:.1f} % |

| kind of question | exact match |
|---|---|
{kinds}

| sentence of a description | right word for word |
|---|---|
{sentences}

## Limits
* Its world is {len(KINDS)} kinds of things in {len(COLORS)} colours and two sizes, {len(PLACES)} places,
  {len(TIMES)} times of day; it knows no photograph.
* Kinds of question answered rightly less than 7 times in 10: {weak}. A yes-or-no question answered half the time is
  answered at chance.
* Its long descriptions read well and are in part untrue. Sentences right less than 7 times in 10: {untrue} (*sizes*
  counts the large things, *whereabouts* places the only thing of its kind beside others).
* Its knowledge of what no picture shows is a few dozen facts, asked in few ways.
* Its language is a grammar of few sentence plans, and which plan it takes follows from the scene. Drafting such text is
  easier than drafting English: acceptance here says how the method works, not what a real model reaches.
* Weights are stored in float16 and trained in float32.
* Layers of one triple start equal, so neighbouring layers may be more alike than in a decoder trained whole. What a raw
  exit reaches is measured in `results/` (method `layerskip`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("training", type=Path, help="the folder given to train --out")
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent / "checkpoint")
    args = parser.parse_args()
    log = [json.loads(line) for line in (args.training / "log.jsonl").read_text().splitlines()]
    scores = json.loads((args.training / "scores.json").read_text())
    scores["vocabulary"] = json.loads((args.checkpoint / "config.json").read_text())["text_config"]["vocab_size"]
    with safe_open(args.checkpoint / "model.safetensors", framework="numpy") as weights:
        scores["parameters"] = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    updates = " ".join(str([line for line in log if line["stage"] == stage][-1]["done"]) for stage in STAGES)
    command = f"python -m fastvlm_bench.embedded.train --out DIR --updates {updates}"
    shutil.copy(args.training / "log.jsonl", args.checkpoint / "training_log.jsonl")
    (args.checkpoint / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    (args.checkpoint / "README.md").write_text(card(log, scores, command), encoding="utf-8")
    curve(log, args.checkpoint / "curve.png")


if __name__ == "__main__":
    main()
