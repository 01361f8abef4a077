"""What is asked for: defaults, and errors of one line that name the culprit and what would do."""

from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.names import layer_count
from fastvlm_bench.training.recipe import DEFAULT_LOSSES, Recipe, parse_losses
from fastvlm_bench.training.settings import TrainSettings

LAYERS = layer_count("tiny")


def settings(tmp_path: Path, **given: Any) -> TrainSettings:
    return TrainSettings(**{"out": str(tmp_path / "draft"), "suites": ("describe",), **given})


def test_defaults() -> None:
    assert Recipe.parse("mlp", exit_layer=2) == Recipe("mlp-exit2", "mlp", 2)
    eagle = Recipe.parse("eagle:exit_layer=1")
    assert (eagle.unroll, eagle.fuse, eagle.top_k, eagle.temperature, eagle.refine) == (3, 3, 0, 1.0, True)
    assert eagle.losses == DEFAULT_LOSSES
    assert [Recipe.parse(head, exit_layer=1).depth for head in ("linear", "attention", "twig", "twig:depth=3")] == [
        0, 1, 2, 3,
    ]  # fmt: skip


def test_recipes_weights_replace_the_defaults() -> None:
    recipe = Recipe.parse("mlp:exit_layer=4, kd=2, ce=0, name=x, top_k=32, temperature=2.5, fuse=1, refine=0")
    assert (recipe.name, recipe.exit_layer, recipe.top_k, recipe.temperature) == ("x", 4, 32, 2.5)
    assert (recipe.fuse, recipe.refine) == (1, False)
    assert recipe.losses == {"cosine": 0.1, "kd": 2.0}
    assert Recipe.parse("mlp:acceptance=1", exit_layer=2, losses="ce=3").losses == {"ce": 3.0, "acceptance": 1.0}
    assert Recipe.parse("mlp:exit_layer=4", exit_layer=2).exit_layer == 4
    assert parse_losses(" kd = 1 , ce=0.5") == {"kd": 1.0, "ce": 0.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mpl", "unknown head 'mpl': one of linear, mlp, .* did you mean 'mlp'"),
        ("mlp:dept=2", "'dept=2'; it must be KEY=VALUE, .* of exit_layer, depth.* did you mean 'depth'"),
        ("mlp:kd=1,kd=2", "'kd=2'; it must be KEY=VALUE, each key once"),
        ("mlp:kd", "has 'kd'"),
        ("mlp:", "has ''"),
        ("mlp:kd=x", "kd in 'mlp:kd=x' is 'x'; it must be a number of at least 0"),
        ("mlp:kd=nan", "is 'nan'; it must be a number"),
        ("mlp:kd=inf", "is 'inf'; it must be a number"),
        ("mlp:kd=-1", "is '-1'; it must be a number"),
        ("mlp:kd=0,ce=0,cosine=0", "has no loss left; give one of cosine, smooth_l1, kd, ce, acceptance a weight"),
        ("mlp:depth=2", "gives a depth, but head 'mlp' has no layers; leave it out"),
        ("attention:depth=0", "depth in .* is '0'; it must be a whole number, 1 .."),
        ("mlp:exit_layer=0", "exit_layer in .* is '0'; it must be a whole number, 1 .."),
        ("mlp:unroll=2", "only eagle does"),
        ("mlp:temperature=0", "has temperature 0; it must be above 0"),
        ("mlp:refine=2", "refine in .* is '2'; it must be a whole number, 0 .. 1"),
        ("mlp:fuse=0", "fuse in .* is '0'"),
        ("mlp:top_k=1.5", "top_k in .* is '1.5'"),
    ],
)
def test_wrong_recipe(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as found:
        Recipe.parse(text, exit_layer=1)
    assert "\n" not in str(found.value)


def test_recipe_without_exit_and_wrong_loss() -> None:
    with pytest.raises(UsageError, match="has no exit layer; add exit_layer=N or give --exit-layer"):
        Recipe.parse("mlp")
    with pytest.raises(UsageError, match="--loss has 'dk=1'; it must be NAME=WEIGHT of cosine, .* did you mean 'kd'"):
        parse_losses("dk=1")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"suites": ()}, "nothing to train on: give --suite NAME .* or --images DIR with --prompts FILE"),
        ({"images": "x"}, "--images and --prompts go together"),
        ({"images": "x", "prompts": "y"}, "--images takes the place of --suite"),
        ({"on_policy": False}, "no text to learn on: leave --on-policy, or add --references"),
        ({"model": "org/model"}, "model 'org/model' needs real data: --data DIR"),
        ({"updates": 0}, "--updates is 0; it must be a whole number of at least 1"),
        ({"micro": -1}, "--micro is -1"),
        ({"lr": float("nan")}, "--lr is nan; it must be above 0 and at most 1"),
        ({"lr": 0.0}, "--lr is 0"),
        ({"max_new_tokens": 1}, "--max-new-tokens is 1; it must be at least 2"),
        ({"dtype": "bfloat"}, "unknown dtype 'bfloat': one of .* did you mean 'bfloat16'"),
        ({"finetune_backbone": "qlora"}, "--finetune-backbone is 'qlora'; it must be one of lora, full"),
        ({"heads": ("mpl",)}, "unknown head 'mpl'"),
        ({"exit_layers": ("2", "x")}, "--exit-layer has 'x'; it must be whole numbers of at least 1"),
        ({"exit_layers": ("0",)}, "--exit-layer has '0'"),
        ({"exit_layers": ("",)}, "--exit-layer is empty; it must be whole numbers of at least 1, as 4,8, or auto"),
        ({"suites": ("describe", "describe")}, "suites are describe, describe; name each once"),
        ({"model": "nonsense"}, "unknown model 'nonsense': use 'tiny', 'smol', a hub id such as"),
        ({"exit_layers": ("auto", "2")}, "--exit-layer is auto, 2; give numbers, or auto alone"),
        ({"exit_layers": ("2", "2")}, "two recipes are named 'attention-exit2'; give one of them name="),
        ({"exit_layers": (f"{LAYERS - 1}",), "heads": ("twig",)}, f"exit layer {LAYERS - 1} and a head of 2 more are "
         f"beyond the {LAYERS} layers of 'tiny'; choose an exit of at most {LAYERS - 2}"),
        ({"exit_layers": (f"{LAYERS}",), "heads": ("mlp",)},
         f"exit layer {LAYERS} is not within 1 .. {LAYERS - 1} of 'tiny'"),
        ({"device": "tpu"}, "unknown device 'tpu': one of"),
        ({"attn": "flash"}, "unknown attn 'flash': one of sdpa, eager, flash_attention_2"),
        ({"device_map": "balanced"}, "unknown device-map 'balanced': one of auto"),
        ({"quantize": "4bits"}, "unknown quantize '4bits': one of 4bit, 8bit, int8; did you mean '4bit'"),
        ({"quantize": "4bit", "finetune_backbone": "full", "exit_layers": ("1",)},
         "--finetune-backbone full trains float32 weights, and --quantize 4bit packs them; leave one of the two out"),
        ({"quantize": "8bit", "finetune_backbone": "lora", "exit_layers": ("1",)}, "leave one of the two out"),
        ({"finetune_backbone": "full"}, "--finetune-backbone needs to know the exits that it trains: give --exit-lay"),
        ({"threads": 0}, "--threads is 0; it must be a whole number, 1 .. "),
        ({"threads": 9999}, "--threads is 9999; it must be a whole number, 1 .. "),
        ({"push": "draft"}, "--push is 'draft'; it must be a hub repository, as USER/NAME"),
        ({"split": "val"}, "--split has no effect here, where scenes are rendered, without --data; leave it out"),
        ({"prompt_set": "llava"}, "--prompt-set has no effect here"),
        ({"suites": (), "images": "x", "prompts": "y", "data": "z"},
         "--data has no effect here, where images and prompts are --images' own"),
        ({"push": "user/draft", "offline": True}, "--push uploads to the hub, and --offline never asks it"),
        ({"loss": "kd=-1"}, "it must be a number of at least 0"),
    ],
)  # fmt: skip
def test_wrong_settings(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as found:
        settings(tmp_path, **given).validate()
    assert "\n" not in str(found.value)
    assert not (tmp_path / "draft").exists()


def test_recipes_of_settings(tmp_path: Path) -> None:
    own = settings(tmp_path, heads=("mlp", "twig:exit_layer=1"), exit_layers=("2", "4"))
    assert [recipe.name for recipe in own.recipes()] == ["mlp-exit2", "mlp-exit4", "twig-exit1"]
    automatic = settings(tmp_path)
    assert automatic.automatic and [recipe.name for recipe in automatic.recipes(3)] == ["attention-exit3"]


def test_what_a_training_is(tmp_path: Path) -> None:
    """Where it runs may change when it goes on; what it learns may not."""
    own = settings(tmp_path)
    assert own.sha256() == settings(tmp_path, device="cpu", threads=1, micro=2, push="a/b", restart=True).sha256()
    assert own.sha256() == settings(tmp_path, device_map="auto", offline=True, trust_remote_code=True).sha256()
    for change in ({"lr": 0.02}, {"seed": 1}, {"batch": 8}, {"heads": ("mlp",)}, {"dtype": "bfloat16"},
                   {"quantize": "4bit"}, {"attn": "eager"}):  # fmt: skip
        assert own.sha256() != settings(tmp_path, **change).sha256(), change


def test_data_that_is_missing_is_told_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastvlm_bench.training import fit

    monkeypatch.setattr(fit, "load_target", None)
    given = settings(tmp_path, suites=("coco-caption",), data=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="data folder .*nowhere does not exist; give the folder"):
        fit.train(given)
    assert not (tmp_path / "draft").exists()


def test_an_unknown_suite_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown suite 'describ'.*did you mean 'describe'"):
        TrainSettings(out=str(tmp_path / "draft"), suites=("describ",)).validate()
    assert not (tmp_path / "draft").exists()
