"""What training promises is what decoding does: α, saved drafts, fewer token ids, other targets, half precision."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from targets import LAYERS, generate, random_llava

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.imitation_head import Draft, describe_target
from fastvlm_bench.drafts.manifest import Manifest
from fastvlm_bench.drafts.reduced_vocabulary import ReducedOutput, most_frequent
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example, own_answers
from fastvlm_bench.training.choosing import Choosing
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.student import Student
from fastvlm_bench.training.trainer import HeadTrainer
from fastvlm_bench.training.validation import GAMMA, validate

COSTS = PassCosts(1.0, 0.1, [1.0] * 11)
NAMES = ("mlp-exit2", "attention-exit2", "eagle-exit2")


@pytest.fixture(scope="module")
def trained(target: Target, examples: list[Example]) -> HeadTrainer:
    recipes = [Recipe.parse(text, exit_layer=2) for text in ("mlp", "attention", "eagle:unroll=2")]
    trainer = HeadTrainer(target, recipes, lr=0.05, updates=30, micro=8)
    trainer.prepare(examples)
    for _ in range(24):
        trainer.update(examples[:6])
    return trainer


def saved(trainer: HeadTrainer, name: str, folder: Path) -> Path:
    (student,) = [s for s in trainer.students if s.name == name]
    made, count = trainer.draft(student), 0 if trainer.output_ids is None else len(trainer.output_ids)
    manifest = Manifest(
        exit_layer=2, head=student.recipe.head, head_parameters=1, draft_vocabulary=count,
        **describe_target(trainer.target.model),
    )  # fmt: skip
    Draft(2, made.head, manifest, made.output).save(folder)
    return folder


def by_name(trainer: HeadTrainer, name: str) -> Student:
    return next(student for student in trainer.students if student.name == name)


def accepted(target: Target, method: FastVLM, examples: list[Example]) -> tuple[int, int]:
    """(accepted, tested) of the loop, whose output must be the target's."""
    counts = [0, 0]
    for example in examples:
        new = generate(target.model, example.inputs(target), method, example.most)
        assert tuple(new) == example.answer
        assert method.last is not None
        counts[0] += sum(r.accepted for r in method.last.rounds)
        counts[1] += sum(r.tested for r in method.last.rounds)
    return counts[0], counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_alpha_of_validation_is_what_the_loop_accepts(
    target: Target, examples: list[Example], trained: HeadTrainer, name: str
) -> None:
    texts = examples[4:]  # two of them were never trained on
    found = validate(trained, texts, dict.fromkeys(NAMES, COSTS))[name]
    (student,) = [s for s in trained.students if s.name == name]
    good, tested = accepted(target, FastVLM(trained.draft(student), gamma=GAMMA), texts)
    assert found.alpha == good / tested and tested > 10
    assert 0.3 < found.alpha < 1, "a draft that is always or never right would prove little"
    if not student.head.recurs:
        assert found.by_suite == {"noise": found.alpha} and len(found.by_position) > 3


SETTINGS: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 2.0},
    "no bigram twice": {"no_repeat_ngram_size": 2},
    "suppressed tokens": {"suppress_tokens": "the first tokens of the answers"},
    "forced end": {"forced_eos_token_id": "EOS", "min_new_tokens": 9, "repetition_penalty": 1.5},
}


@pytest.mark.parametrize(
    ("settings", "names"),
    [pytest.param(s, NAMES, marks=pytest.mark.slow, id=s) for s in SETTINGS],
)
def test_alpha_counts_the_models_own_logits_processors(
    target: Target, examples: list[Example], trained: HeadTrainer, names: tuple[str, ...], settings: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On the same texts validation's α is that of `run`'s own measuring, whatever the generation settings ask for."""
    told = {
        "forced_eos_token_id": target.model.generation_config.eos_token_id,
        "suppress_tokens": sorted({token for example in examples[3:] for token in example.answer[1:5]}),
    }
    for key, value in SETTINGS[settings].items():
        monkeypatch.setattr(target.model.generation_config, key, told.get(key, value))
    samples = [example.sample for example in examples[3:]]
    texts = own_answers(target, samples, 14, tmp_path / "answers.jsonl", lambda _: None, 4)
    monkeypatch.setattr(trained.checker, "choosing", Choosing(target))
    found = validate(trained, texts, dict.fromkeys(NAMES, COSTS))
    for name in names:
        method, counts = FastVLM(trained.draft(by_name(trained, name)), gamma=GAMMA), [0, 0]
        for example in texts:
            (trace,) = measure(method, target.model, example.inputs(target), 14).rows
            assert tuple(trace.token_ids) == example.answer
            counts[0] += sum(r.accepted for r in trace.rounds)
            counts[1] += sum(r.tested for r in trace.rounds)
        assert found[name].alpha == counts[0] / counts[1] and counts[1] > 10, name
    checked = trained.check(texts)
    trained.checker.choosing._changes = False
    unaware = trained.check(texts)
    assert all(unaware[name] != checked[name] for name in names), "these settings change nothing, so this shows nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_saved_draft_decodes_alike(
    target: Target, examples: list[Example], trained: HeadTrainer, name: str, tmp_path: Path
) -> None:
    folder = saved(trained, name, tmp_path / name)
    method = FastVLM.from_pretrained(folder, target.model, gamma=4)
    good, tested = accepted(target, method, examples[3:])
    (student,) = [s for s in trained.students if s.name == name]
    own, all_of_them = accepted(target, FastVLM(trained.draft(student), gamma=4), examples[3:])
    assert abs(good / tested - own / all_of_them) < 0.05, "float16 on disk costs next to nothing"
    before = {k: v.clone() for k, v in method.draft_for(target.model).head.state_dict().items()}  # type: ignore
    for key, value in student.head.state_dict().items():
        assert torch.equal(before[key], value.half().float())


@pytest.mark.slow
def test_fewer_token_ids(target: Target, examples: list[Example], trained: HeadTrainer, tmp_path: Path) -> None:
    texts = [e.answer for e in examples[:6]]
    eos = target.model.generation_config.eos_token_id
    trained.output_ids = most_frequent(texts, 20, [eos])
    try:
        assert len(trained.output_ids) == 20 and eos in trained.output_ids.tolist()
        few = validate(trained, examples[4:], dict.fromkeys(NAMES, COSTS))["attention-exit2"]
        folder = saved(trained, "attention-exit2", tmp_path / "few")
        method = FastVLM.from_pretrained(folder, target.model, gamma=GAMMA)
        draft = method.draft_for(target.model)
        assert draft.output is not None and draft.output.ids.tolist() == trained.output_ids.tolist()
        good, tested = accepted(target, method, examples[4:])
        assert good / tested == pytest.approx(few.alpha, abs=0.05)
    finally:
        trained.output_ids = None
    whole = validate(trained, examples[4:], dict.fromkeys(NAMES, COSTS))["attention-exit2"]
    assert few.alpha < whole.alpha, "tokens that are left out are rejections"


def test_reduced_output_is_the_rows_of_the_whole() -> None:
    output = torch.nn.Linear(4, 10)
    ids = torch.tensor([1, 5, 9])
    states = torch.randn(2, 3, 4)
    made = ReducedOutput(output, ids)(states)
    assert torch.allclose(made[..., ids], output(states)[..., ids]) and made.shape == (2, 3, 10)
    assert torch.isinf(made).sum() == 2 * 3 * 7
    assert most_frequent([[4, 4, 2], [2, 7]], 3, [0]).tolist() == [0, 2, 4]
    assert most_frequent([[3]], 9, [0]).tolist() == [0, 3]


@pytest.mark.slow
def test_refused_by_another_target(trained: HeadTrainer, tmp_path: Path) -> None:
    folder = saved(trained, "mlp-exit2", tmp_path / "draft")
    with pytest.raises(
        UsageError, match=f"layers {LAYERS} .draft. is not 3 .*weights_sha256 .* is not .*; train one for"
    ):
        Draft.load(folder, random_llava(3, seed=1)[0])
    path = folder / "head.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="head.safetensors: not this head's weights .*; train it again"):
        Draft.load(folder, trained.target.model)


@pytest.mark.slow
def test_bfloat16_target(target: Target, examples: list[Example], tmp_path: Path) -> None:
    model = copy.deepcopy(target.model).bfloat16()
    model.__dict__.pop("_fastvlm_bench_sha256", None)
    half = Target("half", model, target.processor, target.device, None)
    texts = [
        Example(e.sample, tuple(generate(model, e.inputs(half), count=10)), False) for e in examples[:3]
    ]  # fmt: skip
    recipes = [Recipe.parse(text, exit_layer=2) for text in ("mlp", "attention")]
    trainer = HeadTrainer(half, recipes, lr=0.1, updates=30, micro=4)
    trainer.prepare(texts)
    losses = [trainer.update(texts) for _ in range(8)]
    for student in trainer.students:
        assert {p.dtype for p in student.head.parameters()} == {torch.float32}
        assert losses[-1][student.name] < 0.9 * losses[0][student.name]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    validate(trainer, texts, {"mlp-exit2": COSTS, "attention-exit2": COSTS})
    for name in ("mlp-exit2", "attention-exit2"):
        method = FastVLM.from_pretrained(saved(trainer, name, tmp_path / name), model, gamma=3)
        generate(model, texts[0].inputs(half), method, 10)
        head = method.draft_for(model).head
        assert {p.dtype for p in head.parameters()} == {torch.bfloat16}  # type: ignore[union-attr]
        assert method.last is not None and len(method.last.token_ids) == 10
    assert json.loads((tmp_path / "mlp-exit2" / "manifest.json").read_text())["head"] == "mlp"
