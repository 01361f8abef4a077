"""The cells of a sweep, and what is refused before a model loads."""

from pathlib import Path

import pytest

from fastvlm_bench.drafts.manifest import HEAD_LAYERS, read_manifests
from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import MethodSpec
from fastvlm_bench.models.names import TINY_DRAFTS, layer_count
from fastvlm_bench.sweeping.grid import Grid, make_grid


def grid(drafts: Path | None = TINY_DRAFTS, **asked: object) -> Grid:
    given = {"model": "tiny", "drafts": drafts, "suite": "describe", "exit_layer": None, "head": [], "gamma": "2,4",
             "stop": "0", **asked}  # fmt: skip
    return make_grid(**given)  # type: ignore[arg-type]


def test_each_exit_takes_the_head_that_run_takes() -> None:
    found = grid(exit_layer="1,2,6", gamma="2:6:2", stop="0,0.5")
    assert found.heads == (("eagle", 1), ("attention", 2), ("mlp", 6))
    assert len(found.methods) == len(set(found.methods)) == 3 * 3 * 2
    spec = MethodSpec.parse(found.methods[-1])
    assert spec.options == {"gamma": 6, "exit_layer": 6, "head": "mlp", "stop_below": 0.5}
    assert found.as_dict()["gamma"] == [2, 4, 6] and found.as_dict()["head"] == ["eagle", "attention", "mlp"]


def test_default_exits_are_those_with_a_draft() -> None:
    exits = {m.exit_layer for m in read_manifests(TINY_DRAFTS).values() if m.head in HEAD_LAYERS}
    assert {layer for _, layer in grid().heads} == exits
    assert grid(head=["mlp"]).heads == (("mlp", 2), ("mlp", 4), ("mlp", 6))


def test_a_raw_exit_needs_no_draft() -> None:
    found = grid(drafts=None, exit_layer="3", head=["raw"])
    assert found.methods == (
        "layerskip:exit_layer=3,gamma=2,stop_below=0",
        "layerskip:exit_layer=3,gamma=4,stop_below=0",
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"exit_layer": "24"}, ["24", f"1 .. {layer_count('tiny') - 1}", "'tiny'"]),
        ({"exit_layer": "1:90"}, ["more than 64"]),
        ({"exit_layer": "3"}, ["no draft has a head at exit 3", "mlp at 4", "train --model tiny --suite describe",
                               "--exit-layer 3"]),
        ({"exit_layer": "2", "head": ["eagle"]}, ["the head eagle at exit 2", "eagle at 1", "--head eagle"]),
        ({"head": ["mpl"]}, ["unknown head 'mpl'", "did you mean 'mlp'?", "raw"]),
        ({"gamma": "1:64", "stop": "0,0.5"}, ["cells", "at most 128"]),
        ({"gamma": "9:2"}, ["--gamma", "empty"]),
        ({"stop": "1.5"}, ["--stop", "'1.5'"]),
        ({"drafts": None}, ["without a draft", "--draft FOLDER", "--head raw"]),
        ({"drafts": None, "head": ["raw"]}, ["--exit-layer is missing"]),
    ],
)  # fmt: skip
def test_refused(asked: dict[str, object], says: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        grid(**asked)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    for text in says:
        assert text in str(error.value)
