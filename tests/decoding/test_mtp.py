"""The mtp layer of a checkpoint: it is found in its files, computes what transformers' own would, and drafts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering
from families.builders import build
from families.proof import COUNT, decode
from safetensors.torch import load_file, save_file
from state_heads import new_mtp, train
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_layers import MtpLayer

from fastvlm_bench.decoding.mtp import MtpMethod
from fastvlm_bench.drafts.fitting import check_before_loading, weight_names
from fastvlm_bench.drafts.mtp_head import MtpHead, load_mtp
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target


def as_published(head: MtpHead) -> dict[str, Tensor]:
    """The weights by the names of a checkpoint: experts one by one, the rest as it is."""
    found = {}
    for name, value in head.state_dict().items():
        place, _, last = name.rpartition(".")
        if not place.endswith("experts"):
            found[f"mtp.{name}"] = value.clone()
            continue
        for number, one in enumerate(value):
            parts = {"gate_proj": one.chunk(2)[0], "up_proj": one.chunk(2)[1]} if "gate" in last else {"down_proj": one}
            for part, weight in parts.items():
                found[f"mtp.{place}.{number}.{part}.weight"] = weight.clone()
    return found


def save(folder: Path, model: Any, more: dict[str, Tensor]) -> Path:
    """A checkpoint with some weights more, as `save_pretrained` would never write them."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, **more}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def small() -> Any:
    return build("qwen3_5")[0]


@pytest.mark.parametrize("family", covering(["qwen3_5", "qwen3_5_moe"], ["qwen3_5"]))
def test_it_is_read_from_the_targets_own_checkpoint(family: str, tmp_path: Path) -> None:
    model, inputs, expected = build(family)
    head = new_mtp(model)
    train(head, model, inputs, expected, steps=25)
    folder = save(tmp_path / "checkpoint", model, as_published(head))
    again, loading = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(key.startswith("mtp") for key in again.state_dict()) and not loading["missing_keys"]
    target = Target(str(folder), again.eval(), None, torch.device("cpu"), None)
    method = MtpMethod(target=target, gamma=4)
    for name, value in head.state_dict().items():
        assert torch.equal(method.head.state_dict()[name], value)  # type: ignore[union-attr]
    assert method.weight_bytes == sum(4 * value.numel() for value in head.state_dict().values())
    assert decode(again, inputs, method, COUNT) == expected
    assert sum(r.accepted for r in method.last.rounds) > COUNT / 3  # type: ignore[union-attr]
    assert decode(again, inputs, MtpMethod(folder=folder, gamma=2), COUNT) == expected
    assert check_before_loading("mtp", {}, str(folder)) == []


def test_it_computes_what_the_layer_of_transformers_computes(small: Any) -> None:
    """`MtpLayer` of transformers 5.23, which its own generation with `use_mtp` runs, given the same weights."""
    model = small
    text = model.model.language_model
    head, norm = new_mtp(model), type(text.layers[1].input_layernorm)
    for key, value in head.named_parameters():
        if "norm" in key:
            torch.nn.init.normal_(value, 0, 0.3)
    theirs = MtpLayer(text.config, type(text.layers[1]), norm, 1).eval()
    named = {"pre_fc_norm_embedding": "enorm", "pre_fc_norm_hidden": "hnorm", "fc": "eh_proj", "norm": "post_norm",
             "layers.0": "mtp_block"}  # fmt: skip
    own = {}
    for key, value in head.state_dict().items():
        before = next(name for name in named if key.startswith(name + "."))
        own[named[before] + key[len(before) :]] = value
    theirs.load_state_dict(own)
    generator = torch.Generator().manual_seed(0)
    embeds, states = (torch.randn(1, 9, 48, generator=generator) for _ in range(2))
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 2, 3, 3, 4, 5, 6], [0, 1, 2, 3, 2, 3, 4, 5, 6]])
    positions = positions[:, None]
    with torch.no_grad():
        turned = text.rotary_emb(states, positions)
        wanted = theirs(embeds, states, turned, None, None, None)
        whole = head(embeds, states, positions, head.new_cache())
        cache = head.new_cache()
        parts = [head(embeds[:, a:b], states[:, a:b], positions[..., a:b], cache) for a, b in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(whole, wanted)
    torch.testing.assert_close(torch.cat(parts, dim=1), wanted, rtol=1e-4, atol=1e-5)
    assert isinstance(cache, DynamicCache) and cache.get_seq_length() == 9


def test_a_checkpoint_without_the_layer_is_refused(small: Any, tmp_path: Path) -> None:
    model = small
    model.save_pretrained(tmp_path)
    assert weight_names(tmp_path) == set(load_file(tmp_path / "model.safetensors"))
    for ask in (lambda: load_mtp(tmp_path, model, "mine"), lambda: check_before_loading("mtp", {}, str(tmp_path))):
        with pytest.raises(UsageError, match="has no mtp.* weights, which the method mtp needs.*use another") as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "says"), [
    (lambda w: w.pop("mtp.fc.weight"), r"1 missing \(fc.weight\)"),
    (lambda w: w.update({"mtp.fc.scale": torch.ones(1)}), r"1 unknown \(fc.scale\)"),
    (lambda w: w.update({"mtp.fc.weight": torch.ones(3, 3)}), r"1 of another shape \(fc.weight\)"),
    (lambda w: w.update({"mtp.layers.1.mlp.up_proj.weight": torch.ones(1)}), "has 2 mtp layers"),
])  # fmt: skip
def test_a_layer_that_is_not_whole_is_refused(small: Any, tmp_path: Path, change: Any, says: str) -> None:
    weights = as_published(new_mtp(small))
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=says) as caught:
        load_mtp(tmp_path, small, "mine")
    assert "\n" not in str(caught.value)
