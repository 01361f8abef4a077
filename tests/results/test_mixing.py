"""Two mixtures: a resumed run and `compare` refuse every change of what decides a token or a time, by its name."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis.comparison import compare
from fastvlm_bench.errors import IncompatibleRuns, UsageError
from fastvlm_bench.records.mixing import ENVIRONMENT, METHOD, MODEL, mixed
from fastvlm_bench.records.record import RunWriter

CONFIG = {"text_config": {"rope_parameters": {"rope_theta": 10000.0}, "hidden_act": "silu"}, "image_token_id": 7}
PROCESSOR = {"tokenizer_sha256": "a" * 64, "template_sha256": "b" * 64, "image_processor": {"size": {"height": 120}},
             "patch_size": 20}  # fmt: skip
FOUND = {"in_force": {"do_sample": False, "eos_token_id": [2]}, "overridden": {}}


def whole(fake: SimpleNamespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run.json with all that is recorded of a model, and its lines."""
    meta, lines = fake.made(
        suites=[fake.suite(n=4)],
        meta={
            "model": {"config": CONFIG, "processor": PROCESSOR, "processor_sha256": "c" * 64, "quantized": False},
            "environment": dict.fromkeys(ENVIRONMENT, "1") | {"threads": 2}, "generation": FOUND,
        },
    )  # fmt: skip
    for sample in meta["suites"][0]["samples"]:
        sample["rendered"] = f"USER: <image> {sample['prompt']}"
    for method in meta["methods"]:
        method["file_sha256"] = "d" * 64
        if method["draft"]:
            method["draft"] |= {"sha256": "e" * 64, "name": "mlp-exit2"}
    return meta, lines


def changed(meta: dict[str, Any], path: tuple[Any, ...], value: Any = "another") -> dict[str, Any]:
    copied = copy.deepcopy(meta)
    entry = copied
    for name in path[:-1]:
        entry = entry[name]
    entry[path[-1]] = value
    return copied


PLACES: list[tuple[tuple[Any, ...], str]] = [
    *((("model", name), f"model.{name}: ") for name in MODEL if name not in ("config", "processor")),
    *((("environment", name), f"environment.{name}: ") for name in ENVIRONMENT),
    *((("methods", 1, name), f"method fastvlm.{name}") for name in METHOD if name not in ("options", "draft")),
    (("methods", 1, "options", "gamma"), "method fastvlm.options.gamma: 6 -> another"),
    (("methods", 1, "draft", "sha256"), "method fastvlm.draft.sha256: eee"),
    (
        ("model", "config", "text_config", "rope_parameters", "rope_theta"),
        "model.config.text_config.rope_parameters.rope_theta: 10000.0 -> another",
    ),
    (("model", "config", "image_token_id"), "model.config.image_token_id: 7 -> another"),
    (("model", "config", "one_more"), "model.config.one_more: (absent) -> another"),
    (("model", "processor", "tokenizer_sha256"), "model.processor.tokenizer_sha256"),
    (("model", "processor", "image_processor", "size", "height"), "model.processor.image_processor.size.height: 120"),
    (("model", "processor", "patch_size"), "model.processor.patch_size: 20 -> another"),
    (("generation", "in_force", "repetition_penalty"), "generation.in_force.repetition_penalty: (absent) -> another"),
    (("generation", "in_force", "eos_token_id"), "generation.in_force.eos_token_id"),
    (("suites", 0, "samples", 2, "rendered"), "suite coco-caption, sample 002.rendered: "),
    (("suites", 0, "samples", 2, "prompt"), "suite coco-caption, sample 002.prompt: "),
    (("suites", 0, "max_new_tokens"), "suite coco-caption.max_new_tokens: 40 -> another"),
]


@pytest.mark.parametrize(("path", "named"), PLACES, ids=[".".join(map(str, path)) for path, _ in PLACES])
def test_a_resumed_run_refuses_it_by_name(
    fake: SimpleNamespace, tmp_path: Path, path: tuple[Any, ...], named: str
) -> None:
    meta, lines = whole(fake)
    with RunWriter.create(tmp_path / "run", meta) as writer:
        writer.append(lines[0])
    key = path[0]
    with RunWriter.resume(tmp_path / "run", meta["config_sha256"]) as writer:
        writer.update(**{key: meta[key]})
        with pytest.raises(UsageError) as caught:
            writer.update(**{key: changed(meta, path)[key]})
    assert named in str(caught.value) and "\n" not in str(caught.value)


COMPARED = [(path, named) for path, named in PLACES
            if path[0] in ("suites", "generation") or (path[0] == "model" and path[1] not in ("class", "quantized",
            "layers", "parameters") and path[-1] != "one_more") or path[-1] in ("cpu", "gpu", "threads")]  # fmt: skip


@pytest.mark.parametrize("path", [path for path, _ in COMPARED], ids=[".".join(map(str, path)) for path, _ in COMPARED])
def test_compare_refuses_it_by_name(fake: SimpleNamespace, path: tuple[Any, ...]) -> None:
    meta, lines = whole(fake)
    runs = [fake.run(meta={"run_id": name}) for name in "ab"]
    for run, own in zip(runs, (meta, changed(meta, path)), strict=True):
        run.meta.clear()
        run.meta.update({"schema_version": 1, **own, "status": "success"})
        run.lines[:] = [{**line, "seq": seq} for seq, line in enumerate(lines)]
    with pytest.raises(IncompatibleRuns) as caught:
        compare(runs)
    name = "prompt texts" if path[-1] == "prompt" else "settings" if path[0] == "generation" else str(path[-1])
    assert name in str(caught.value)
    assert compare([runs[0], runs[0]]).forced == ()


def test_what_an_older_record_lacks_says_nothing(fake: SimpleNamespace) -> None:
    meta, _ = whole(fake)
    old = copy.deepcopy(meta)
    for name in ("config", "processor", "quantized"):
        del old["model"][name]
    del old["generation"], old["methods"][0]["file_sha256"], old["environment"]["driver"]
    assert mixed(old, meta) == []
    assert mixed(meta, old) != []


def test_many_changes_are_counted(fake: SimpleNamespace) -> None:
    meta, _ = whole(fake)
    suites = copy.deepcopy(meta["suites"]) + [fake.suite(name=f"s{i}", n=9) for i in range(1)]
    told = mixed({**meta, "suites": suites}, {"suites": []})
    assert len(told) == 7 and told[-1].endswith(" more")
