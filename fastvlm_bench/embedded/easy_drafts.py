"""What the text alone gives away: `python -m fastvlm_bench.embedded.easy_drafts [--json FILE]`.

α and τ of two drafts that know nothing of the picture or of the target, on the target's own answers to the embedded
suites: a 3-gram model counted on its answers to training scenes, and prompt lookup, which copies what followed the
latest earlier occurrence of the last tokens. A trained head is worth what it has beyond them.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.suites.suite import load_suite, open_images
from fastvlm_bench.training.answers import greedy_answers
from fastvlm_bench.training.prediction import Checked, simulate
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.scenes import rendered_samples

SUITES = ("describe", "coco-caption", "vqav2")
ORDER, GAMMA, TOGETHER = 3, 10, 32
Guess = Callable[[Sequence[int]], int | None]
"""From the tokens so far, prompt included, the next token; None where there is nothing to go by."""


class NGrams:
    """The likeliest next token after the last ORDER - 1 tokens, or after fewer where these were never seen."""

    def __init__(self, texts: Iterable[Sequence[int]]) -> None:
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for text in texts:
            for place, token in enumerate(text):
                for length in range(ORDER):
                    if length <= place:
                        self.counts[tuple(text[place - length : place])][token] += 1

    def __call__(self, before: Sequence[int]) -> int | None:
        for length in range(ORDER - 1, -1, -1):
            if found := self.counts.get(tuple(before[len(before) - length :])):
                return min(found, key=lambda token: (-found[token], token))
        return None


def lookup(before: Sequence[int]) -> int | None:
    """Prompt lookup: what followed the latest earlier occurrence of the last 3, else 2, else 1 tokens."""
    for length in range(3, 0, -1):
        last = list(before[len(before) - length :])
        for start in range(len(before) - length - 1, -1, -1):
            if list(before[start : start + length]) == last:
                return before[start + length]
    return None


def checked(guess: Guess, prompt: Sequence[int], answer: Sequence[int], ended: bool) -> Checked:
    """The draft's guesses along an answer: for each token after the first, right or not; confidence -1 for none."""
    right, sure = [], []
    for place in range(1, len(answer)):
        guessed = guess([*prompt, *answer[:place]])
        right.append(guessed == answer[place])
        sure.append(-1.0 if guessed is None else 1.0)
    return Checked(right, sure, ended)


def own_answers(target: Target, samples: Sequence[TrainingSample], most: int) -> list[tuple[tuple[int, ...], bool]]:
    """The target's greedy answers, each with whether it ended."""
    out = []
    for start in range(0, len(samples), TOGETHER):
        out += greedy_answers(target, samples[start : start + TOGETHER], most)
    return out


def easy_drafts(target: Target, training: int, limit: int | None) -> dict[str, Any]:
    """{suite: {draft: α and τ at γ = 10}}. training: scenes for the 3-gram model. limit: samples of each suite."""
    found: dict[str, Any] = {}
    for name in SUITES:
        suite = load_suite(name, limit=limit)
        shown = [TrainingSample(s.sample_id, s.image_id, s.prompt, partial(open_images, s)) for s in suite.openings]
        texts = own_answers(target, rendered_samples(name, training, 0, held_out=False), suite.max_new_tokens)
        answers = own_answers(target, shown, suite.max_new_tokens)
        prompts = [target.encode(s.open(), s.prompt)["input_ids"][0].tolist() for s in shown]
        drafts: dict[str, Guess] = {f"{ORDER}-gram": NGrams(text for text, _ in texts), "prompt lookup": lookup}
        found[name] = {"samples": len(shown)}
        for draft, guess in drafts.items():
            own = [checked(guess, p, a, ended) for p, (a, ended) in zip(prompts, answers, strict=True)]
            outlook = simulate(own, GAMMA, 0.0)
            found[name][draft] = {"alpha": outlook.alpha, "tau": outlook.tau}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--training", type=int, default=1000, help="scenes whose answers the 3-gram model counts")
    parser.add_argument("--limit", type=int, help="samples of each suite")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = easy_drafts(load_target(args.model, device="cpu"), args.training, args.limit)
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
