"""Other people's heads: what a folder holds, what fits a target, and a line for everything else."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families.builders import build
from safetensors.torch import load_file, save_file
from state_heads import head_config, head_weights, save_head

from fastvlm_bench.decoding.build import build as build_method
from fastvlm_bench.decoding.eagle import Eagle1Method
from fastvlm_bench.decoding.eagle3 import Eagle3Method
from fastvlm_bench.drafts.fitting import check_before_loading
from fastvlm_bench.drafts.formats import TargetFormat, check_fits, kind_of, read_format
from fastvlm_bench.drafts.load_eagle import load_eagle
from fastvlm_bench.drafts.manifest import MANIFEST
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import MethodSpec
from fastvlm_bench.models.load import Target

KINDS: list[tuple[dict[str, Any], str]] = [
    ({"speculators_model_type": "eagle3"}, "eagle3"), ({"architectures": ["LlamaForCausalLMEagle3"]}, "eagle3"),
    ({"architectures": ["Eagle3LlamaForCausalLM"]}, "eagle3"),
    ({"architectures": ["LlamaForCausalLM"], "draft_vocab_size": 9, "num_hidden_layers": 1}, "eagle3"),
    ({"architectures": ["EagleLlamaForCausalLM"]}, "eagle"),
    ({"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}, "eagle"),
    ({"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32}, "model"),
    ({"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {}, "num_hidden_layers": 1}, "model"),
    ({"speculators_model_type": "dflash"}, "dflash"), ({"architectures": ["DFlashDraftModel"]}, "dflash"),
    ({"dflash_config": {}, "num_hidden_layers": 5}, "dflash"), ({"speculators_model_type": "dspark"}, "dspark"),
    ({"speculators_model_type": "peagle", "draft_vocab_size": 9}, "peagle"), ({"medusa_num_heads": 4}, "medusa"),
    ({"speculators_model_type": "mtp"}, "mtp"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "kind"), KINDS)
def test_a_folder_says_what_it_holds(tmp_path: Path, config: dict[str, Any], kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert kind_of(tmp_path) == kind
    wrong = "eagle3" if kind != "eagle3" else "eagle"
    with pytest.raises(UsageError, match=f"which {wrong} does not run; ") as caught:
        read_format(tmp_path, wrong)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_draft_of_our_own_is_told(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(UsageError, match=r"is a draft that `fastvlm-bench train` made.*give it to fastvlm, by --draft"):
        read_format(tmp_path, "eagle3")


@pytest.fixture(scope="module")
def qwen() -> Any:
    return build("qwen2_5_vl")[0]


@pytest.fixture
def target(qwen: Any, tmp_path: Path) -> str:
    """A folder with the target's config.json alone: whatever is refused here is refused before it is loaded."""
    qwen.config.architectures = [type(qwen).__name__]
    qwen.config.save_pretrained(tmp_path / "target")
    return str(tmp_path / "target")


def test_what_fits_is_let_in(qwen: Any, target: str, tmp_path: Path) -> None:
    for kind in ("eagle3", "eagle"):
        folder = save_head(tmp_path / kind, head_config(qwen, kind))
        assert check_before_loading(kind, {"draft": str(folder)}, target) == []
        load_eagle(kind, folder, qwen, target)


SECTIONS = {"rope_type": "default", "mrope_section": [2, 2, 2]}


@pytest.mark.parametrize(("changes", "says"), [
    ({"hidden_size": 64}, r"width 64 \(head\) is not 48 \(target\).*take a head that was trained for this target"),
    ({"target_hidden_size": 96}, r"target width 96 \(head\) is not 48"),
    ({"vocab_size": 200}, r"vocabulary 200 \(head\) is not 160 \(target\)"),
    ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 9]}},
     r"reads the states 2, 3, 10 of its target, and this target of 5 layers has the states 0 .. 5.*aux="),
    ({"eagle_config": None}, r"reads the states 2, 2, 2 .*each to be read once"),
    ({"rope_scaling": None}, r"has plain positions \(no mrope_section\) and does not say that it was trained for"),
    ({"rope_scaling": {**SECTIONS, "mrope_section": [4, 4, 4]}}, r"does not add up to half the width"),
    ({"layer_types": ["sliding_attention"]}, "sliding windows"),
    ({"hidden_size": None}, "says no hidden_size"),
])  # fmt: skip
def test_what_does_not_fit_is_named_before_the_target_loads(
    qwen: Any, target: str, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    config = {k: v for k, v in {**head_config(qwen), **changes}.items() if v is not None}
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "config.json").write_text(json.dumps(config))
    for ask in (
        lambda: check_before_loading("eagle3", {"draft": str(tmp_path / "head")}, target),
        lambda: load_eagle("eagle3", tmp_path / "head", qwen, target),
    ):
        with pytest.raises(UsageError, match=says) as caught:
            ask()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_states_can_be_chosen(qwen: Any, target: str, tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", head_config(qwen, eagle_config=None))
    assert check_before_loading("eagle3", {"draft": str(folder), "aux": "1-2-5"}, target) == []
    assert load_eagle("eagle3", folder, qwen, target, "1-2-5").reads == (1, 2, 5)
    with pytest.raises(UsageError, match="option 'aux' is '1-two'; it must be numbers of states joined by '-'"):
        check_before_loading("eagle3", {"draft": str(folder), "aux": "1-two"}, target)


def test_plain_positions_are_taken_where_the_head_was_made_for_the_target(
    qwen: Any, target: str, tmp_path: Path
) -> None:
    """As vLLM does: the axis of time, which is that of all text."""
    config = {k: v for k, v in head_config(qwen, target_model_type="qwen2_5_vl").items() if k != "rope_scaling"}
    folder = save_head(tmp_path / "head", config)
    assert check_before_loading("eagle3", {"draft": str(folder)}, target) == []
    head = load_eagle("eagle3", folder, qwen, target)
    positions = torch.stack([torch.arange(4), torch.arange(4) + 5, torch.arange(4) + 9])[:, None]
    states = torch.zeros(1, 4, 48)
    for mine, own in zip(head.rotary(states, positions), head.rotary(states, positions[0]), strict=True):
        assert torch.equal(mine, own)


def test_another_verifier_is_a_doubt_not_a_refusal(qwen: Any, tmp_path: Path) -> None:
    config = head_config(qwen)
    layer = {key: config.pop(key) for key in list(config) if key not in ("draft_vocab_size", "eagle_config")}
    verifier = {"name_or_path": "Owner/Some-VL-7B", "architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    save_head(tmp_path / "head", {
        **config, "speculators_model_type": "eagle3", "transformer_layer_config": layer,
        "speculators_config": {"verifier": verifier}, "eagle_aux_hidden_state_layer_ids": [1, 2, 3],
    }, {})  # fmt: skip
    head = read_format(tmp_path / "head", "eagle3")
    assert head.aux == (1, 2, 3) and head.width == 48

    def doubts(name: str, architecture: str = "Qwen2_5_VLForConditionalGeneration") -> list[str]:
        told = {**qwen.config.to_dict(), "architectures": [architecture]}
        return check_fits(head, TargetFormat.of(name, told))

    assert doubts("else/some-vl-7b@main") == []
    assert "made for Owner/Some-VL-7B, not for Owner/Other-VL-7B" in doubts("Owner/Other-VL-7B")[0]
    assert doubts(str(tmp_path)) == []  # a folder may have any name


@pytest.mark.parametrize(("change", "says"), [
    (lambda w: w.pop("fc.weight"), r"1 missing \(fc.weight\)"),
    (lambda w: w.update(odd=torch.ones(1)), r"1 unknown \(odd\)"),
    (lambda w: w.update({"fc.weight": torch.ones(48, 48)}), r"1 of another shape \(fc.weight\)"),
    (lambda w: w.pop("d2t"), "drafts 50 of 160 ids and has no d2t"),
    (lambda w: w.pop("lm_head.weight"), "has no lm_head.weight for the 50 ids"),
    (lambda w: w.update(d2t=torch.zeros(50, dtype=torch.long) + 150), "d2t names ids twice, or ids beyond"),
    (lambda w: w.update(d2t=torch.zeros(40, dtype=torch.long)), "d2t has 40 ids, draft_vocab_size is 50"),
])  # fmt: skip
def test_files_that_are_not_whole(qwen: Any, tmp_path: Path, change: Any, says: str) -> None:
    config = head_config(qwen, drafted=50)
    weights = head_weights(config)
    change(weights)
    with pytest.raises(UsageError, match=says) as caught:
        load_eagle("eagle3", save_head(tmp_path / "head", config, weights), qwen, "target")
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files(qwen: Any, target: str, tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", head_config(qwen))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:200])
    with pytest.raises(UsageError, match=r"model.safetensors cannot be read .*download it again"):
        load_eagle("eagle3", folder, qwen, target)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="has no weights"):
        load_eagle("eagle3", folder, qwen, target)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(UsageError, match="lacks gone.safetensors, which its index names"):
        load_eagle("eagle3", folder, qwen, target)
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match="config.json cannot be read"):
        read_format(folder, "eagle3")
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match="has no config.json: it is no draft"):
        read_format(folder, "eagle3")
    with pytest.raises(UsageError, match="no draft at"):
        check_before_loading("eagle3", {"draft": str(tmp_path / "nothing")}, target)


def test_the_first_layer_of_an_eagle_1_head_may_have_no_norm(qwen: Any, tmp_path: Path) -> None:
    """As in the authors' release; a head that has one keeps it."""
    config = head_config(qwen, "eagle")
    head = load_eagle("eagle", save_head(tmp_path / "one", config), qwen, "target")
    weights = {**load_file(tmp_path / "one" / "model.safetensors"), "layers.0.input_layernorm.weight": torch.ones(48)}
    weights.pop("fc.bias")
    save_file(weights, tmp_path / "one" / "model.safetensors")
    other = load_eagle("eagle", tmp_path / "one", qwen, "target")
    norms = [isinstance(one.layers[0].input_layernorm, torch.nn.Identity) for one in (head, other)]
    assert norms == [True, False] and head.fc.bias is not None and other.fc.bias is None


def test_options_reach_the_method_and_the_record(qwen: Any, tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", head_config(qwen))
    target = Target("the target", qwen, None, torch.device("cpu"), None)
    options = "gamma=3,topk=2,depth=4,nodes=9,stop_below=0.25,images=placeholder,aux=1-2-4"
    built = build_method(MethodSpec.parse(f"eagle3:draft={folder},{options}"), target, None, Clock())
    method: Any = built.method
    assert (method.gamma, method.topk, method.depth, method.nodes, method.stop_below) == (3, 2, 4, 9, 0.25)
    assert method.head.reads == (1, 2, 4) and not method.head.merged
    told = built.described
    assert told["draft"]["states"] == "1-2-4" and told["draft"]["source"] == str(folder)
    assert told["draft"]["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    own = sum(4 * value.numel() for value in load_file(folder / "model.safetensors").values())
    assert told["extra_bytes"] == own
    folder = save_head(tmp_path / "other", head_config(qwen, "eagle"))
    method = build_method(MethodSpec.parse(f"eagle:draft={folder}"), target, None, Clock()).method
    assert method.depth == method.gamma == 5 and method.head.merged


def test_the_folder_is_enough_for_generate(tmp_path: Path) -> None:
    """Outside the benchmark: `model.generate(custom_generate=Eagle3Method("folder"))` loads it at its first call."""
    model, inputs, expected = build("llava")
    for kind, method in (("eagle3", Eagle3Method), ("eagle", Eagle1Method)):
        made = method(save_head(tmp_path / kind, head_config(model, kind)), gamma=2)
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False, custom_generate=made)
        assert ids[0, inputs["input_ids"].shape[1] :].tolist() == expected[:8]
        assert made.drafter["kind"] == kind  # type: ignore[index]
