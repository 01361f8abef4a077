"""Train the embedded model's drafts: `python -m fastvlm_bench.models.tiny.train_drafts --out DIR`.

The frozen target answers prompts on training scenes; the heads learn from these answers. Then α is measured on
held-out scenes, and each head is saved as a draft folder.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.models.tiny import language
from fastvlm_bench.models.tiny.scenes import render, sample_scene
from fastvlm_bench.training import Batch, Example, HeadTrainer, batched, collate, fit, own_answers

EXITS = ((1, "attention"), (1, "twig"), (2, "attention"), (2, "mlp"), (4, "mlp"), (8, "mlp"))
MIX = {"describe": 0.5, "coco-caption": 0.35, "vqav2": 0.15}
MOST_TOKENS = 160


def prompts(target: Target, suite: str, count: int, seed: int, *, held_out: bool) -> list[dict[str, Tensor]]:
    """`count` encoded prompts of one suite on scenes from the wanted side of the split."""
    rng, out = np.random.default_rng([seed, *suite.encode(), held_out]), []
    for _ in range(count):
        scene = sample_scene(rng, held_out=held_out, min_objects=3 if suite == "describe" else 1)
        if suite == "describe":
            text = language.DESCRIBE_PROMPT
        elif suite == "coco-caption":
            text = language.CAPTION_PROMPT
        else:
            text = language.questions(scene, rng)[0].text + language.SHORT_ANSWER
        out.append(target.encode(render(scene), text))
    return out


def answered(target: Target, inputs: Sequence[dict[str, Tensor]], progress: Progress, label: str) -> list[Example]:
    """The target's own answers, in groups so that the bar moves."""
    bar, out = progress.add_task(label, total=len(inputs), note=""), list[Example]()
    for start in range(0, len(inputs), 64):
        out += own_answers(target.model, target.processor, inputs[start : start + 64], MOST_TOKENS, 64)
        progress.update(bar, completed=len(out))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the draft folders and the log")
    parser.add_argument("--model", default="tiny", help="the embedded checkpoint, or the folder of another one")
    parser.add_argument("--answers", type=int, default=3000, help="training answers of the target")
    parser.add_argument("--updates", type=int, default=900)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--default", default="attention-exit1", help="the draft that `fastvlm` uses, such as attention-exit2"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    target = load_target(args.model, device="cpu")
    pad = target.processor.tokenizer.pad_token_id
    columns = (TextColumn("{task.description:12}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns) as progress:
        examples: list[Example] = []
        validation: dict[str, list[Batch]] = {}
        for suite, share in MIX.items():
            inputs = prompts(target, suite, int(args.answers * share), args.seed, held_out=False)
            made = answered(target, inputs, progress, suite)
            examples += [e for e in made if len(e.answer) > 1]
            held_out = prompts(target, suite, 64, args.seed, held_out=True)
            checks = [e for e in answered(target, held_out, progress, "held out") if len(e.answer) > 1]
            validation[suite] = [collate(checks[i : i + 16], pad) for i in range(0, len(checks), 16)]
        trainer = HeadTrainer(target.model, EXITS, lr=args.lr, updates=args.updates)
        bar = progress.add_task("heads", total=args.updates, note="")

        def report(done: int, elapsed: float, losses: dict[str, float]) -> None:
            alpha = {e.name: dict(e.alpha) for e in trainer.exits}
            line = {"done": done, "elapsed_s": round(elapsed, 1), "loss": losses, "alpha": alpha}
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            note = " ".join(f"{name} {values['describe']:.3f}" for name, values in alpha.items())
            progress.update(bar, completed=done, note=note)

        fit(trainer, batched(examples, args.batch, pad, args.seed), validation, report)
    data = {
        "source": "the target's own greedy answers on rendered training scenes", "answers": len(examples),
        "tokens": sum(len(e.answer) for e in examples), "mix": MIX, "updates": args.updates, "batch": args.batch,
        "lr": args.lr, "seed": args.seed, "trained_at": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip
    for name, draft in trainer.drafts(data, default=args.default).items():
        draft.save(args.out / name)
        print(f"{args.out / name}: α {draft.manifest.validation if draft.manifest else {}}")


if __name__ == "__main__":
    main()
