"""Each name in METHODS is built from the file of that name; nothing else has to be told of a method."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastvlm_bench.decoding import build as module
from fastvlm_bench.decoding.build import build, method_class
from fastvlm_bench.engine.method import Method
from fastvlm_bench.errors import BenchError, UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import METHODS, MethodKind, MethodSpec, Option
from fastvlm_bench.models.load import load_target

FOLDER = Path(module.__file__).parent


@pytest.fixture(scope="module")
def target() -> Any:
    return load_target("tiny")


def test_each_method_has_its_file_and_each_file_its_method() -> None:
    files = {path.stem.replace("_", "-") for path in FOLDER.glob("*.py")} - {"--init--", "build"}
    assert files == set(METHODS)
    assert len({method_class(name) for name in METHODS}) == len(METHODS)


@pytest.mark.parametrize("name", list(METHODS))
def test_options_reach_the_method(target: Any, name: str) -> None:
    """Every option that the constructor knows has the value that was asked for, not the constructor's default."""
    wanted: dict[str, Any] = {"gamma": 7, "stop_below": 0.25, "exit_layer": 1}
    asked = {key: value for key, value in wanted.items() if key in METHODS[name].options}
    text = name + (":" + ",".join(f"{key}={value}" for key, value in asked.items()) if asked else "")
    clock = Clock()
    built = build(MethodSpec.parse(text), target, target.drafts, clock)
    assert type(built.method) is method_class(name) and built.method.clock is clock
    assert built.exit_layer == asked.get("exit_layer")
    for key in {"gamma", "stop_below"} & set(asked):
        assert getattr(built.method, key) == asked[key]
    if "exit_layer" in asked:
        assert built.method.draft_for(target.model).exit_layer == 1  # type: ignore[union-attr]


def test_a_new_method_needs_its_file_and_its_entry(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Method):
        def __init__(self, width: int, *, clock: Clock | None = None) -> None:
            super().__init__(clock=clock)
            self.width = width

    name = "fastvlm_bench.decoding.my_own"
    file = ModuleType(name)
    Mine.__module__ = name
    file.Mine = Mine  # type: ignore[attr-defined]
    monkeypatch.setitem(METHODS, "my-own", MethodKind("mine", True, {"width": Option(int, 3, "of it", low=1)}))
    with pytest.raises(BenchError, match=r"method 'my-own' is listed, but there is no fastvlm_bench.decoding.my_own"):
        build(MethodSpec.parse("my-own"), target, None, Clock())
    monkeypatch.setitem(sys.modules, name, file)
    built = build(MethodSpec.parse("my-own:width=5"), target, None, Clock())
    assert isinstance(built.method, Mine) and built.method.width == 5
    file.Other = type("Other", (Method,), {"__module__": name})  # type: ignore[attr-defined]
    with pytest.raises(BenchError, match="has 2 subclasses of Method; it needs one"):
        method_class("my-own")


def test_an_exit_beyond_the_model_is_refused(target: Any) -> None:
    with pytest.raises(UsageError, match=r"exit_layer=99 is not within 1 .. 23 of tiny"):
        build(MethodSpec.parse("layerskip:exit_layer=99"), target, None, Clock())
