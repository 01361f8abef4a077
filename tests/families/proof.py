"""What is proven of a family: `python -m families.proof` with PYTHONPATH=tests writes results/families.md.

Each family is saved as a user has it, loaded through `load_target`, and asked an embedded suite's first sample.
"""

import argparse
import random
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from families.builders import FAMILIES, build, plain
from families.shapes import VOCABULARY

from fastvlm_bench.checks.self_check import self_check
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.imitation_head import Draft, new_head
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers

COUNT, GAMMAS = 24, (1, 3, 6)


class Scripted(FastVLM):
    """FastVLM whose drafts are the target's own tokens, wrong at a share of the places, so that some are rejected."""

    def __init__(self, expected: list[int], exit_layer: int, spoiled: float = 0.3, **options: Any) -> None:
        super().__init__(Draft(exit_layer, None), **options)
        self.expected, self.spoiled, self.random = expected, spoiled, random.Random(0)

    def _draft(self, session: Any, kwargs: Any) -> Any:
        def choose(logits: Any, ahead: Any, first: int) -> list[list[int]]:
            place = session.length - session.prompt_length + first
            token = self.expected[place] if place < len(self.expected) else 5
            return [[(token + 7) % (VOCABULARY - 20) if self.random.random() < self.spoiled else token]]

        session.choose = choose
        try:
            return super()._draft(session, kwargs)
        finally:
            del session.choose


def decode(model: Any, inputs: dict[str, Any], method: Any, count: int = COUNT, **options: Any) -> list[int]:
    model.generate(**inputs, max_new_tokens=count, do_sample=False, custom_generate=method, **options)
    tokens: list[int] = method.last.token_ids
    return tokens


@dataclass
class Proof:
    """What was found for one family. `differing`: configurations whose output was not plain `generate`'s."""

    name: str
    source: str
    layers: int
    caches: str
    prompting: str
    tokens: int
    distinct: int
    configurations: int = 0
    accepted: int = 0
    rejected: int = 0
    worst: float = 0.0
    differing: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    half: dict[str, Any] = field(default_factory=dict)


def prove(name: str, model: Any, inputs: dict[str, Any], source: str, caches: str, prompting: str) -> Proof:
    """Greedy identity in float32 at every exit and several γ, with drafts that are mostly right, and raw exits.

    EOS is set to tokens of the output at several places, within a draft and right after it.
    """
    expected = plain(model, inputs, COUNT)
    layers = len(decoder_layers(model))
    found = Proof(name, source, layers, caches, prompting, len(expected), len(set(expected)))

    def compare(label: str, method: Any, wanted: list[int] = expected, **options: Any) -> bool:
        found.configurations += 1
        same = decode(model, inputs, method, **options) == wanted
        if not same:
            found.differing.append(label)
        found.accepted += sum(r.accepted for r in method.last.rounds)
        found.rejected += sum(r.tested - r.accepted for r in method.last.rounds)
        return same

    compare("standard", Standard())
    for exit_layer in range(1, layers):
        found.worst = max(found.worst, self_check(model, inputs, exit_layer).difference)
        for gamma in GAMMAS:
            compare(f"exit {exit_layer}, γ {gamma}", Scripted(expected, exit_layer, gamma=gamma))
        compare(f"raw exit {exit_layer}", LayerSkip(exit_layer, gamma=4))
    for place in (1, 4, 9):
        eos = expected[place]
        wanted = plain(model, inputs, COUNT, eos_token_id=eos)
        for spoiled in (0.0, 0.3):
            method = Scripted(expected, 2, spoiled, gamma=6)
            compare(f"EOS at {place}", method, wanted, eos_token_id=eos)
    for kind in ("mlp", "attention", "twig"):
        exits = []
        for exit_layer in range(1, layers):
            try:
                draft = Draft(exit_layer, new_head(kind, model, exit_layer))
                self_check(model, inputs, exit_layer, draft)
            except UsageError:
                continue
            if compare(f"{kind} head, exit {exit_layer}", FastVLM(draft, gamma=3)):
                exits.append(exit_layer)
        found.heads.append(f"{kind} {_range(exits)}")
    return found


IMAGES_WITHOUT_TEMPLATE = {"paligemma": "<image><image>answer en What differs?"}
"""Family -> a prompt with two images, where a family has no template but can read more than one image."""


def several_images(target: Any, suite: Any, count: int = 2) -> dict[str, Any] | None:
    """Inputs of one prompt with `count` images, where the family takes that many; else None.

    Of three images, the first and the second have words between them, the second and the third have none.
    """
    from fastvlm_bench.models.prompting import template_of, text_options
    from fastvlm_bench.suites.suite import open_image

    kind = target.model.config.model_type
    if template_of(target.processor, kind) is not None:
        words, image = {"type": "text", "text": "and then "}, {"type": "image"}
        parts = [image, image] if count == 2 else [image, words, *[image] * (count - 1)]
        message = [{"role": "user", "content": [*parts, {"type": "text", "text": "Compare them."}]}]
        text = target.processor.apply_chat_template(message, add_generation_prompt=True)
    elif kind in IMAGES_WITHOUT_TEMPLATE:
        text = IMAGES_WITHOUT_TEMPLATE[kind].replace("<image><image>", "<image>" * count)
    else:
        return None
    images, dtype = [open_image(sample) for sample in suite.samples[:count]], target.model.dtype
    options = text_options(target.processor, kind, text)
    for given in (images, [images]):
        try:
            batch = target.processor(text=[text], images=given, return_tensors="pt", **options)
            batch = {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}
            plain(target.model, batch, 2)
        except (ValueError, TypeError, RuntimeError, AttributeError, IndexError):
            continue
        return batch
    return None


def _range(exits: list[int]) -> str:
    if not exits:
        return "none"
    whole = exits == list(range(exits[0], exits[-1] + 1)) and len(exits) > 2
    return f"{exits[0]}-{exits[-1]}" if whole else ", ".join(map(str, exits))


def prove_tensors(name: str, package: str) -> Proof:
    """The model alone, with inputs as its processor would give them."""
    from families.half import measure_half

    model, inputs, _ = build(name)
    proof = prove(name, model, inputs, f"tensors ({package} missing)", "", "-")
    half = {key: value.to(torch.bfloat16) if value.is_floating_point() else value for key, value in inputs.items()}
    proof.half = asdict(measure_half(model.to(torch.bfloat16), [half]))
    return proof


def prove_saved(name: str, folder: Path) -> Proof:
    """The same for a folder with weights and processor, through the public path."""
    from families.half import measure_half
    from families.saved import save

    from fastvlm_bench.checks.preflight import preflight
    from fastvlm_bench.models.load import load_target
    from fastvlm_bench.suites.suite import load_suite, open_image

    target = load_target(str(save(name, folder)), device="cpu")
    suite = load_suite("coco-caption", limit=3)
    facts = preflight(target, [suite], COUNT)
    inputs = target.encode(open_image(suite.samples[0]), suite.samples[0].prompt)
    caches = ", ".join(f"{count} {kind.removesuffix('Layer')}" for kind, count in facts["caches"].items())
    kind = "template" if facts["prompting"] == "chat template" else f"fallback {facts['prompt']!r}"
    proof = prove(name, target.model, inputs, "folder", caches, kind)
    for count in (2, 3):
        if (more := several_images(target, suite, count)) is not None:
            proof.images[str(count)] = prove_images(target.model, more, proof)
    target = load_target(str(folder), device="cpu", dtype="bfloat16")
    prompts = [target.encode(open_image(sample), sample.prompt) for sample in suite.samples[:2]]
    proof.half = asdict(measure_half(target.model, prompts))
    return proof


def prove_images(model: Any, inputs: dict[str, Any], found: Proof) -> str:
    """ "n of m": how many of m configurations give plain `generate`'s output for a prompt with several images.

    The configurations: every exit, at each γ with drafts that are mostly right, and as a raw exit.
    """
    expected, same = plain(model, inputs, COUNT), []
    for exit_layer in range(1, found.layers):
        for gamma in GAMMAS:
            method: Any = Scripted(expected, exit_layer, gamma=gamma)
            same.append(decode(model, inputs, method) == expected)
            found.accepted += sum(r.accepted for r in method.last.rounds)
            found.rejected += sum(r.tested - r.accepted for r in method.last.rounds)
        same.append(decode(model, inputs, LayerSkip(exit_layer, gamma=4)) == expected)
    if not all(same):
        found.differing.append("several images")
    return f"{sum(same)} of {len(same)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Prove every family and write the table.")
    parser.add_argument("--out", type=Path, default=Path("results/families.md"))
    parser.add_argument("--only", nargs="*", help="names of families, or tiny; other proofs stay; default: all")
    chosen = parser.parse_args()
    from families.half import trained
    from families.proof_page import environment, keep
    from families.saved import unmade

    torch.set_num_threads(1)
    made_with = environment()
    for name in chosen.only or FAMILIES:
        if name == "tiny":
            continue
        with tempfile.TemporaryDirectory() as folder:
            package = unmade(name)
            proof = prove_tensors(name, package) if package else prove_saved(name, Path(folder))
        keep(chosen.out, [proof], made_with)  # at once: all of them take an hour
        print(name, proof.configurations, "configurations,", len(proof.differing), "differ", flush=True)
    if not chosen.only or "tiny" in chosen.only:
        keep(chosen.out, [], made_with, trained())


if __name__ == "__main__":
    main()
