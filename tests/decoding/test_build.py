"""A method is built from one file, which alone says its name, its options and what it does."""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from covering import covering

from fastvlm_bench.decoding.build import build, method_class
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft, describe_target
from fastvlm_bench.drafts.manifest import Manifest
from fastvlm_bench.drafts.skip_set import SKIP, SkipManifest
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import METHODS, MethodSpec
from fastvlm_bench.models.load import load_target
from fastvlm_bench.models.names import TINY_DRAFTS, layer_count


@pytest.fixture(scope="module")
def target() -> Any:
    return load_target("tiny")


def test_each_method_has_one_class_of_its_own() -> None:
    assert len({method_class(name) for name in METHODS}) == len(METHODS)
    assert {"standard", "fastvlm"} < set(METHODS) and "build" not in METHODS


@pytest.fixture(scope="module")
def others(target: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drafts that the embedded model does not come with: heads at the end, and a block."""
    folder, layers = tmp_path_factory.mktemp("others"), len(target.layers)
    for head, place in (("medusa", layers), ("block", 1)):
        told = Manifest(exit_layer=place, head=head, head_parameters=0, **describe_target(target.model))
        Draft(place, new_head(head, target.model, place), told).save(folder / head)
    return folder


@pytest.mark.parametrize("name", covering(
    [n for n, kind in METHODS.items() if not set(kind.needed) & {"draft"} and n not in ("mtp", "hf-mtp")],
    lambda name: name not in ("token-timing", "hf-assisted"),
))  # fmt: skip
def test_options_reach_the_method(target: Any, others: Path, name: str, tmp_path: Path) -> None:
    """Every option that the constructor knows has the value that was asked for, not the constructor's default.

    Methods that draft with files of somebody else's are built in tests of their own.
    """
    wanted: dict[str, Any] = {"gamma": 7, "stop_below": 0.25, "exit_layer": 1}
    for key in METHODS[name].needed:  # a source has its own kind of check, which comes first
        wanted[key] = "1+2" if METHODS[name].options[key].joined else "tiny"
    if METHODS[name].skips:
        told = SkipManifest([1], [1], **describe_target(target.model))
        (tmp_path / SKIP).write_text(json.dumps(dataclasses.asdict(told)))
        wanted["draft"] = str(tmp_path)
    asked = {key: value for key, value in wanted.items() if key in METHODS[name].options}
    text = name + (":" + ",".join(f"{key}={value}" for key, value in asked.items()) if asked else "")
    clock = Clock()
    drafts = others if METHODS[name].trained and METHODS[name].heads[0] in ("medusa", "block") else target.drafts
    built = build(MethodSpec.parse(text), target, drafts, clock)
    assert type(built.method) is method_class(name) and built.method.clock is clock
    assert built.exit_layer == asked.get("exit_layer")
    for key in {"gamma", "stop_below"} & set(asked):
        assert getattr(built.method, key) == asked[key]
    if "exit_layer" in asked:
        assert built.method.draft_for(target.model).exit_layer == 1  # type: ignore[union-attr]


MINE = '''"""Two tokens' worth of nothing."""

from fastvlm_bench.decoding.standard import Standard as Base
from fastvlm_bench.method_spec import MethodKind, Option

METHOD = MethodKind("mine", lossless=True, options={"width": Option(int, 3, "of it", low=1)})


class Mine(Base):
    def __init__(self, width, *, clock=None):
        super().__init__(clock=clock)
        self.width = width
'''


def built_from(folder: Path, text: str, target: Any, spec: str = "") -> Any:
    """Write my_own.py and build the method in it, named by its path."""
    file = folder / "my_own.py"
    file.write_text(text)
    os.utime(file, ns=(0, hash(text) % 10**15))  # files that are written in one moment differ all the same
    sys.modules.pop("fastvlm_bench_own_my_own", None)
    METHODS._added.clear()
    return build(MethodSpec.parse(f"{file}{spec}"), target, None, Clock())


@pytest.fixture
def forgotten() -> Iterator[None]:
    yield
    METHODS._added.clear()


def test_one_file_is_a_method(target: Any, tmp_path: Path, forgotten: None) -> None:
    built = built_from(tmp_path, MINE, target, ":width=5")
    assert type(built.method).__name__ == "Mine" and built.method.width == 5 and built.lossless
    assert built.described["name"] == "my-own" and built.described["spec"] == "my-own:width=5"
    assert built.described["file_sha256"] == hashlib.sha256(MINE.encode()).hexdigest()
    assert "file_sha256" not in build(MethodSpec.parse("standard"), target, None, Clock()).described


@pytest.mark.parametrize(("old", "new", "message"), [
    ("class Mine", "class Other(Base): pass\nclass Mine", "my_own.py has 2 subclasses of Method; method"),
    ("class Mine(Base)", "class Mine", "my_own.py has 0 subclasses of Method"),
    ("METHOD =", "method =", "my_own.py declares no method: it needs METHOD = MethodKind(...)"),
    ("low=1", "low=torch", "my_own.py: METHOD cannot be read (NameError: name 'torch' is not defined); it may use lit"),
    ("MethodKind(\"mine\", lossless=True, options={\"width\": Option(int, 3, \"of it\", low=1)})", "3",
     "my_own.py: METHOD must be a MethodKind, not int"),
    ("width, *", "wide, *", "METHOD has the option 'width', but Mine has no parameter of that name"),
    ("from fastvlm_bench.decoding.standard", "from fastvlm_bench.decoding.nothing",
     "my_own.py cannot be imported (ModuleNotFoundError: No module named 'fastvlm_bench.decoding.nothing')"),
    ("class Mine", "class", "my_own.py is no Python file (SyntaxError"),
])  # fmt: skip
def test_a_faulty_file_is_told_in_one_line(
    target: Any, tmp_path: Path, forgotten: None, old: str, new: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        built_from(tmp_path, MINE.replace(old, new), target)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_exit_beyond_the_model_is_refused(target: Any) -> None:
    with pytest.raises(UsageError, match=rf"exit_layer=99 is not within 1 .. {layer_count('tiny') - 1} of tiny"):
        build(MethodSpec.parse("layerskip:exit_layer=99"), target, None, Clock())


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_skip_set_of_the_package_is_named_alike_on_every_machine(
    target: Any, tmp_path: Path, elsewhere: bool
) -> None:
    """`compare` puts runs of two machines side by side, and a record tells nothing of the place of an installation."""
    drafts = TINY_DRAFTS
    if elsewhere:
        drafts = tmp_path / "drafts"
        shutil.copytree(TINY_DRAFTS / "skip", drafts / "skip")
    built = build(MethodSpec.parse("draft-verify"), target, drafts, Clock("cpu"))
    named = str(drafts / "skip") if elsewhere else "fastvlm_bench/embedded/drafts/skip"
    assert built.described["options"]["draft"] == built.described["draft"]["source"] == named
