"""`--compile`: which parts of the layers torch compiles, what it says where it cannot; that nothing else changes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from targets import random_llava
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from fastvlm_bench.cli.app import app
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models import compiled
from fastvlm_bench.models.compiled import compile_parts, parts
from fastvlm_bench.models.layers import decoder_layers, replaced
from fastvlm_bench.records.record import read_run


def test_parts_take_one_tensor_and_nothing_else() -> None:
    class Attention(nn.Module):
        def forward(self, states: Any, mask: Any) -> Any:
            return states

    class Open(nn.Module):
        def forward(self, states: Any, **more: Any) -> Any:
            return states

    class Network(nn.Module):
        def forward(self, x: Any) -> Any:
            return x

    layer = nn.Module()
    layer.attention, layer.open, layer.network, layer.norm = Attention(), Open(), Network(), nn.LayerNorm(4)
    assert list(parts(layer)) == [layer.network]
    model = random_llava(2)[0]
    assert {type(part).__name__ for part in parts(decoder_layers(model)[0])} == {"LlamaMLP", "LlamaRMSNorm"}


def instead(monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...] = ()) -> list[nn.Module]:
    """No compilation: the modules whose compiled code has run, and a failure where it is of one of these classes."""
    ran: list[nn.Module] = []

    def compile(forward: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        assert options == {"dynamic": True, "fullgraph": True}

        def call(self: nn.Module, *given: Any) -> Any:
            if type(self).__name__ in failing:
                raise RuntimeError("no compiler\nhere")
            ran.append(self)
            return forward(self, *given)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    return ran


def compiled_parts(module: nn.Module, ran: list[nn.Module]) -> list[nn.Module]:
    """Those of the module's norms and networks that run by compiled code."""
    found = [part for part in module.modules() if type(part).__name__ in ("LlamaMLP", "LlamaRMSNorm")]
    ran.clear()
    for part in found:
        part(torch.zeros(1, 1, 192))
    return [part for part in found if any(part is one for one in ran)]


def test_heads_get_what_the_target_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = instead(monkeypatch)
    model = random_llava(2)[0]
    head = new_head("attention", model, 1)
    found = compile_parts(model, [head])
    assert found.classes == ["LlamaMLP", "LlamaRMSNorm"] and not found.left_out
    copied = compiled_parts(head, ran)
    own = [part for layer in decoder_layers(model) for part in parts(layer)]
    assert len(copied) == 3 and all(compiled_parts(layer, ran) == list(parts(layer)) for layer in decoder_layers(model))
    assert found.modules == len(own) + len(copied)


def test_what_stands_in_front_of_a_part_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As methods that skip parts put another `forward` there, which runs the part's own or not."""
    ran = instead(monkeypatch)
    model = random_llava(2)[0]
    compile_parts(model)
    mlp, states = decoder_layers(model)[0].get_submodule("mlp"), torch.ones(1, 1, 192)
    expected = mlp(states)
    with replaced([(mlp, partial(lambda forward, given: 2 * forward(given), mlp.forward))]):
        ran.clear()
        assert torch.equal(mlp(states), 2 * expected) and ran == [mlp]
    assert torch.equal(mlp(states), expected) and "forward" not in vars(mlp)


def test_what_torch_cannot_compile_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = instead(monkeypatch, failing=("LlamaMLP",))
    model = random_llava(2)[0]
    found = compile_parts(model)
    assert found.classes == ["LlamaRMSNorm"] and found.left_out == {"LlamaMLP": "RuntimeError: no compiler"}
    for layer in decoder_layers(model):
        mlp = layer.get_submodule("mlp")
        assert type(mlp) is LlamaMLP and mlp not in compiled_parts(layer, ran)


def test_where_it_compiles_nothing_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, failing=("LlamaMLP", "LlamaRMSNorm"))
    with pytest.raises(UsageError, match=r"^--compile: torch compiles no part .*RuntimeError: no compiler\); leave it"):
        compile_parts(random_llava(2)[0])


ASKED = ["run", "--suite", "describe", "--limit", "2", "--max-new-tokens", "12", "--threads", "1", "--warmup", "0",
         "-m", "fastvlm:gamma=3,stop_below=0", "--compile"]  # fmt: skip


def ended(*options: str) -> int | None:
    with pytest.raises(SystemExit) as exit_:
        app([*ASKED, *options])
    code = exit_.value.code
    assert code is None or isinstance(code, int)
    return code


def test_recorded_passes_of_a_cpu_exclude_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--engine", "graphs", "--out", str(tmp_path)) == 2
    assert "--compile and --engine graphs exclude each other on a CPU" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow  # test_graphs.py drops a generation in the default run
def test_a_sample_in_which_something_was_compiled_is_decoded_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first generation of all compiles something, and so does the first that is measured: that one was late."""
    from fastvlm_bench.measuring import bench
    from fastvlm_bench.measuring.runner import Runner

    instead(monkeypatch)
    made, measured, apart = 0, list[str](), list[str]()
    decoded, plain, run = apart, bench.measure, Runner.run

    def measure(method: Any, *given: Any, **options: Any) -> Any:
        nonlocal made
        made += not decoded
        decoded.append(type(method).__name__)
        return plain(method, *given, **options)

    def runs(self: Any, *given: Any, **options: Any) -> None:
        nonlocal decoded
        decoded = measured
        run(self, *given, **options)

    monkeypatch.setattr("fastvlm_bench.engine.engine.graphs_compiled", lambda: made)
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(Runner, "run", runs)
    assert ended("--out", str(tmp_path)) in (0, None)
    assert apart[0] == apart[1] and measured[0] == measured[1] and len(measured) == 5  # of 2 samples and 2 methods
    record = read_run(next(tmp_path.glob("2*")))
    assert record.meta["environment"]["compiled"] == ["LlamaMLP", "LlamaRMSNorm"]
    (late,) = [notice["message"] for notice in record.meta["warnings"] if notice["name"] == "RecordedLate"]
    assert late.startswith("1 kinds of pass")


@pytest.mark.slow
def test_outputs_are_the_same_whatever_is_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ("medusa", "layerskip:exit_layer=2,gamma=4", "draft-verify", "swift:gamma=4", "clasp", "hf-generate")
    more = (*(word for method in methods for word in ("-m", method)), "--warmup", "1", "--limit", "5")
    assert ended(*more, "--out", str(tmp_path / "with")) in (0, None)
    run = read_run(next((tmp_path / "with").glob("2*")))
    assert run.meta["verdict"]["status"] == "VALID" and run.meta["compiled"]["graphs"] > 0
    assert run.meta["compiled"]["left_out"] == {} and run.meta["compiled"]["modules"] > 36  # heads, too
    assert ended(*more, "--no-compile", "--engine", "eager", "--out", str(tmp_path / "without")) in (0, None)
    plain = read_run(next((tmp_path / "without").glob("2*")))
    texts = [{(line["sample_id"], line["method"]): line["token_ids"] for line in each.lines} for each in (run, plain)]
    assert texts[0] == texts[1] and "compiled" not in plain.meta["environment"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as refused:
        app(["compare", str(run.folder), str(plain.folder)])
    assert refused.value.code == 4 and "engine: eager, compiled / eager" in " ".join(capsys.readouterr().err.split())
    assert compiled.graphs_compiled() > 0
