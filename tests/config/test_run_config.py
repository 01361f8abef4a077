"""RunConfig: what is refused before a model is loaded, the order of methods, and what the hash covers."""

import hashlib
import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.config import LATER, NOT_MEASURED, RunConfig
from fastvlm_bench.errors import UsageError
from fastvlm_bench.option_checks import check_writable

CHANGED: dict[str, Any] = {
    "suites": ("vqav2",), "model": "other/model", "draft": "drafts/x", "methods": ("layerskip",), "gamma": 4,
    "exit_layer": 3, "split": "val2014", "data": "coco", "limit": 7, "repeats": 2, "warmup": 1, "max_new_tokens": 9,
    "prompt_set": "blip2", "prompt": "Say what you see.",
    "seed": 1, "device": "cpu", "dtype": "float32", "threads": 1, "out": "elsewhere", "resume": "x", "json": True,
    "require_lossless": True, "require_valid": True, "min_decode_speedup": 1.2, "min_alpha": 0.7,
    "max_quality_drop": 1.0, "margin": 1.0, "variants": ("vqa_accuracy=official",),
    "ignore_eos": True, "phases": True, "refine": True, "control": False, "engine": "graphs", "until_width": 0.02,
    "budget": 60.0, "invocations": 3, "shard": "2/3", "energy": 5.0, "java": True, "metrics": ("anls",),
    "batch_size": 4,
    "device_map": "auto", "attn": "eager", "quantize": "4bit", "trust_remote_code": True, "offline": True,
    "tensor_parallel": True, "compile": True,
}  # fmt: skip
SAMPLED: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "top_k": 20}


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        RunConfig(**options).validate()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_reference_is_added_and_comes_first() -> None:
    assert RunConfig(methods=("fastvlm",)).methods == ("standard", "fastvlm")
    assert RunConfig(methods=("fastvlm:gamma=2", "standard", "layerskip")).methods == (
        "standard", "fastvlm:gamma=2", "layerskip",
    )  # fmt: skip
    assert RunConfig(methods=()).methods == ("standard",)
    assert [spec.name for spec in RunConfig(methods=("fastvlm",)).specs] == ["standard", "fastvlm"]


def test_shared_options_reach_the_specs_but_not_the_labels() -> None:
    config = RunConfig(methods=("fastvlm", "fastvlm:gamma=8"), gamma=3)
    assert [(spec.label, spec.options.get("gamma")) for spec in config.specs] == [
        ("standard", None), ("fastvlm", 3), ("fastvlm:gamma=8", 8),
    ]  # fmt: skip


def test_the_same_method_twice_is_refused_however_it_is_written() -> None:
    for methods, gamma in ((("fastvlm", "fastvlm"), None), (("layerskip", "layerskip:gamma=10"), None),
                           (("fastvlm", "fastvlm:gamma=3"), 3), (("standard", "standard"), None)):  # fmt: skip
        assert "are the same" in refusal(methods=methods, gamma=gamma)
    RunConfig(methods=("fastvlm", "fastvlm:gamma=6"), gamma=3)
    RunConfig(methods=("fastvlm", "fastvlm:gamma=10"))  # its draft may advise another γ


def test_a_shared_option_without_effect_is_refused() -> None:
    assert "--gamma has no effect" in refusal(methods=("early-exit",), gamma=4)
    assert "--exit-layer has no effect" in refusal(methods=("standard", "hf-generate"), exit_layer=4)


@pytest.mark.parametrize(("options", "message"), [
    ({"temperature": -1}, "--temperature is -1; it must be a number, 0 .. 100"),
    ({"temperature": 1.0, "top_p": 0.0}, "--top-p is 0; it must be above 0"),
    ({"top_p": 0.9}, "--top-p has no effect on greedy decoding; add --temperature"),
    ({"top_k": 5, "temperature": 0}, "--top-k has no effect on greedy decoding"),
    ({"temperature": 1.0, "require_lossless": True}, "--require-lossless compares tokens, and samples differ"),
    ({"gamma": 0}, "--gamma is 0; it must be a whole number, 1 .. 64"),
    ({"gamma": 65}, "--gamma is 65"),
    ({"exit_layer": 0}, "--exit-layer is 0; it must be a whole number, at least 1"),
    ({"repeats": 0}, "--repeats is 0"), ({"repeats": None}, "--repeats is None"),
    ({"repeats": 1.5}, "--repeats is 1.5"), ({"repeats": True}, "--repeats is True"),
    ({"limit": 0}, "--limit is 0"), ({"warmup": -1}, "--warmup is -1"),
    ({"max_new_tokens": 0}, "--max-new-tokens is 0"), ({"seed": -1}, "--seed is -1"), ({"seed": 1 << 63}, "--seed is"),
    ({"threads": 0}, f"--threads is 0; it must be a whole number, 1 .. {os.cpu_count()}"),
    ({"threads": 100_000}, "--threads is 100000"),
    ({"dtype": "fp8"}, "unknown dtype 'fp8': one of auto, float32, bfloat16, float16, fp32, bf16, fp16"),
    ({"dtype": "bfloat"}, "did you mean 'bfloat16'?"),
    ({"device": "gpu"}, "unknown device 'gpu': one of auto, cpu, cuda, cuda:N, mps; did you mean 'cuda'?"),
    ({"attn": "flash"}, "unknown attn 'flash': one of sdpa, eager, flash_attention_2"),
    ({"quantize": "4"}, "unknown quantize '4': one of 4bit, 8bit"),
    ({"device_map": "all"}, "unknown device-map 'all': one of auto"),
    ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
    ({"suites": ()}, "suites are missing"), ({"suites": ("vqav2", "vqav2")}, "each once"),
    ({"suites": ("vqa",)}, "; did you mean 'vqav2'?"),
    ({"prompt_set": "lava"}, "has no prompt set 'lava': one of lmms, llava, lmms-karpathy, blip2, custom; did you "
     "mean 'llava'?"),
    ({"prompt_set": "custom"}, "--prompt-set custom needs the text"),
    ({"prompt_set": "lmms", "prompt": "Say."}, "exclude each other"),
    ({"suites": ("vqav2",), "prompt": "What?"}, "--prompt 'What?' must contain {question} (suite 'vqav2')"),
    ({"prompt": "{question}"}, "there is no question to put there"), ({"prompt": "<image> Say."}, "contains '<image>'"),
    ({"split": "val2018"}, "unknown split 'val2018' of suite 'coco-caption'"),
    ({"suites": ("coco-caption", "vqav2"), "split": "val2017"}, "unknown split 'val2017' of suite 'vqav2'"),
    ({"methods": ("fast",)}, "unknown method 'fast'"),
    ({"shard": "0/4"}, "--shard is '0/4'; it must be 1/4 … 4/4"), ({"shard": "5/4"}, "it must be 1/4 … 4/4"),
    ({"shard": "2"}, "it must be i/N, with i from 1 to N"), ({"shard": "1/0"}, "it must be i/N"),
    ({"shard": "1/2", "until_width": 0.1}, "--until-width goes by all that was measured before"),
    ({"shard": "1/2", "refine": True}, "--refine goes by all"),
])  # fmt: skip
def test_refusals(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(out=str(tmp_path), **options)


@pytest.mark.parametrize("options", [
    {"device": "cuda:12"}, {"device": "mps"}, {"warmup": 0}, {"seed": 0}, {"gamma": 64}, {"threads": 1},
    {"exit_layer": 1}, {"suites": "vqav2"}, {"suites": ["vqav2"]},
])  # fmt: skip
def test_allowed(options: dict[str, Any], tmp_path: Path) -> None:
    config = RunConfig(out=str(tmp_path), **options)
    assert config.validate() is config
    assert isinstance(config.suites, tuple) and config.suites[0] in ("coco-caption", "vqav2")


def test_it_round_trips_through_json() -> None:
    single = {"require_lossless": False, "invocations": 1, "refine": False, "batch_size": 1, "shard": None,
              "tensor_parallel": False}  # fmt: skip
    config = RunConfig(**CHANGED | SAMPLED | single)
    stored = json.loads(json.dumps(config.to_dict()))
    assert RunConfig.from_dict(stored) == config
    assert RunConfig.from_dict(stored).sha256() == config.sha256()
    with pytest.raises(UsageError, match="unknown fields .beams.; use the fastvlm-bench that wrote it"):
        RunConfig.from_dict({**stored, "beams": 5})


@pytest.mark.parametrize("name", [field.name for field in fields(RunConfig)])
def test_the_hash_covers_exactly_what_is_measured(name: str) -> None:
    config = RunConfig(temperature=0.5) if name in ("top_p", "top_k") else RunConfig()
    other = replace(config, **{name: (CHANGED | SAMPLED)[name]})
    assert getattr(other, name) != getattr(config, name)
    assert (other.sha256() == config.sha256()) == (name in NOT_MEASURED)


def test_fields_that_came_later_leave_the_hash_of_older_runs_as_it_was() -> None:
    """A run of 0.1, whose configuration lacks them, can be resumed."""
    stored = {name: value for name, value in RunConfig().to_dict().items() if name not in LATER}
    measured = {name: value for name, value in stored.items() if name not in NOT_MEASURED}
    digest = hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()
    assert RunConfig().sha256() == digest == RunConfig.from_dict(stored).sha256()


def test_what_generate_is_given() -> None:
    assert RunConfig().generation == RunConfig(temperature=0.0).generation == {"num_beams": 1, "do_sample": False}
    sampled = {"num_beams": 1, "do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9}
    assert RunConfig(temperature=0.7, top_p=0.9).generation == sampled, "top-k 50 is transformers' own default"
    assert RunConfig(ignore_eos=True).generation["eos_token_id"] > 10**9


# ------------------------------------------------------------------------------------------ --out


def test_out_may_be_new_and_nothing_is_left_behind(tmp_path: Path) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_out_is_a_file_or_below_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "results"):
        assert f"{tmp_path / 'file'} is not a folder; choose another --out" in refusal(out=str(out))


def test_out_is_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "is not a folder" in refusal(out=str(tmp_path / "link"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied; choose another --out" in refusal(out=str(tmp_path / "results"))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files even from root")
def test_out_takes_no_files() -> None:
    assert "cannot write results to /proc/self/results" in refusal(out="/proc/self/results")
