"""`--tensor-parallel`: two processes hold one target together, and decode the tokens of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import saved
from several import launched

from fastvlm_bench.cli.app import app
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft, describe_target
from fastvlm_bench.drafts.manifest import Manifest
from fastvlm_bench.models import tensor_parallel
from fastvlm_bench.models.load import load_target
from fastvlm_bench.records.record import Run, read_run

pytest.importorskip("accelerate")
METHODS = ("layerskip:exit_layer=1,gamma=3", "control:gamma=2")


MODELS = {"llama": "llava", "qwen2": "llava_onevision", "qwen2_vl_text": "qwen2_vl", "qwen2_5_vl_text": "qwen2_5_vl"}
"""Kind of text decoder -> a family that has it."""


def arguments(model: Path, *more: str) -> list[str]:
    methods = [part for method in METHODS for part in ("-m", method)]
    return ["run", "--model", str(model), "--suite", "vqav2", "--limit", "5", *methods, "--max-new-tokens", "6",
            "--warmup", "1", "--threads", "1", "--device", "cpu", *more]  # fmt: skip


def measured(given: list[str], world: int, out: Path) -> tuple[list[tuple[int, str, str]], Run]:
    said = launched(lambda _: int(app([*given, "--out", str(out)])), world, out.with_name(f"{out.name}-said"))
    folders = list(out.iterdir()) if out.is_dir() else []
    assert len(folders) == 1, said
    return said, read_run(folders[0])


def tokens(run: Run) -> dict[tuple[Any, ...], Any]:
    return {(line["sample_id"], line["method"]): (line["token_ids"], line["text"], [r[:4] for r in line["rounds"]])
            for line in run.lines}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", tensor_parallel.PROVEN)
def test_two_processes_decode_the_tokens_of_one(kind: str, tmp_path: Path) -> None:
    model = saved.save(MODELS[kind], tmp_path / "model")
    alone, one = measured(arguments(model), 1, tmp_path / "one")
    said, run = measured(arguments(model, "--tensor-parallel"), 2, tmp_path / "two")
    assert [code for code, _, _ in said] == [0, 0] == [alone[0][0]] * 2, said
    assert said[1][1:] == ("", ""), "only the leader prints"
    assert tokens(run) == tokens(one) and len(run.lines) == 15
    assert any(r[2] for line in run.lines for r in line["rounds"]), "drafts were accepted, so that steps differ"
    assert run.meta["config"]["tensor_parallel"] is True and not any("rank" in line for line in run.lines)
    for field in ("weights_sha256", "parameters", "weights_bytes", "layers"):
        assert run.meta["model"][field] == one.meta["model"][field], field
    assert run.meta["status"] == "success" and not list(run.folder.glob("samples.rank*"))
    assert [each["rank"] for each in run.meta["ranks"]] == [0, 1]


@pytest.mark.slow
def test_heads_that_copy_layers_and_the_lm_head_draft_as_in_one_process(tmp_path: Path) -> None:
    """The same rounds: a copied head that went on with a part of its layer would draft other tokens."""
    model = saved.save("llava", tmp_path / "model")
    target = load_target(str(model), device="cpu")
    methods = ["--draft", str(tmp_path / "drafts")]
    for head, place, options in (("attention", 1, "gamma=3,stop_below=0"), ("medusa", len(target.layers), "")):
        told = Manifest(exit_layer=place, head=head, head_parameters=0, **describe_target(target.model))
        Draft(place, new_head(head, target.model, place), told).save(tmp_path / "drafts" / head)
        name = "medusa" if head == "medusa" else "fastvlm"
        methods += ["-m", f"{name}:draft={head}" + (f",{options}" if options else "")]
    _, one = measured(arguments(model, *methods), 1, tmp_path / "one")
    said, run = measured(arguments(model, *methods, "--tensor-parallel"), 2, tmp_path / "two")
    assert [code for code, _, _ in said] == [0, 0], said
    assert tokens(run) == tokens(one)
    drafted = {line["method"]: sum(r[2] for r in line["rounds"]) for line in run.lines if "attention" in line["method"]}
    assert any(drafted.values()), "some drafts of the copied layer stand"


@pytest.mark.slow
def test_other_text_decoders_are_refused_by_name(tmp_path: Path) -> None:
    model = saved.save("gemma3", tmp_path / "model")
    given = [*arguments(model, "--tensor-parallel"), "--out", str(tmp_path / "out")]
    said = launched(lambda _: int(app(given)), 2, tmp_path / "said")
    assert said[0][0] == 2 and "not proven for text decoders of type gemma3_text" in said[0][2], said
    assert said[1] == (0, "", "") and not list((tmp_path / "out").iterdir())


def test_heads_that_processes_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=48, num_attention_heads=6, num_key_value_heads=3, intermediate_size=12)
    for world, told in (
        (2, "num_key_value_heads 3, which 2 processes"),
        (4, "num_attention_heads 6, which 4 processes"),
    ):
        monkeypatch.setattr(tensor_parallel.distributed, "get_world_size", lambda world=world: world)
        with pytest.raises(tensor_parallel.UsageError, match=told):
            tensor_parallel.check("mine", config, torch.device("cpu"))
    monkeypatch.setattr(tensor_parallel.distributed, "get_world_size", lambda: 3)
    tensor_parallel.check("mine", config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "told"),
    [((), "divides the target among several processes, and one was started"),
     (("--device-map", "auto"), "--device-map and --tensor-parallel exclude each other"),
     (("--quantize", "4bit"), "--quantize and --tensor-parallel exclude each other"),
     (("--engine", "graphs"), "--engine graphs and --tensor-parallel exclude each other"),
     (("--phases",), "--phases and --tensor-parallel exclude each other")],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(refused: Callable[..., str], options: tuple[str, ...], told: str) -> None:
    assert told in refused("run", "--tensor-parallel", *options)
