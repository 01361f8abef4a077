"""Training: heads learn on a frozen target, drafts survive saving, the embedded model's training resumes exactly."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress
from targets import LAYERS, generate

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.errors import UsageError
from fastvlm_bench.heads import new_head
from fastvlm_bench.imitation_head import Draft
from fastvlm_bench.models.fingerprint import weights_sha256
from fastvlm_bench.models.tiny import train
from fastvlm_bench.models.tiny.checkpoint import build_config, build_tokenizer
from fastvlm_bench.training import Example, HeadTrainer, batched, collate


@pytest.fixture(scope="module")
def examples(llava: Any, inputs: dict[str, Any]) -> list[Example]:
    """The target's own answers to three pictures."""
    out = []
    for seed in range(3):
        pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(seed))
        given = {**inputs, "pixel_values": pixels}
        out.append(Example(given, generate(llava, given, count=16 + seed)))
    return out


def test_collate_marks_what_the_target_chose(examples: list[Example]) -> None:
    batch = collate(examples, pad=0)
    prompt = examples[0].inputs["input_ids"].shape[1]
    for row, told, example in zip(batch.inputs["input_ids"], batch.told, examples, strict=True):
        places = told.nonzero().flatten().tolist()
        # The state at place p predicts the token at p + 1; the first answer token comes from prefill.
        assert [row[p + 1].item() for p in places] == example.answer[1:]
        assert places[0] == prompt


@pytest.fixture(scope="module")
def trained(llava: Any, examples: list[Example]) -> Any:
    before = weights_sha256(llava)
    torch.manual_seed(0)
    trainer = HeadTrainer(llava, [(2, "mlp"), (2, "attention"), (3, "twig")], updates=80)
    batches = batched(examples, 3, 0, seed=0)
    losses = [trainer.update(next(batches)) for _ in range(80)]
    trainer.validate([collate(examples, 0)], "train")
    del llava._fastvlm_bench_sha256
    assert weights_sha256(llava) == before, "training a head must not touch the target"
    return trainer, losses


def test_heads_learn(trained: Any) -> None:
    trainer, losses = trained
    for item in trainer.exits:
        assert losses[-1][item.name] < 0.5 * losses[0][item.name]
        assert item.alpha["train"] > 0.8


def test_alpha_of_training_is_that_of_decoding(
    trained: Any, llava: Any, examples: list[Example], tmp_path: Path
) -> None:
    """α measured by teacher forcing predicts what the loop then accepts, and saved drafts load to the same."""
    trainer, _ = trained
    for name, draft in trainer.drafts({"source": "test"}, default="mlp-exit2").items():
        draft.save(tmp_path / name)
        method = FastVLM.from_pretrained(tmp_path / name, llava, gamma=4)
        accepted = tested = 0
        for example in examples:
            assert generate(llava, example.inputs, method, len(example.answer)) == example.answer
            assert method.last is not None
            accepted += sum(r.accepted for r in method.last.rounds)
            tested += sum(r.tested for r in method.last.rounds)
        assert accepted / tested > 0.7
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["default"] == (name == "mlp-exit2") and manifest["validation"]["train"] > 0.8


def test_draft_is_refused_by_another_target(trained: Any, tmp_path: Path) -> None:
    from targets import random_llava

    trainer, _ = trained
    draft = trainer.drafts({})["attention-exit2"]
    draft.save(tmp_path / "draft")
    other = random_llava(seed=1)[0]
    with pytest.raises(UsageError, match="weights_sha256 .* is not"):
        Draft.load(tmp_path / "draft", other)
    deeper = random_llava(LAYERS + 1)[0]
    with pytest.raises(UsageError, match=f"layers {LAYERS} .draft. is not {LAYERS + 1}"):
        Draft.load(tmp_path / "draft", deeper)


def test_unknown_head(llava: Any) -> None:
    with pytest.raises(UsageError, match="did you mean 'mlp'"):
        new_head("mpl", llava, 2)


def test_training_of_the_embedded_model_resumes_exactly(tmp_path: Path) -> None:
    """Stopped after half of a stage and resumed, a stage ends with the very weights of an uninterrupted one."""
    tokenizer = build_tokenizer(train.tokenizer_texts(0, scenes=50))

    def stage(out: Path) -> train.Stage:
        out.mkdir(exist_ok=True)
        torch.manual_seed(0)
        config = build_config(tokenizer, 2)
        model = train.LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
        return train.language_stage("language", model, tokenizer, 2, updates=6, warmup=2, lr=1e-3, seed=0, out=out)

    whole = stage(tmp_path / "whole")
    with Progress(disable=True) as progress:
        whole.run(progress)
        halted = stage(tmp_path / "halted")
        loss, calls = halted.loss, []

        def stop_after_three(rng: Any) -> Any:
            if len(calls) == 3:
                halted.save(3)
                raise KeyboardInterrupt
            calls.append(1)
            return loss(rng)

        halted.loss = stop_after_three
        with pytest.raises(KeyboardInterrupt):
            halted.run(progress)
        resumed = stage(tmp_path / "halted")
        resumed.run(progress)
    for a, b in zip(whole.module.state_dict().values(), resumed.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_deepening_keeps_the_shape_of_the_model(tmp_path: Path) -> None:
    """Every layer becomes `copies` with its residual branches divided: two steps of half the size."""
    tokenizer = build_tokenizer(train.tokenizer_texts(0, scenes=50))
    shallow, deep = (
        train.LlavaForConditionalGeneration._from_config(build_config(tokenizer, n), attn_implementation="eager")
        for n in (2, 4)
    )
    train.deepen(shallow, deep, 2)
    for index, layer in enumerate(deep.model.language_model.layers):
        source = shallow.model.language_model.layers[index // 2]
        assert torch.equal(layer.self_attn.q_proj.weight, source.self_attn.q_proj.weight)
        assert torch.equal(layer.mlp.down_proj.weight, source.mlp.down_proj.weight / 2)
    assert torch.equal(deep.lm_head.weight, shallow.lm_head.weight)
    shutil.rmtree(tmp_path)
