"""Heads at the end in training: what each learns from, what validation promises of them, and what the folder keeps."""

import json
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering
from targets import LAYERS, generate
from torch.nn import functional
from training.conftest import picture, trainer_of

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.decoding.build import Built, build
from fastvlm_bench.decoding.medusa import Medusa
from fastvlm_bench.drafters.last_states import LastStates
from fastvlm_bench.drafts.heads import MedusaHeads
from fastvlm_bench.drafts.imitation_head import Draft, describe_target
from fastvlm_bench.drafts.manifest import Manifest, choose_draft, predicted_speedup, read_manifest
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import MethodSpec
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.suites.suite import Sample
from fastvlm_bench.training import costs, fit, trainer, updates
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.costs import measure_costs
from fastvlm_bench.training.outcome import measure_command
from fastvlm_bench.training.prediction import CheckedAhead, advise, simulate
from fastvlm_bench.training.recipe import DEFAULT_LOSSES, Recipe
from fastvlm_bench.training.refine_run import RunRefiner
from fastvlm_bench.training.settings import TrainSettings
from fastvlm_bench.training.trainer import HeadTrainer
from fastvlm_bench.training.validation import GAMMA, validate

COSTS = PassCosts(1.0, 0.05, [1.0 + 0.01 * k for k in range(11)])


@pytest.fixture(scope="module")
def trained(target: Target, examples: list[Example]) -> HeadTrainer:
    made = trainer_of(target, ["medusa:heads=3", "medusa:heads=2,own_output=1,name=own"], examples, lr=0.03)
    losses = [made.update(examples[:6]) for _ in range(16)]
    for name in ("medusa", "own"):
        assert losses[-1][name] < 0.8 * losses[0][name], name
    return made


def student(made: HeadTrainer, name: str) -> Any:
    return next(one for one in made.students if one.name == name)


def by_hand(target: Target, example: Example, heads: MedusaHeads) -> list[torch.Tensor]:
    """For each head its logits at each drafted token of the text, from one plain pass whose LM head is watched.

    NaN where the state would lie before the prompt's end.
    """
    given = example.inputs(target)
    ids = torch.cat([given["input_ids"], torch.tensor([example.answer])], dim=1)
    watch, prompt = LastStates(target.model), given["input_ids"].shape[1]
    with watch.watched(), torch.no_grad():
        target.model(**{**given, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
        assert watch.latest is not None
        states = watch.latest[0]
    found = []
    for number in range(len(heads.blocks)):
        logits = watch.output(heads.one(number, states)).detach()
        # The token at place p of the answer is chosen from the state at prompt + p - 1; head i sees i + 1 places less.
        places = [prompt + p - 2 - number for p in range(1, len(example.answer))]
        found.append(torch.stack([logits[p] if p >= prompt - 1 else torch.full_like(logits[0], torch.nan)
                                  for p in places]))  # fmt: skip
    return found


def test_each_head_learns_from_the_right_state(target: Target, examples: list[Example], trained: HeadTrainer) -> None:
    """Loss and guesses, compared with those of a plain pass: by both routes, with weights on the drafted token."""
    head, recipe = student(trained, "medusa").head, Recipe.parse("medusa:heads=3,kd=0,ce=1,decay=0.5")
    text = examples[5]
    logits = by_hand(target, text, head)
    answer = torch.tensor(text.answer[1:])
    each = torch.zeros(len(answer))
    for number, row in enumerate(logits):
        there = ~row.isnan().any(-1)
        assert there.sum() == len(answer) - number
        each[there] += 0.5**number * functional.cross_entropy(row[there], answer[there], reduction="none")
    own = replace(student(trained, "medusa").recipe, losses=recipe.losses, decay=recipe.decay)
    for view in (trained.observer.packed([text, examples[0]][:1]), trained.observer.forced(text)):
        target_logits, aims = trained._target_side(view)
        with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(student(trained, "medusa"), "recipe", own)
            loss = trained._losses(student(trained, "medusa"), view, target_logits, aims[1])
        assert torch.allclose(loss, each, atol=1e-3)
    (checked,) = trained.check([text])["medusa"]
    assert isinstance(checked, CheckedAhead) and checked.reach == 3
    for number, row in enumerate(logits):
        for place, token in enumerate(text.answer[1:]):
            if place >= number:
                right, sure = checked.guess(place, number)
                assert right == (int(row[place].argmax()) == token)
                assert sure == pytest.approx(float(row[place].softmax(-1).max()), abs=1e-3)


def test_packed_texts_do_not_mix(target: Target, examples: list[Example], trained: HeadTrainer) -> None:
    """Several texts in one padded pass give each the guesses that it has alone."""
    together = trained.check(examples)
    for name in ("medusa", "own"):
        alone = [trained.check([example])[name][0] for example in examples]
        assert [one.right for one in together[name]] == [one.right for one in alone]
        for a, b in zip(together[name], alone, strict=True):
            assert isinstance(a, CheckedAhead) and isinstance(b, CheckedAhead)
            assert [right for right, _ in a.further] == [right for right, _ in b.further]


@pytest.mark.parametrize(("name", "stop_below"), covering(product(("medusa", "own"), (0.0, 0.3)), [("medusa", 0.0)]))
def test_validation_promises_what_the_loop_accepts(
    target: Target, examples: list[Example], trained: HeadTrainer, name: str, stop_below: float
) -> None:
    """The rounds simulated on the guesses are those of the real chain; the saved draft accepts as many."""
    draft = trained.draft(student(trained, name))
    assert draft.exit_layer == LAYERS
    method, played = Medusa(draft, stop_below=stop_below), []
    for example in examples:
        assert tuple(generate(target.model, example.inputs(target), method, len(example.answer))) == example.answer
        assert method.last is not None
        played += [[r.drafted, r.tested, r.accepted, r.emitted] for r in method.last.rounds]
    checked = trained.check(examples)[name]
    texts = [replace(text, room=0) for text in checked]  # the loop above has no room after EOS
    found = simulate(texts, GAMMA, stop_below)
    assert found.rounds == len(played) and found.accepted == sum(r[2] for r in played) > 10
    assert found.tested == sum(r[1] for r in played) and found.tokens == sum(r[3] for r in played)
    if not stop_below:
        own = validate(trained, examples, {s.name: COSTS for s in trained.students})[name]
        assert own.alpha == pytest.approx(simulate(checked, GAMMA, 0.0).alpha) and len(own.by_position) == len(
            student(trained, name).head.blocks
        )
        assert 0.2 < own.alpha < 1 and own.gamma <= len(own.by_position)


def test_rounds_and_price_by_hand() -> None:
    further = [([False, True, True, False, True], [0.5] * 5)]
    text = CheckedAhead([True, False, True, True, True], [0.9] * 5, True, 0, further)
    found = simulate([text], 5, 0.0)
    # Round 1 drafts two, which stand, and the target gives a third. Round 2 drafts the fourth; the target ends it.
    assert (found.rounds, found.drafted, found.accepted, found.tokens, found.passes) == (2, 3, 3, 5, 2)
    assert found.by_position[:3] == [[2, 2], [1, 1], [0, 0]] and found.verified == {3: 1, 2: 1}
    assert found.speedup(PassCosts(1.0, 0.25, [1.0, 1.5, 2.0])) == pytest.approx(5 / (2 * 0.25 + 1.5 + 2.0))
    stopped = simulate([text], 5, 0.5)  # 0.9 · 0.5 is below
    assert (stopped.drafted, stopped.verified) == (2, {2: 2, 1: 1})
    assert advise([text], COSTS).gamma <= 2


def test_costs_are_of_whole_passes(target: Target, examples: list[Example], trained: HeadTrainer) -> None:
    example, draft = examples[0], trained.draft(student(trained, "medusa"))
    found = measure_costs(target, example.inputs(target), example.answer, draft, positions=3, attempts=1)
    assert len(found.verify_s) == 3 and found.verify_s[0] == found.standard_s > 0 and found.draft_s > 0


@pytest.fixture(scope="module")
def given(checkpoint: Path, pictures: tuple[Path, Path]) -> dict[str, Any]:
    return dict(
        model=str(checkpoint), images=str(pictures[0]), prompts=str(pictures[1]), samples=5, held_out=1,
        max_new_tokens=6, updates=3, refine_updates=2, batch=2, micro=2, validate_every=2, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two drafts: medusa, and an attention head at exit 1."""
    out = tmp_path_factory.mktemp("both") / "drafts"
    settings = TrainSettings(**given, exit_layers=("1",), heads=("attention", "medusa:heads=3"), out=str(out))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "measure_costs", lambda *_: COSTS)
        assert fit.train(settings) == 0
    return out


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_bytes(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "measure_costs", lambda *_: COSTS)
    monkeypatch.setattr(updates, "SAVE_EVERY_S", -1.0)
    made, update = [], trainer.HeadTrainer.update

    def stops(self: Any, *args: Any) -> Any:
        if self.done == 2:
            raise KeyboardInterrupt
        return update(self, *args)

    for name in ("whole", "stopped"):
        settings = TrainSettings(**given, heads=("medusa:heads=2",), draft_vocabulary=30, out=str(tmp_path / name))
        if name == "stopped":
            monkeypatch.setattr(trainer.HeadTrainer, "update", stops)
            assert fit.train(settings) == 130
            monkeypatch.setattr(trainer.HeadTrainer, "update", update)
        assert fit.train(settings) == 0
        made.append((tmp_path / name / "head.safetensors").read_bytes())
    assert made[0] == made[1]


@pytest.mark.slow
def test_folder_and_choice(both: Path, given: dict[str, Any]) -> None:
    manifest = read_manifest(both / "medusa")
    assert (manifest.exit_layer, manifest.head, manifest.head_options) == (4, "medusa", {"heads": 3, "own_output": 0})
    assert manifest.losses == {"kd": 1.0, "ce": 0.5} and manifest.data["recipe"]["decay"] == 0.8
    assert "Heads of kind `medusa` after the last of 4 layers" in (both / "medusa" / "README.md").read_text()
    assert "-m medusa:gamma=" in (both / "medusa" / "README.md").read_text()
    assert 1 <= predicted_speedup(manifest) <= 4
    wish: dict[str, Any] = {"head": None, "exit_layer": None, "model": "m"}
    assert choose_draft(both, **wish).name == "attention-exit1"
    assert choose_draft(both, **wish, kinds=("medusa",)).name == "medusa"
    there = r"there is draft=attention-exit1 \(head=attention,exit_layer=1\); draft=medusa \(head=medusa,at the end\)"
    with pytest.raises(
        UsageError,
        match=f"draft 'medusa' has medusa heads, and this method takes linear.*; {there}; decode it by medusa:",
    ):
        choose_draft(both, **wish, draft="medusa")
    with pytest.raises(
        UsageError, match="no draft under .* has such a head, .* takes medusa; .* train --head medusa, and"
    ):
        choose_draft(both / "attention-exit1", **wish, kinds=("medusa",))
    target = load_target(given["model"], device="cpu")
    built = build(MethodSpec.parse("medusa:gamma=2"), target, both, Clock("cpu"))
    assert built.exit_layer is None and built.described["draft"]["name"] == "medusa"
    advised = manifest.advice
    tree = build(MethodSpec.parse("medusa:topk=2"), target, both, Clock("cpu")).described["options"]
    assert (tree["topk"], tree["nodes"]) == (2, 16), "defaults are told"
    assert (tree["gamma"], tree["stop_below"]) == (advised["gamma"], advised["stop_below"]), "advice of the draft, too"
    assert built.described["options"]["head"] == "medusa" and built.described["extra_bytes"] > 0
    assert build(MethodSpec.parse("fastvlm"), target, both, Clock("cpu")).exit_layer == 1


@pytest.mark.slow
def test_a_wrong_manifest_is_told(both: Path, tmp_path: Path) -> None:
    told = json.loads((both / "medusa" / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**told, "exit_layer": 2}))
    with pytest.raises(UsageError, match="medusa heads follow the last of 4 layers, and its exit layer is 2; train"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("medusa:exit_layer=3", "gives an exit layer, but medusa heads read the target's last state; leave it out"),
        ("medusa:heads=0", "heads in .* is '0'; it must be a whole number, 1 .. 16"),
        ("medusa:depth=2", "gives a depth, but head 'medusa' has no layers"),
        ("medusa:cosine=1", "gives cosine, which compares states, .* give kd, ce or acceptance"),
        ("medusa:fuse=2", "gives fuse, which is for losses that medusa does not take"),
        ("medusa:kd=0,ce=0", "has no loss left"),
        ("mlp:exit_layer=1,heads=3", "gives heads, which only medusa takes; leave it out"),
        ("medus", "unknown head 'medus': one of linear, .*, medusa; did you mean 'medusa'"),
    ],
)
def test_wrong_recipe(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as found:
        Recipe.parse(text)
    assert "\n" not in str(found.value)


def test_settings(tmp_path: Path) -> None:
    def settings(**changes: Any) -> TrainSettings:
        return TrainSettings(**{"out": str(tmp_path), "suites": ("describe",), "heads": ("medusa",), **changes})

    assert DEFAULT_LOSSES == {"cosine": 0.1, "kd": 1.0, "ce": 0.5}
    alone = settings()
    assert not alone.automatic and [r.name for r in alone.validate().recipes()] == ["medusa"]
    mixed = settings(heads=("medusa", "mlp"), exit_layers=("1", "2"), loss="cosine=1,ce=1")
    assert [(r.name, r.exit_layer) for r in mixed.recipes()] == [("medusa", 0), ("mlp-exit1", 1), ("mlp-exit2", 2)]
    assert mixed.recipes()[0].losses == {"ce": 1.0}
    assert settings(heads=("medusa", "mlp")).automatic
    with pytest.raises(
        UsageError, match="--exit-layer 3 has no effect on --head medusa, whose heads read .*; leave it"
    ):
        settings(exit_layers=("3",))
    with pytest.raises(UsageError, match="'medusa' has LM heads of its own; leave one of the two out"):
        settings(heads=("medusa:own_output=1",), draft_vocabulary=50)
    own = {"gamma": 3, "stop_below": 0.0}
    assert "-m medusa:gamma=3,stop_below=0" in measure_command(alone, "tiny", tmp_path, own, "medusa")


def test_it_learns_between_the_samples_of_a_run(
    target: Target, examples: list[Example], trained: HeadTrainer, tmp_path: Path
) -> None:
    """`run --refine`: the heads change, and with them the weights that decoding holds joined; the output does not."""
    made = trained.draft(student(trained, "medusa"))
    manifest = Manifest(
        exit_layer=LAYERS, head="medusa", head_parameters=1, head_options={"heads": 3, "own_output": 0},
        losses={"ce": 1.0}, data={"recipe": {"decay": 0.5}}, **describe_target(target.model),
    )  # fmt: skip
    Draft(LAYERS, made.head, manifest).save(tmp_path)
    method = Medusa(Draft.load(tmp_path, target.model))
    built = Built("medusa", method, True, None, {})
    refiner, example = RunRefiner(target, [built]), examples[6]
    assert refiner.learners[0].student.recipe.decay == 0.5
    decode = partial(generate, target.model, example.inputs(target), method, len(example.answer))
    before = (decode(), method.heads.blocks[0].weight.clone(), method.heads.ahead(torch.ones(1, method.heads.width), 3))
    assert method.last is not None
    rounds = [[r.drafted, r.tested, r.accepted, r.emitted] for r in method.last.rounds]
    assert any(tested > accepted for _, tested, accepted, _ in rounds), "nothing was rejected"
    line = {"method": "medusa", "sample_id": "noise/6", "token_ids": list(example.answer), "rounds": rounds,
            "stop": "length", "error": None}  # fmt: skip
    picture(6).save(tmp_path / "6.png")
    sample = Sample("noise/6", "noise/6", tmp_path / "6.png", example.sample.prompt, ())
    with torch.inference_mode():
        refiner.learn(sample, [line])
        refiner.learn(sample, [line])
    assert not torch.equal(method.heads.blocks[0].weight, before[1])
    states = torch.ones(1, method.heads.width)
    assert torch.allclose(method.heads.ahead(states, 3), method.heads(states), atol=1e-4)
    assert not torch.allclose(method.heads.ahead(states, 3), before[2])
    assert decode() == before[0]
