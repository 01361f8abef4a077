"""A small random target with a processor, and its own answers to a few pictures."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from targets import LAYERS, random_llava

from fastvlm_bench.embedded.parts import build_processor, save
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example, own_answers
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.trainer import HeadTrainer

PROMPTS = ("Describe this image in detail.", "What is it?", "A short caption, please.")


def picture(seed: int) -> Image.Image:
    pixels = torch.randint(0, 256, (120, 120, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def some_samples(count: int, first: int = 0) -> list[TrainingSample]:
    return [
        TrainingSample(f"noise/{n}", f"noise/{n}", PROMPTS[n % len(PROMPTS)], partial(picture, n), (f"a dot of {n}",))
        for n in range(first, first + count)
    ]


def answers(target: Target, samples: list[TrainingSample], most: int, path: Path, size: int = 4) -> list[Example]:
    return own_answers(target, samples, most, path, lambda _: None, size)


def trainer_of(target: Target, recipes: list[str], examples: list[Example], **options: Any) -> HeadTrainer:
    parsed = [Recipe.parse(text, exit_layer=2) for text in recipes]
    trainer = HeadTrainer(target, parsed, **{"lr": 1e-2, "updates": 60, "micro": 8, **options})
    trainer.prepare(examples)
    return trainer


def quiet_llava(layers: int) -> Any:
    """A random target that never writes the image's placeholder, which could not be read again as text."""
    model, tokenizer = random_llava(layers)
    with torch.no_grad():
        model.get_output_embeddings().weight[model.config.image_token_index] = 0
    return model, tokenizer


@pytest.fixture(scope="session")
def target() -> Target:
    model, tokenizer = quiet_llava(LAYERS)
    return Target("random", model, build_processor(tokenizer), torch.device("cpu"), None)


@pytest.fixture(scope="session")
def examples(target: Target, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Eight texts of up to 14 tokens; the first six to train on."""
    return answers(target, some_samples(8), 14, tmp_path_factory.mktemp("answers") / "answers.jsonl")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random target of four layers."""
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    model, tokenizer = quiet_llava(4)
    save(model, build_processor(tokenizer), folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of eight images, file of prompts)."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        picture(number).save(folder / f"{number}.png")
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    return folder, prompts
