"""Families that no list names, each as a folder with its own processor: decoded token-identically, or refused in one
line."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from covering import covering
from families.builders import plain, randomise
from families.proof import Scripted, decode
from families.shapes import TEXT, VOCABULARY, prompt
from families.unlisted import UNLISTED, save
from torch import nn
from typer.testing import CliRunner

from fastvlm_bench.checks.preflight import preflight
from fastvlm_bench.checks.self_check import Plain, self_check
from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.families import FAMILIES
from fastvlm_bench.models.inputs import placed, shapes, versions
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.models.load import load_target
from fastvlm_bench.suites.suite import load_suite, open_image

QUICK, COUNT = "llava_granite", 12
OWN_LOOP = ("diffusion_gemma",)
"""Their `generate` is a loop of their own, which calls no method."""
EXITS = {"gemma3n": (1,)}
"""Family -> the exits that verification may skip to, where its last layers use the KV of earlier ones."""
NEEDED = {"gemma3n": "timm"}
"""Family -> the package that has its image encoder."""
SHARED = {0: (1, 2, 3, 4), 2: (1,)}
"""Layers of Gemma 3n that share KV -> the exits that verification may skip to."""


@pytest.mark.parametrize(
    "name",
    [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow)
     for name in UNLISTED if name not in OWN_LOOP],
)  # fmt: skip
def test_decoded_as_by_generate_itself(name: str, tmp_path: Path) -> None:
    assert name not in {family.name for family in FAMILIES}
    if name in NEEDED and importlib.util.find_spec(NEEDED[name]) is None:
        pytest.skip(f"its image encoder needs {NEEDED[name]}")
    target = load_target(str(save(name, tmp_path / name)), device="cpu", offline=True)
    suite = load_suite("coco-caption", limit=1)
    facts = preflight(target, [suite], COUNT)
    assert facts["croppable"] and facts["prompt_tokens"] > 10
    inputs = target.encode(open_image(suite.samples[0]), suite.samples[0].prompt)
    expected, plain_passes = plain(target.model, inputs, COUNT), Plain(target.model, inputs)
    assert len(set(expected)) > 5, "an output of one token would prove nothing"
    for exit_layer in range(1, len(target.layers)):
        if exit_layer not in EXITS.get(name, range(exit_layer + 1)):
            with pytest.raises(UsageError, match=f"at exit {exit_layer}: .* which verification would skip"):
                self_check(target.model, inputs, exit_layer, plain=plain_passes)
            continue
        self_check(target.model, inputs, exit_layer, plain=plain_passes)
        for gamma in (1, 4):
            method = Scripted(expected, exit_layer, gamma=gamma)
            assert decode(target.model, inputs, method, COUNT) == expected, f"exit {exit_layer}, γ {gamma}"


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN_LOOP)
def test_a_loop_of_its_own_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path / name, varied=False)
    result = CliRunner().invoke(app, ["models", "--check", str(folder), "--offline", "--device", "cpu"])
    assert result.exit_code == 2 and result.stderr.strip().count("\n") == 0, result.output
    assert "generates in a loop of its own" in result.stderr


class Deaf(nn.Module):
    """A model whose `generate` answers without calling the method that it is given."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self.config, self.dtype = model, model.config, model.dtype

    def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return input_ids


def test_a_generate_that_ignores_the_method_is_refused() -> None:
    config = hf.LlamaConfig(**TEXT)
    with pytest.raises(UsageError, match="Deaf generates in a loop of its own, which ignores"):
        self_check(Deaf(hf.LlamaForCausalLM(config)), prompt(0), 2)


@pytest.mark.parametrize("shared", covering(SHARED, [2]))
def test_streams_in_front_of_the_rows(shared: int) -> None:
    """Gemma 3n hands on (streams, rows, tokens, width)."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config = hf.Gemma3nTextConfig(
        **TEXT, head_dim=12, sliding_window=12, layer_types=kinds, num_kv_shared_layers=shared, altup_num_inputs=3,
        vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8, laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 5,
    )  # fmt: skip
    torch.manual_seed(0)
    model, inputs = randomise(hf.Gemma3nForCausalLM(config), 1), prompt(0)
    expected = plain(model, inputs, COUNT)
    assert len(set(expected)) > 5
    for exit_layer in SHARED[shared]:
        self_check(model, inputs, exit_layer)
        assert decode(model, inputs, Scripted(expected, exit_layer, gamma=4), COUNT) == expected, exit_layer


class Experts(nn.Module):
    """A decoder layer with more experts than the decoder has layers, as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_list_of_experts_is_no_list_of_layers(wrapped: bool) -> None:
    model = nn.Module()
    model.layers = nn.ModuleList(Experts() for _ in range(3))
    model.routers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    outer = nn.Module()
    outer.stacks = nn.ModuleList([model])  # a list of one thing is no list of layers
    assert decoder_layers(outer if wrapped else model) is model.layers


def test_lists_of_tensors_stay_lists() -> None:
    images = [torch.zeros(3, 4, 5, dtype=torch.float64), (torch.zeros(3, 2, 2, dtype=torch.float64),)]
    found = placed({"x": images, "sizes": [[4, 5]]}["x"], torch.device("cpu"), torch.bfloat16)
    assert [one.dtype for one in (found[0], found[1][0])] == [torch.bfloat16] * 2
    assert placed([[4, 5], "x"], torch.device("cpu"), torch.bfloat16) == [[4, 5], "x"]
    before = versions({"images": images})
    assert versions({"images": images}) == before and hash(shapes({"images": images}))
    images[1][0].add_(1)
    assert versions({"images": images}) != before
