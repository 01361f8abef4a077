"""What a run must not mix: everything that decides a token or a time, from the model's configuration to the driver.

A resumed run is measured in several parts, and `compare` puts several runs side by side. Older records lack some of it:
a field that only one side has is not known to differ.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fastvlm_bench.records.storage import flatten

MODEL = ("class", "quantized", "weights_sha256", "processor_sha256", "config", "processor", "dtype", "device",
         "attention", "layers", "parameters")  # fmt: skip
ENVIRONMENT = ("cpu", "gpu", "threads", "torch", "transformers", "cuda", "driver", "engine", "compiled")
METHOD = ("name", "spec", "lossless", "options", "draft", "file_sha256")
SUITE = ("version", "split", "sha256", "images_sha256", "prompt", "max_new_tokens")
SAMPLE = ("prompt", "rendered")
SHOWN = 6


def fixed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of each recorded thing that decides a token or a time, as "model.config.rope_theta"."""
    found: dict[str, Any] = {}

    def take(prefix: str, entry: Mapping[str, Any], names: tuple[str, ...]) -> None:
        for name in names:
            if name in entry:
                found.update(flatten(entry[name], f"{prefix}.{name}"))

    take("model", meta.get("model") or {}, MODEL)
    take("environment", meta.get("environment") or {}, ENVIRONMENT)
    for method in meta.get("methods") or []:
        take(f"method {method['label']}", method, METHOD)
    for suite in meta.get("suites") or []:
        take(f"suite {suite['name']}", suite, SUITE)
        for sample in suite["samples"]:
            take(f"suite {suite['name']}, sample {sample['sample_id']}", sample, SAMPLE)
    found |= flatten((meta.get("generation") or {}), "generation") if meta.get("generation") else {}
    return found


def mixed(meta: Mapping[str, Any], fields: Mapping[str, Any]) -> list[str]:
    """ "field: old -> new" for what the new fields of `run.json` would mix, the first few and how many more there are.

    A whole entry that older records lack says nothing; within `generation`, a setting that is new does. Samples that
    are as they were are not flattened, so that the work grows little with the number of samples.
    """
    before, after = _changed_samples(meta, fields)
    return _told(fixed(before), fixed(after))


def differing(first: Mapping[str, Any], other: Mapping[str, Any], ignored: Iterable[str] = ()) -> list[str]:
    """The same of two shards of one run, whose samples are not the same. ignored: options that measure nothing.

    Which of several alike devices a shard had is no difference.
    """
    found = []
    for meta in (first, other):
        config = {name: value for name, value in meta["config"].items() if name not in ignored}
        model = {**meta["model"], "device": str(meta["model"].get("device")).partition(":")[0]}
        suites = [{k: v for k, v in suite.items() if k not in ("samples", "images_sha256")} | {"samples": []}
                  for suite in meta["suites"]]  # fmt: skip
        found.append(flatten(config, "config") | fixed({**meta, "model": model, "suites": suites}))
    return _told(found[0], found[1], every=True)


def _told(old: Mapping[str, Any], new: Mapping[str, Any], every: bool = False) -> list[str]:
    """ "field: old -> new", the first few. every: also what the old record has nothing of."""
    names = dict.fromkeys([*old, *(name for name in new if every or _belongs(name, old))])
    told = [f"{name}: {_shown(old, name)} -> {_shown(new, name)}" for name in names
            if old.get(name, _ABSENT) != new.get(name, _ABSENT)]  # fmt: skip
    return told[:SHOWN] + ([f"{len(told) - SHOWN} more"] if len(told) > SHOWN else [])


def _changed_samples(meta: Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record before and after the new fields, both without the samples that these leave as they were."""
    before, after = dict(meta), {**meta, **fields}
    mine, theirs = ({suite["name"]: suite for suite in found.get("suites") or []} for found in (before, after))
    same = {name: _same_samples(suite, theirs[name]) for name, suite in mine.items() if name in theirs}

    def without(suite: Mapping[str, Any]) -> dict[str, Any]:
        out = same.get(suite["name"], frozenset())
        return {**suite, "samples": [sample for sample in suite["samples"] if sample["sample_id"] not in out]}

    before["suites"], after["suites"] = ([without(suite) for suite in own.values()] for own in (mine, theirs))
    return before, after


def _same_samples(old: Mapping[str, Any], new: Mapping[str, Any]) -> frozenset[str]:
    """Ids of the samples of which the new record has all that the old one fixed."""
    if old["samples"] is new["samples"]:
        return frozenset(sample["sample_id"] for sample in old["samples"])
    known = {sample["sample_id"]: sample for sample in new["samples"]}
    return frozenset(
        sample["sample_id"] for sample in old["samples"] if sample["sample_id"] in known
        and all(known[sample["sample_id"]].get(name, _ABSENT) == sample[name] for name in SAMPLE if name in sample)
    )  # fmt: skip


def changed_suite(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The same of a suite's entry before the model is loaded, as far as both entries go."""
    before, now = (fixed(meta) for meta in _changed_samples({"suites": [old]}, {"suites": [new]}))
    told = [f"{name}: {_shown(before, name)} -> {_shown(now, name)}" for name in before
            if name in now and before[name] != now[name]]  # fmt: skip
    return told[:SHOWN] + ([f"{len(told) - SHOWN} more"] if len(told) > SHOWN else [])


_ABSENT = object()


def _belongs(name: str, old: Mapping[str, Any]) -> bool:
    """Whether a field that only the new record has is part of something that the old one recorded, too."""
    parts = name.split(".")
    groups = {("model", "config"), ("model", "processor"), ("generation", "in_force"), ("generation", "overridden")}
    group = tuple(parts[:2])
    return group in groups and any(known == ".".join(group) or known.startswith(".".join(group) + ".") for known in old)


def _shown(values: Mapping[str, Any], name: str) -> str:
    text = " ".join(str(values.get(name, "(absent)")).split())
    return text if len(text) <= 80 else f"{text[:60]}…"
