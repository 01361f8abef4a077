"""Drafts that the package `speculators` made and ran: ours give its states and tokens, in every spelling and file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from fastvlm_bench.drafters.target_states import TargetStates
from fastvlm_bench.drafts.formats import default_aux, read_format
from fastvlm_bench.drafts.load_eagle import load_eagle
from fastvlm_bench.drafts.state_heads import Eagle3
from fastvlm_bench.errors import UsageError

ROOT = Path(__file__).parents[1] / "fixtures" / "eagle3"
CASES = sorted(path.name for path in ROOT.iterdir() if path.is_dir())
WIDTH, VOCABULARY, START = 32, 64, 8
"""As in tests/fixtures/make_eagle3.py."""


@pytest.fixture(scope="module")
def target() -> Any:
    """Any model of the width and vocabulary for which the drafts were made."""
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=8, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=VOCABULARY)  # fmt: skip
    return LlamaForCausalLM(config).eval()


def told(head: Any, hidden: Tensor, ids: Tensor, start: int, following: list[int], steps: int) -> Any:
    """States (before the last norm) and target ids of `steps` drafts from position `start` on.

    following: the tokens to be fed after each draft; where it ends, the draft itself.
    """
    cache, count = head.new_cache(), start + 1
    states = head.fuse(hidden[:, :count].chunk(3, dim=-1))
    positions = torch.arange(count)[None]
    own = head(head.embed(ids[:, :count]), states, positions, cache)[:, -1:]
    found, drafts = [own[0, 0]], [int(head.target_ids(head.logits(own).argmax(-1)))]
    for step in range(1, steps):
        token = following[step - 1] if step <= len(following) else drafts[-1]
        own = head(head.embed(torch.tensor([[token]])), own, torch.tensor([[start + step]]), cache)
        found.append(own[0, 0])
        drafts.append(int(head.target_ids(head.logits(own).argmax(-1))))
    return found, drafts


def agree(head: Any, expected: dict[str, Tensor]) -> None:
    """Every state and every token at every position and step; and the chain of its own drafts."""
    hidden, ids = expected["hidden"], expected["ids"]
    assert told(head, hidden, ids, START, [], 4)[1] == expected["chain"].tolist()
    length = ids.shape[1]
    for start in range(length):
        following = ids[0, start + 1 :].tolist()
        steps = min(4, len(following) + 1)
        states, drafts = told(head, hidden, ids, start, following, steps)
        for step in range(steps):
            wanted = expected[f"state.{step}"][start]
            wanted = head.norm(wanted) if head.norm_output else wanted
            torch.testing.assert_close(states[step], wanted, rtol=1e-4, atol=1e-4)
            assert drafts[step] == int(head.target_ids(expected[f"draft.{step}"][start]))


@pytest.mark.parametrize("name", CASES)
def test_a_draft_of_speculators_drafts_as_speculators_does(target: Any, name: str) -> None:
    with torch.no_grad():
        agree(load_eagle("eagle3", ROOT / name, target, "target"), load_file(ROOT / name / "expected.safetensors"))


def in_the_authors_spelling(source: Path, folder: Path) -> dict[str, Tensor]:
    """The same draft as the authors, SpecForge and AngelSlim would publish it; its weights are returned, not written.

    They number explicit states by the layer that they leave, one less than speculators does.
    """
    config = json.loads((source / "config.json").read_text())
    flags = {key: config[key] for key in ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")}
    ids = [i - 1 for i in config["eagle_aux_hidden_state_layer_ids"]]
    layer = config["transformer_layer_config"]
    rope = {"rope_theta": layer.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        **layer, **flags, **rope, "architectures": ["LlamaForCausalLMEagle3"], "target_model_type": "llava",
        "draft_vocab_size": config["draft_vocab_size"], "eagle_config": {"eagle_aux_hidden_state_layer_ids": ids},
    }))  # fmt: skip
    weights = load_file(source / "model.safetensors")
    return {name.replace("layers.0.", "midlayer."): value for name, value in weights.items()}


@pytest.mark.parametrize("files", covering(["one", "shards", "pickled", "pickled shards"], ["pickled shards"]))
def test_spellings_and_files_are_one_draft(target: Any, tmp_path: Path, files: str) -> None:
    source, folder = ROOT / "llama", tmp_path / "head"
    weights = in_the_authors_spelling(source, folder)
    halves = [dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])]
    pickled = files.startswith("pickled")
    stem = "pytorch_model" if pickled else "model"
    ending = ".bin" if pickled else ".safetensors"
    parts = halves if "shards" in files else [weights]
    names = [f"{stem}-{i}-of-2{ending}" for i in (1, 2)] if len(parts) > 1 else [stem + ending]
    for name, part in zip(names, parts, strict=True):
        (torch.save if pickled else save_file)(part, folder / name)  # type: ignore[operator]
    if len(parts) > 1:
        index = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        (folder / f"{stem}{ending}.index.json").write_text(json.dumps({"weight_map": index}))
    head = load_eagle("eagle3", folder, target, "target")
    assert head.reads == load_eagle("eagle3", source, target, "target").reads == (2, 3, 4)
    with torch.no_grad():
        agree(head, load_file(source / "expected.safetensors"))


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("must-not-be-made"),))


def test_pickled_code_does_not_run(target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "head"
    weights = in_the_authors_spelling(ROOT / "llama", folder)
    torch.save({**weights, "more": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="pytorch_model.bin cannot be read") as caught:
        load_eagle("eagle3", folder, target, "target")
    assert "\n" not in str(caught.value) and not (tmp_path / "must-not-be-made").exists()


def test_a_state_is_numbered_by_the_layer_that_it_enters(target: Any) -> None:
    """vLLM's convention: state i is what the first i layers have made, so transformers' own hidden_states[i].

    The state after the last layer is the one before the final norm.
    """
    layers = len(target.model.layers)
    states = TargetStates(target, range(layers + 1))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), states.installed():
        own = target(ids, output_hidden_states=True).hidden_states
    for number in range(layers):
        assert torch.equal(states.states[number], own[number])
    torch.testing.assert_close(target.model.norm(states.states[layers]), own[layers])
    assert default_aux(layers) == (2, layers // 2, layers - 3)


def test_numbers_of_states_in_each_spelling(tmp_path: Path) -> None:
    folder = tmp_path / "head"
    in_the_authors_spelling(ROOT / "llama", folder)
    assert read_format(folder, "eagle3").aux == read_format(ROOT / "llama", "eagle3").aux == (2, 3, 4)
    config = json.loads((folder / "config.json").read_text())
    del config["eagle_config"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_format(folder, "eagle3").aux is None


def test_the_targets_embeddings_are_not_held_twice(target: Any, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    weights = in_the_authors_spelling(ROOT / "llama", folder)
    own = load_eagle("eagle3", ROOT / "llama", target, "target")
    for given in (target.get_input_embeddings().weight.detach().clone(), None):
        changed = {key: value for key, value in weights.items() if key != "embed_tokens.weight"}
        save_file(changed if given is None else {**changed, "embed_tokens.weight": given}, folder / "model.safetensors")
        head = load_eagle("eagle3", folder, target, "target")
        assert not head.own_embeddings and own.own_embeddings
        assert own.weight_bytes - head.weight_bytes == 4 * VOCABULARY * WIDTH
        assert torch.equal(head.embed(torch.tensor([[3]])), target.get_input_embeddings()(torch.tensor([[3]])))
    assert isinstance(head, Eagle3)
