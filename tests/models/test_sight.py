"""How `smol` learns to see: a stopped training goes on as it was, and the last projector comes near the embeddings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlavaConfig, SiglipVisionConfig

from fastvlm_bench.embedded import sight
from fastvlm_bench.world.scenes import sample_scene
from fastvlm_bench.world.slots import SLOTS, words

WIDTH = 96


def small() -> tuple[sight.Sight, Tensor]:
    """A tower of one layer, and random embeddings of the words."""
    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, image_size=120, patch_size=20,
        vision_use_head=False,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, vision_feature_layer=-1, vision_feature_select_strategy="full")
    config.text_config.hidden_size = WIDTH
    return sight.Sight(config), torch.randn(len(words()), WIDTH)


@pytest.mark.slow  # the committed sight is final; test_resume.py stops trainings
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for stops in ([4], [2, 4]):
        out = tmp_path / str(len(stops))
        out.mkdir()
        for stop in stops:
            model, embeddings = small()
            whole = sight.rate
            monkeypatch.setattr(sight, "rate", lambda done, updates: whole(done, 4))  # noqa: B023
            sight.train(model, embeddings, updates=stop, images=2, lr=1e-2, seed=0, out=out)
            monkeypatch.undo()
        found.append(model.state_dict())
    assert all(torch.equal(one, found[1][name]) for name, one in found[0].items())
    assert any(not torch.equal(one, small()[0].state_dict()[name]) for name, one in found[0].items())


@pytest.mark.slow  # the committed sight is final
def test_the_last_projector_comes_near_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tower that tells all words apart, also where its states are far from any embedding."""
    model, embeddings = small()
    apart = torch.randn(len(words()), 32)
    monkeypatch.setattr(sight, "features", lambda model, scenes: apart[sight.labels(scenes)])
    first = sight.held_out_words(model, embeddings, 20)
    sight.fit_projector(model.eval(), embeddings, scenes=100, updates=400, seed=0, images=10)
    then = sight.held_out_words(model, embeddings, 20)
    assert then["relative_squared_error"] < 0.3 < 1 < first["relative_squared_error"]
    assert then["words"] > 0.9 > 0.3 > first["words"] and len(then["by_slot"]) == SLOTS


def test_the_error_is_relative_and_squared() -> None:
    shown = [sample_scene(np.random.default_rng(1), held_out=True)]
    wanted = small()[1][sight.labels(shown)]
    assert sight.relative_error(wanted, wanted).max() == 0
    assert sight.relative_error(3 * wanted, wanted).numpy() == pytest.approx(4.0, rel=1e-4)


def test_words_of_two_tokens_are_refused() -> None:
    embedding = torch.nn.Embedding(50, WIDTH)
    model = SimpleNamespace(get_input_embeddings=lambda: embedding)
    ids: dict[str, list[int]] = {}

    def tokenize(text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": ids.setdefault(text, [len(ids) % 50])}

    found = sight.word_embeddings(model, tokenize)
    assert found.shape == (len(words()), WIDTH) and torch.equal(found[1], embedding.weight[1])
    ids[" lake"] = [1, 2]
    with pytest.raises(SystemExit, match="not one token of the language model: lake"):
        sight.word_embeddings(model, tokenize)
