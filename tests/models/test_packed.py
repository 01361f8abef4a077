"""Packed targets: `--quantize int8`, where torchao is installed, and checkpoints that were packed before."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering
from families import saved
from safetensors.torch import load_file, save_file

from fastvlm_bench.cli.app import app
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import load_target
from fastvlm_bench.models.packed import held_bytes, packed, plain
from fastvlm_bench.records.record import read_run

FAMILIES = ("llava", "qwen2_5_vl")


def test_a_plain_weight_stays_as_it_is() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 5))
    assert not packed(weight) and plain(weight) is weight and held_bytes(weight) == 60


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_methods_give_the_tokens_of_the_packed_target(family: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    pytest.importorskip("accelerate")
    folder = saved.save(family, tmp_path / "model")
    whole, target = load_target(str(folder), device="cpu"), load_target(str(folder), device="cpu", quantize="int8")
    linear = [module.weight for module in target.layers.modules() if isinstance(module, torch.nn.Linear)]
    assert linear and all(map(packed, linear))
    told, unpacked = target.describe(), whole.describe()
    assert told["quantized"] and told["weights_sha256"] != unpacked["weights_sha256"]
    assert told["parameters"] == unpacked["parameters"]
    assert told["weights_bytes"] < unpacked["weights_bytes"]
    head = new_head("attention", target.model, 1)
    assert not any(packed(parameter) for parameter in head.parameters()), "a head can be trained"
    with pytest.raises(SystemExit) as ended:
        app(["run", "--model", str(folder), "--quantize", "int8", "--suite", "vqav2", "--limit", "6", "-m",
             "layerskip:exit_layer=1,gamma=3", "-m", "control:gamma=2", "--max-new-tokens", "8", "--warmup", "0",
             "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "out")])  # fmt: skip
    (made,) = (tmp_path / "out").iterdir()
    run = read_run(made)
    assert ended.value.code == 0 and run.meta["verdict"]["status"] == "VALID"
    assert run.meta["config"]["quantize"] == "int8"
    answers: dict[str, set[tuple[int, ...]]] = {}
    for line in run.lines:
        answers.setdefault(line["sample_id"], set()).add(tuple(line["token_ids"]))
    assert len(answers) == 6 and all(len(different) == 1 for different in answers.values())


def described(folder: Path, quantization: dict[str, Any]) -> None:
    """Let the folder's configuration say how its weights are packed."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": quantization}))


def test_an_fp8_checkpoint_is_unpacked_on_the_cpu(tmp_path: Path) -> None:
    """transformers has kernels for it on GPUs alone; the target then has the values that float8 can hold."""
    pytest.importorskip("accelerate")
    folder = saved.save("llava", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    stored, matrices = dict(weights), list[str]()
    for key, value in weights.items():
        if ".layers." in key and key.endswith("_proj.weight") and "language_model" in key:
            scale = value.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            stored[key] = (value / scale).to(torch.float8_e4m3fn)
            stored[f"{key}_scale_inv"] = scale.reshape(1, 1)
            matrices.append(key)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    others = ["lm_head", "vision_tower", "multi_modal_projector"]
    described(folder, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
                       "modules_to_not_convert": [*others, *(f"model.{name}" for name in others)]})  # fmt: skip
    target = load_target(str(folder), device="cpu")
    loaded, original = (
        target.layers[0].self_attn.q_proj.weight,
        weights[next(k for k in matrices if "0.self_attn.q" in k)],
    )
    assert loaded.dtype == torch.float32 and not torch.equal(loaded, original) and not target.describe()["quantized"]
    smallest = original.abs().max() / 448 * 2**-9  # below it float8 has steps of one size
    assert bool(((loaded - original).abs() <= original.abs() * 2**-4 + smallest).all())


PACKED = [
    ({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}, "gptqmodel"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}, "optimum"),
    ({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}, "compressed-tensors"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
]


@pytest.mark.parametrize(("method", "package"), covering(PACKED, PACKED[:1]))
def test_a_packed_checkpoint_names_the_package_that_it_needs(
    method: dict[str, Any], package: str, tmp_path: Path
) -> None:
    if importlib.util.find_spec(package.replace("-", "_")):
        pytest.skip(f"{package} is installed")
    if method["quant_method"] == "bitsandbytes" and not importlib.util.find_spec("accelerate"):
        package = "accelerate"  # transformers asks for it first
    folder = saved.save("llava", tmp_path / "model")
    described(folder, method)
    with pytest.raises(UsageError, match=f"it needs the package {package}: pip install {package}"):
        load_target(str(folder), device="cpu")
