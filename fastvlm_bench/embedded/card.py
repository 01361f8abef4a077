"""Write the model card beside the weights: `python -m fastvlm_bench.embedded.card TRAINING_DIR`.

Reads the training log, and what committed commands measured: `scores.json` (evaluate), `depth.json` (depth) and
`easy_drafts.json` (easy_drafts). Needs the extra `plots`.
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fastvlm_bench.embedded.easy_drafts import GAMMA
from fastvlm_bench.report.picture_style import blank, save_picture, styled
from fastvlm_bench.world.scenes import COLORS, KINDS, PLACES, TIMES

DRAFT_COMMANDS = """for heads in "--head eagle --head twig --head medusa --out drafts/a" \\
  "--head attention --head attention:exit_layer=2 --head mlp:exit_layer=2 --head mlp:exit_layer=4 \\
   --head mlp:exit_layer=6 --out drafts/b"; do
  fastvlm-bench train --suite describe --suite coco-caption --suite vqav2 --samples 4000 --held-out 96 --updates 1000 \\
    --refine 0 --threads 1 --exit-layer 1 $heads
done
fastvlm-bench skip-search --suite describe --suite coco-caption --out drafts/skips"""
STAGES = ("tower", "language", "descriptions")
MEASURES = {"descriptions": "whole descriptions", "questions": "questions", "captions": "captions, CIDEr-D"}


def curve(log: list[dict[str, Any]], path: Path) -> None:
    """The losses of all stages, and the decoder's token accuracy, against updates."""
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


def depth_rows(depth: dict[str, Any]) -> str:
    """What halving the depth costs: a row for each way and measure."""
    rows = []
    for way, found in depth["ways"].items():
        for measure, name in MEASURES.items():
            scale, unit = (1, "") if measure == "captions" else (100, " %")
            whole, less, low, high = (f"{scale * found[measure][key]:.{2 if scale == 1 else 1}f}{unit}"
                                      for key in ("whole", "less", "low", "high"))  # fmt: skip
            rows.append(f"| {way} | {found['layers']} | {name} | {whole} | {less} | {low} to {high} |")
    return "\n".join(rows)


def depth_words(depth: dict[str, Any]) -> str:
    """What half the depth can do as well: where the interval of what is lost has 0 in it."""
    kept = [f"{MEASURES[measure].removesuffix(', CIDEr-D')} ({way})" for way, found in depth["ways"].items()
            for measure in MEASURES if found[measure]["low"] <= 0]  # fmt: skip
    told = ";\nnor at ".join(kept)
    return f"Not clearly worse at {told}." if kept else "Clearly worse at all of it."


def easy_rows(easy: dict[str, Any]) -> str:
    """α and τ of drafts that know only text: a row for each suite and draft."""
    return "\n".join(
        f"| {suite} | {draft} | {own['alpha']:.2f} | {own['tau']:.2f} |"
        for suite, found in easy.items() for draft, own in found.items() if draft != "samples"
    )  # fmt: skip


def card(
    log: list[dict[str, Any]],
    scores: dict[str, Any],
    depth: dict[str, Any],
    easy: dict[str, Any],
    command: str,
    halved: str,
    note: str,
) -> str:
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

A LLaVA of {scores["parameters"] / 1e6:.1f} M parameters (SigLIP tower of 4 layers, two-layer projector, Llama
decoder of {depth["layers"]} layers, width 192, vocabulary of {scores["vocabulary"]}),
trained from scratch on rendered scenes: a meadow, a beach, a lake, a snowy field or a street by day, at sunset or at
night, with one to five things in it, from the sun to a snowman.
It captions, describes and answers short questions about such scenes, and about nothing else. It exists so that
self-speculative decoding can be measured, tested and understood without a download. It loads with plain
`AutoProcessor` / `AutoModelForImageTextToText`.

## Training
`{command}`

The target is trained plainly: next-token cross-entropy at the last layer, no exit has a loss of its own, and no layer
is copied, split or added. Three stages: the tower alone (labels per patch through a probe that is thrown away), then
projector and decoder with the tower frozen, at last with a long description in most rows. `training_log.jsonl` beside
this file is the log.
{note.rstrip()}

| stage | updates | last logged means over training batches |
|---|---|---|
{chr(10).join(stages)}

![curve](curve.png)

## It needs its depth
A target with idle layers would make any early exit look fast. So it is compared with itself at half the depth, on the
same {depth["scenes"]} held-out scenes; the interval (95 %, bootstrap over scenes) is of what is lost.
`python -m fastvlm_bench.embedded.depth --learned-on DIR/halved/checkpoint --scenes {depth["scenes"]}`, where
`{halved}`
made the model that learned on: every second layer of the finished target, so that it had the target's compute and its
own. None of half the depth was trained from scratch. 
{depth_words(depth)}

| halved | layers | measure | whole | halved | lost |
|---|---|---|---|---|---|
{depth_rows(depth)}

## What its text gives away
α and τ at γ {GAMMA} of drafts that know neither the picture nor the target, on its answers to the embedded suites
(`python -m fastvlm_bench.embedded.easy_drafts`). A head is worth what it has beyond them:

| suite | draft | α | τ |
|---|---|---|---|
{easy_rows(easy)}

## Drafts
Nine lie in `../drafts`: eight heads, trained on the target's own greedy answers by two commands, each on one core, and
a set of layers to skip, which was searched for. Their manifests say on what, `log.jsonl` there is the logs of both. By
hand were set `"default": true` of the faster head, and the advice that `tune` gave on `describe`
(`results/tuning`):

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
    depth, easy = (json.loads((args.training / f"{name}.json").read_text()) for name in ("depth", "easy_drafts"))
    updates = " ".join(str([line for line in log if line["stage"] == stage][-1]["done"]) for stage in STAGES)
    command = f"python -m fastvlm_bench.embedded.train --out DIR --updates {updates}"
    learned = json.loads((args.training / "halved" / "log.jsonl").read_text().splitlines()[-1])["done"]
    halved = (f"python -m fastvlm_bench.embedded.train --halve DIR/checkpoint --seed 1 --out DIR/halved "
              f"--updates 0 0 {learned}")  # fmt: skip
    told = args.training / "note.md"
    note = told.read_text() if told.exists() else ""
    shutil.copy(args.training / "log.jsonl", args.checkpoint / "training_log.jsonl")
    (args.checkpoint / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    for name in ("depth", "easy_drafts"):
        shutil.copy(args.training / f"{name}.json", args.checkpoint / f"{name}.json")
    (args.checkpoint / "README.md").write_text(card(log, scores, depth, easy, command, halved, note), encoding="utf-8")
    curve(log, args.checkpoint / "curve.png")


if __name__ == "__main__":
    main()
