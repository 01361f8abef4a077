"""Builders of run folders that look like real ones: a seeded simulation of drafting, with costs in seconds."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.records.record import Run, RunWriter, read_run

EOS = 2
TOKEN_S = 0.0100  # one forward pass of the whole target
TEXTS = ("a red circle left of a blue square", "two green triangles", "a small yellow star above a red circle")


def method(label: str, **changes: Any) -> dict[str, Any]:
    """An entry of `methods`. A label with "fastvlm" drafts; "early-exit" is not lossless."""
    name = label.partition(":")[0]
    drafting = name == "fastvlm"
    options = {"gamma": 6, "exit_layer": 2, "head": "attention", "stop_below": 0.0} if drafting else {}
    draft = {"exit_layer": 2, "head": "attention"} if drafting else None
    base = {"label": label, "name": name, "spec": label, "lossless": name != "early-exit", "options": options,
            "draft": draft, "extra_bytes": 1_300_000 if drafting else 0}  # fmt: skip
    return {**base, **changes}


def suite(name: str = "coco-caption", n: int = 40, **changes: Any) -> dict[str, Any]:
    """An entry of `suites` with n samples; ids are zero-padded so that a reader that makes numbers of them fails."""
    caption = "caption" in name
    samples = [
        {"sample_id": f"{i:03d}", "image_id": f"{i // (1 if caption else 2):03d}", "prompt": "",
         "references": [TEXTS[i % 3], TEXTS[(i + 1) % 3]] if caption else [["red", "two", "yes"][i % 3]] * 10}
        for i in range(n)
    ]  # fmt: skip
    base = {"name": name, "version": "1", "kind": "caption" if caption else "vqa", "split": "embedded",
            "source": "embedded (rendered scenes)", "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "prompt": "Describe the image.", "max_new_tokens": 40,
            "metrics": ["bleu4", "rouge_l", "cider_d"] if caption else ["vqa_accuracy"],
            "licence": "CC0", "citation": "", "samples": samples}  # fmt: skip
    return {**base, **changes}


def run_meta(suites: list[dict[str, Any]], methods: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A whole run.json. `model` and `environment` in `changes` are merged, everything else replaces."""
    config = {"model": "tiny", "methods": [m["spec"] for m in methods], "repeats": 1, "limit": None, "threads": 2}
    config |= changes.pop("config", {})
    model = {"id": "tiny", "revision": None, "class": "LlavaForConditionalGeneration", "weights_sha256": "ab" * 32,
             "dtype": "float32", "attention": "sdpa", "device": "cpu", "layers": 24, "parameters": 3_100_000,
             "weights_bytes": 12_400_000} | changes.pop("model", {})  # fmt: skip
    environment = {"cpu": "Example CPU", "gpu": None, "threads": 2, "dirty": False, "commit": "0" * 40}
    environment |= changes.pop("environment", {})
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    base = {"run_id": "20261124-101500-tiny-coco-caption-ab12", "status": "started", "command": [],
            "config": config, "config_sha256": digest, "suites": suites, "model": model, "methods": methods,
            "reference": methods[0]["label"], "environment": environment, "started_at": "2026-11-24T10:15:00Z",
            "completed_at": None, "totals": {}, "warnings": [], "verdict": None, "error": None,
            "costs": [{"suite": entry["name"], "method": m["label"], "standard_s": TOKEN_S, "draft_s": 0.0015,
                       "verify_s": [0.0095] * 7} for entry in suites for m in methods if m["draft"]]}  # fmt: skip
    return base | changes


def answer(suite_entry: dict[str, Any], index: int, tokens: int | None = None) -> tuple[list[int], str]:
    """Token ids (EOS last) and text of a sample, the same for every method."""
    source = random.Random(f"{suite_entry['name']}-{index}")
    length = tokens or (source.randint(10, 24) if suite_entry["kind"] == "caption" else source.choice([2, 2, 3]))
    text = TEXTS[index % 3] if suite_entry["kind"] == "caption" else ["red", "two", "yes"][index % 3]
    return [source.randint(10, 99) for _ in range(length - 1)] + [EOS], text


def line(
    suite_entry: dict[str, Any], method_entry: dict[str, Any], index: int, source: random.Random, *,
    alpha: float = 0.8, noise: float = 0.02, slower: float = 1.0, repeat: int = 0, order: int = 0,
    tokens: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One measured line. `slower` multiplies the decoding time of this arm."""
    ids, text = answer(suite_entry, index, tokens)
    gamma = method_entry["options"].get("gamma", 0)
    left, rounds = len(ids) - 1, []
    while left:
        drafted = min(gamma, max(left - 1, 1)) if gamma else 0
        accepted = 0
        while accepted < drafted and source.random() < alpha:
            accepted += 1
        tested = min(drafted, accepted + 1)
        emitted = min(accepted + 1, left)
        accepted, tested = min(accepted, emitted), max(min(tested, drafted), min(accepted, emitted))
        jitter = slower * max(0.1, source.gauss(1, noise))
        draft_s = 0.15 * TOKEN_S * drafted * jitter
        rounds.append([drafted, tested, accepted, emitted, draft_s, TOKEN_S * (0.95 if gamma else 1.0) * jitter])
        left -= emitted
    decode_s = 1.06 * sum(r[4] + r[5] for r in rounds)
    vision_s, prefill_s = 0.030 * max(0.1, source.gauss(1, noise)), 0.020 * max(0.1, source.gauss(1, noise))
    memory = {"peak_rss_bytes": 512_000_000 + 2_000_000 * bool(gamma) + index * 1000, "peak_allocated_bytes": None,
              "peak_reserved_bytes": None}  # fmt: skip
    return {"suite": suite_entry["name"], "sample_id": suite_entry["samples"][index]["sample_id"],
            "method": method_entry["label"], "repeat": repeat, "order": order, "prompt_tokens": 60,
            "token_ids": ids, "text": text, "stop": "eos", "ttft_s": vision_s + prefill_s,
            "vision_s": vision_s, "prefill_s": prefill_s,
            "decode_s": decode_s, "rounds": rounds, "memory": memory, "scores": {}, "error": None}  # fmt: skip


def failed(entry: dict[str, Any], error: str = "out_of_memory: 3 GiB") -> dict[str, Any]:
    """The line of a failed sample: no measured field survives."""
    blank = dict.fromkeys(("token_ids", "text", "stop", "ttft_s", "vision_s", "prefill_s", "decode_s"))
    return {**entry, **blank, "rounds": [], "memory": {}, "error": error}


Change = Callable[[dict[str, Any]], dict[str, Any] | None]


def made(
    suites: list[dict[str, Any]] | None = None, labels: tuple[str, ...] = ("standard", "fastvlm"),
    methods: list[dict[str, Any]] | None = None, repeats: int = 1, seed: int = 0, change: Change | None = None,
    meta: dict[str, Any] | None = None, **knobs: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """run.json and all lines. `change` edits each line (None drops it); `knobs` go to `line`."""
    suites = [suite()] if suites is None else suites
    methods = [method(label) for label in labels] if methods is None else methods
    source = random.Random(seed)
    lines = []
    for entry in suites:
        for index in range(len(entry["samples"])):
            for repeat in range(repeats):
                first = (index + repeat) % len(methods)
                for order, one in enumerate(methods[first:] + methods[:first]):
                    base = line(entry, one, index, source, repeat=repeat, order=order, **knobs)
                    edited = base if change is None else change(base)
                    lines += [] if edited is None else [edited]
    return run_meta(suites, methods, **(meta or {})), lines


def in_memory(status: str = "success", **options: Any) -> Run:
    """A run that was never on disk."""
    meta, lines = made(**options)
    return Run(Path("run"), {"schema_version": 1, **meta, "status": status},
               [{"v": 1, "seq": seq, **entry} for seq, entry in enumerate(lines)])  # fmt: skip


def write_run(folder: Path, status: str = "success", **options: Any) -> Run:
    """A run folder, written and read back."""
    meta, lines = made(**options)
    with RunWriter.create(folder, meta) as writer:
        for entry in lines:
            writer.append(entry)
        writer.finish(status)
    return read_run(folder)


BUILDERS = SimpleNamespace(
    method=method, suite=suite, meta=run_meta, line=line, failed=failed, made=made, run=in_memory
)  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path) -> SimpleNamespace:
    """The builders. `fake.write("name", ...)` writes into a folder of this test, `fake.run(...)` stays in memory."""
    return SimpleNamespace(
        **vars(BUILDERS), write=lambda name="run", **options: write_run(tmp_path / name, **options)
    )  # fmt: skip
