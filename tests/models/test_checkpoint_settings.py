"""Every field of generation_config.json is honoured for all methods alike, left to the run, or refused."""

import copy
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering
from targets import generate, random_llava
from transformers import GenerationConfig
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.embedded.parts import build_processor, save
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.checkpoint_settings import ASSISTANT, DECIDED, DRAWN, FILE, HONOURED, KNOWN, TOKENS, settle
from fastvlm_bench.models.generation_settings import SETTINGS, generation_settings
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.records.record import read_run

COUNT = 12
METHODS = ("standard", "fastvlm", "hf-generate")
ASKED: dict[str, Any] = {
    "do_sample": True, "temperature": 0.3, "top_k": 3, "top_p": 0.5, "num_beams": 3, "early_stopping": True,
    "length_penalty": 2.0, "num_return_sequences": 2, "num_beam_groups": 2, "diversity_penalty": 0.5,
    "constraints": ["x"],
    "force_words_ids": [[5]], "low_memory": True, "penalty_alpha": 0.6, "dola_layers": "low",
    "prompt_lookup_num_tokens": 3, "use_mtp": True, "max_length": 5, "max_new_tokens": 3, "max_time": 1e-6,
    "token_healing": True, "use_cache": False, "cache_implementation": "static", "cache_config": {"backend": "quanto"},
    "max_cache_len": 4, "prefill_chunk_size": 2, "compile_config": {"fullgraph": False}, "disable_compile": True,
    "continuous_batching_config": {}, "output_attentions": True, "output_hidden_states": True, "output_scores": True,
    "output_logits": True, "return_dict_in_generate": True,
}  # fmt: skip
"""For each field that a run decides a value that would change what is decoded, or how."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "model"
    model, tokenizer = random_llava(3, seed=3)  # its text repeats pairs of tokens, which some settings forbid
    save(model, build_processor(tokenizer), folder)
    return folder


@pytest.fixture
def asks(plain: Path, tmp_path: Path) -> Any:
    """A copy of the checkpoint whose generation_config.json has these keys besides."""

    def made(**settings: Any) -> str:
        folder = tmp_path / "model"
        if not folder.exists():
            folder.mkdir()
            for path in plain.iterdir():
                (folder / path.name).symlink_to(path)
        told = json.loads((plain / FILE).read_text())
        (folder / FILE).unlink()
        (folder / FILE).write_text(json.dumps({**told, **settings}))
        return str(folder)

    return made


@pytest.fixture(scope="module")
def loaded(plain: Path) -> Target:
    return load_target(str(plain), device="cpu")


@pytest.fixture
def asking(loaded: Target) -> Iterator[Any]:
    """The same model, settled anew with these fields besides; it is as it was afterwards."""
    model, before = loaded.model, copy.deepcopy(loaded.model.generation_config)

    def made(**settings: Any) -> Target:
        model.generation_config = copy.deepcopy(before)
        for field, value in settings.items():
            setattr(model.generation_config, field, value)
        settle(model, loaded.processor, "mine")
        return loaded

    yield made
    vars(model).pop("generate", None)
    model.generation_config = before


@pytest.fixture(scope="module")
def unasked(loaded: Target) -> list[int]:
    """What the model says without any such field."""
    said = answers(loaded)
    assert len(set(map(tuple, said.values()))) == 1
    return said["standard"]


def inputs_of(target: Target) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, *[target.model.config.vision_config.image_size] * 2)
    image = target.model.config.image_token_index
    length = (pixels.shape[-1] // target.model.config.vision_config.patch_size) ** 2
    ids = torch.tensor([[5, 6, *[image] * length, 7, 8, 9]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def answers(target: Target) -> dict[str, list[int]]:
    """What each of three methods says to one prompt."""
    inputs = inputs_of(target)
    methods = (Standard(), FastVLM(Draft(1, None), gamma=3), HfGenerate())
    made = [generate(target.model, inputs, method, COUNT) for method in methods]
    return dict(zip(METHODS, made, strict=True))


def test_every_field_of_transformers_has_its_place() -> None:
    fields = set(vars(GenerationConfig())) | set(GenerationConfig().to_dict())
    assert {field for field in fields if not field.startswith("_")} <= KNOWN, "a new field: decide what a run does"
    assert not set(HONOURED) & set(DECIDED) and ASKED.keys() == DECIDED.keys()


FEW_DECIDED = ("num_beams", "max_new_tokens", "use_cache")
"""In the default run: beams, which are another loop, limits, and the cache. The others are decided in one place."""


@pytest.mark.parametrize("field", covering(DECIDED, FEW_DECIDED))
def test_what_the_run_decides_changes_nothing(asking: Any, unasked: list[int], field: str) -> None:
    """One field by itself: every method says what it says without."""
    assert answers(asking(**{field: ASKED[field]})) == dict.fromkeys(METHODS, unasked)


@pytest.mark.slow  # in the default run, they are honoured or left out one by one
def test_the_settings_of_florence_and_others_together(asks: Any, plain: Path, capsys: Any) -> None:
    told = {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 3, "length_penalty": 1.5,
            "return_dict_in_generate": True, "cache_implementation": "offloaded"}  # fmt: skip
    target = load_target(asks(**told), device="cpu")
    said = answers(target)
    assert len(set(map(tuple, said.values()))) == 1
    notes = capsys.readouterr().err
    assert "num_beams=3, early_stopping=True, length_penalty=1.5: left out, a run searches no beams" in notes
    assert "cache_implementation='offloaded': left out, the method chooses its cache" in notes
    grams = list(zip(*(said["standard"][i:] for i in range(3)), strict=False))
    assert len(grams) == len(set(grams)), "no_repeat_ngram_size is honoured"


DRAWN_VALUES: dict[str, Any] = {
    "min_p": 0.9,
    "top_h": 0.1,
    "typical_p": 0.05,
    "epsilon_cutoff": 0.05,
    "eta_cutoff": 0.9,
}


def drawn_by(target: Target, method: Any, drawing: dict[str, Any]) -> list[int]:
    inputs = inputs_of(target)
    torch.manual_seed(0)
    ids = target.model.generate(**inputs, max_new_tokens=COUNT, custom_generate=method, **drawing)
    new: list[int] = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return new


@pytest.mark.parametrize("field", covering(DRAWN, ["min_p"]))
def test_what_holds_where_tokens_are_drawn(asking: Any, unasked: list[int], field: str) -> None:
    """Nothing in a greedy run; in a run that draws the same for every method, and recorded as in force."""
    target, value = asking(**{field: DRAWN_VALUES[field]}), DRAWN_VALUES[field]
    assert answers(target) == dict.fromkeys(METHODS, unasked)
    drawing = {"do_sample": True, "temperature": 1.5, "top_k": 0, "top_p": 1.0}
    drawn = []
    for method in (Standard(), HfGenerate()):
        drawn.append(drawn_by(target, method, drawing))
    assert drawn[0] == drawn[1]
    vars(target.model.generation_config)[field] = None
    assert drawn_by(target, Standard(), drawing) != drawn[0], "it does something"
    asked = GenerationConfig(eos_token_id=2, **{field: value})
    assert generation_settings(asked, drawing)["in_force"][field] == value
    assert generation_settings(asked, {"do_sample": False})["overridden"] == {field: value}


def test_neutral_values_are_not_told(asking: Any) -> None:
    neutral = {"num_beams": 1, "early_stopping": False, "length_penalty": 1.0, "prompt_lookup_num_tokens": None,
               "penalty_alpha": None, "constraints": [], "output_scores": True, "return_dict_in_generate": True,
               "token_healing": False, "use_mtp": False}  # fmt: skip
    model = asking().model
    for field, value in neutral.items():
        setattr(model.generation_config, field, value)
    assert settle(model, None, "mine").notes == ()


def test_a_setting_that_needs_an_end_token_says_so(asking: Any) -> None:
    with pytest.raises(UsageError, match=r"exponential_decay_length_penalty=\[10, 1.1\], which needs an eos_token_id"):
        asking(exponential_decay_length_penalty=[10, 1.1], eos_token_id=None)


def test_a_model_that_drafts_keeps_its_assistants_settings_alone(asking: Any) -> None:
    target = asking(num_assistant_tokens=7)
    target.model.generation_config.stop_strings = ["a"]
    target.model.generation_config.num_beams = 4
    settled = settle(target.model, target.processor, "second", drafts=True)
    assert settled.notes == () and settled.criteria == () and "generate" not in vars(target.model)
    assert target.model.generation_config.num_assistant_tokens == 7


def test_the_models_generate_does_not_keep_it_alive(plain: Path) -> None:
    target = load_target(str(plain), device="cpu")
    target.model.generation_config.stop_strings = ["a"]
    settle(target.model, target.processor, "mine")
    assert "generate" in vars(target.model)
    gone = weakref.ref(target.model)
    del target
    assert gone() is None, "without a collection of garbage"


HONOURED_VALUES: dict[str, Any] = {
    "repetition_penalty": 3.0, "no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.5, "min_length": 60,
    "encoder_no_repeat_ngram_size": 2, "min_new_tokens": 9, "suppress_tokens": "said", "begin_suppress_tokens": "said",
    "bad_words_ids": "said", "forced_bos_token_id": 7, "forced_eos_token_id": 2, "sequence_bias": "said",
    "exponential_decay_length_penalty": [2, 3.0], "renormalize_logits": True, "remove_invalid_values": True,
    "stop_strings": ["never said"],
}  # fmt: skip


FEW_HONOURED = ("repetition_penalty", "stop_strings")


@pytest.mark.parametrize("field", covering(HONOURED_VALUES, FEW_HONOURED))
def test_what_is_honoured_is_honoured_by_all_methods_alike(asking: Any, unasked: list[int], field: str) -> None:
    said = unasked
    values = {"suppress_tokens": said[:2], "begin_suppress_tokens": said[:1], "bad_words_ids": [[said[1]]],
              "sequence_bias": [[[said[1]], -50.0]]}  # fmt: skip
    target = asking(**{field: values.get(field, HONOURED_VALUES[field])})
    if field == "stop_strings":
        target = asking(stop_strings=[target.processor.tokenizer.decode([said[2]])])
    found = answers(target)
    assert len(set(map(tuple, found.values()))) == 1, found
    if field in values or field in ("repetition_penalty", "no_repeat_ngram_size"):
        assert found["standard"] != said
    if field == "stop_strings":
        assert found["standard"] == said[: len(found["standard"])] and len(found["standard"]) <= 3


def test_no_other_field_is_honoured_untested() -> None:
    """guidance_scale and watermarks keep a state: the methods refuse them by name."""
    assert set(HONOURED_VALUES) | {"guidance_scale", "watermarking_config"} == set(SETTINGS)
    assert set(HONOURED) == set(SETTINGS) | set(DRAWN) | set(TOKENS) | set(ASSISTANT)
    assert set(DRAWN_VALUES) == set(DRAWN)


WRONG: list[dict[str, Any]] = [
    {"repetition_penalty": "high"}, {"repetition_penalty": -1.0}, {"no_repeat_ngram_size": "three"},
    {"suppress_tokens": ["the"]}, {"bad_words_ids": [5]}, {"bad_words_ids": "no"}, {"sequence_bias": {"a": 1}},
    {"forced_eos_token_id": "end"}, {"exponential_decay_length_penalty": [1]}, {"min_new_tokens": "nine"},
    {"eos_token_id": "</s>"}, {"pad_token_id": [1]}, {"eos_token_id": [2, None]}, {"stop_strings": 7},
    {"encoder_repetition_penalty": 0}, {"begin_suppress_tokens": {"a": 1}}, {"min_length": [3]},
    *({field: 10**30} for field in TOKENS), {"pad_token_id": -(10**30)}, {"eos_token_id": [2, -2]},
    {"min_p": -1}, {"top_h": "much"}, {"typical_p": [1]}, {"epsilon_cutoff": "abc"}, {"eta_cutoff": {"a": 1}},
    {"encoder_no_repeat_ngram_size": 10**30}, {"encoder_no_repeat_ngram_size": 10**9}, {"no_repeat_ngram_size": 1e308},
]  # fmt: skip


@pytest.mark.parametrize("settings", WRONG, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))
def test_wrong_values_are_named_before_anything_is_decoded(asking: Any, settings: dict[str, Any]) -> None:
    (field,) = settings
    with pytest.raises(UsageError, match=f"generation_config.json of model 'mine' has {field}=.*; mend it") as caught:
        asking(**settings)
    assert "\n" not in str(caught.value)


AS_FILES: list[dict[str, Any]] = [
    WRONG[0], {"pad_token_id": [1]}, {"eos_token_id": "</s>"}, {"max_new_tokens": -1}, {"compile_config": 3},
    {"watermarking_config": "x"}, {"num_beams": "two"},
]  # fmt: skip


@pytest.mark.parametrize("settings", covering(AS_FILES, [AS_FILES[0], *AS_FILES[2:4]]), ids=lambda s: "-".join(s))
def test_the_command_says_it_in_one_line(asks: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    """Whatever transformers itself makes of such a file."""
    result = CliRunner().invoke(app, [
        "run", "--model", asks(**settings), "-s", "coco-caption", "-m", "standard", "--limit", "5", "--warmup", "0",
        "--max-new-tokens", "2", "--threads", "1", "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    (field,) = settings
    if result.exit_code:
        assert result.exit_code == 2 and "Traceback" not in result.output and field in result.output, result.output


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff", '"greedy"'])
def test_a_damaged_file_is_not_taken_for_none(asks: Any, text: str) -> None:
    folder = asks()
    (Path(folder) / FILE).write_text(text)
    with pytest.raises(UsageError, match=rf"{FILE} is damaged, it is no JSON object; copy it anew"):
        load_target(folder, device="cpu")


def test_a_run_records_what_was_asked_for_in_vain(asks: Any, tmp_path: Path) -> None:
    folder = asks(num_beams=4, early_stopping=True, repetition_penalty=1.1, return_dict_in_generate=True)
    result = CliRunner().invoke(app, [
        "run", "-s", "coco-caption", "--model", folder, "--limit", "1", "--max-new-tokens", "2", "--warmup", "0",
        "-m", "standard", "-m", "layerskip:exit_layer=1", "-m", "hf-generate", "--threads", "1", "--engine", "eager",
        "--out", str(tmp_path),
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    (made,) = [path for path in tmp_path.iterdir() if (path / "run.json").is_file()]
    run = read_run(made)
    told = run.meta["generation"]
    assert told["overridden"] == {"num_beams": 4, "early_stopping": True}
    assert told["in_force"]["repetition_penalty"] == 1.1
    assert {line["error"] for line in run.lines} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_answers_that_a_stop_string_ends_are_recorded(asks: Any, plain: Path, batch: int, tmp_path: Path) -> None:
    """By every method at the same token, in batches too, where a loop of transformers pads the rows that have ended."""
    call = ["run", "-s", "coco-caption", "--limit", "6", "--max-new-tokens", "12", "--warmup", "0", "-m", "standard",
            "-m", "layerskip:exit_layer=1", "-m", "hf-generate", "--threads", "1",
            "--batch-size", str(batch)]  # fmt: skip

    def lines(model: str, out: Path) -> list[dict[str, Any]]:
        result = CliRunner().invoke(app, [*call, "--model", model, "--out", str(out)])
        assert result.exit_code == 0, result.output
        (made,) = [path for path in out.iterdir() if (path / "run.json").is_file()]
        return list(read_run(made).lines)

    whole = lines(str(plain), tmp_path / "whole")
    tokenizer = load_target(str(plain), device="cpu").processor.tokenizer
    words = [tokenizer.decode([line["token_ids"][3 + i % 4]]) for i, line in enumerate(whole[::3])]
    cut = lines(asks(stop_strings=[word for word in words if word.strip()]), tmp_path / "cut")
    by_sample: dict[str, set[tuple[int, ...]]] = {}
    for line in cut:
        by_sample.setdefault(line["sample_id"], set()).add((*line["token_ids"], line["stop"]))
    assert all(len(said) == 1 for said in by_sample.values()), "every method stops at the same token"
    stops = [line["stop"] for line in cut]
    assert "criteria" in stops and len({len(line["token_ids"]) for line in cut}) > 1
    known = {line["sample_id"]: line["token_ids"] for line in whole}
    for line in cut:
        assert known[line["sample_id"]][: len(line["token_ids"])] == line["token_ids"]
