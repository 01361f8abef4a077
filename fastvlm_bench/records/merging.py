"""Joins the runs of `run --shard i/N` into one record, as if one process had measured all samples.

Each shard's lines keep their order and are laid side by side, as they were measured at the same time. What `mixing`
refuses to mix in one run is refused here, too.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import CorruptRecord, UsageError
from fastvlm_bench.records import document_frequencies
from fastvlm_bench.records.mixing import differing
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.records.sealing import digest_of_images

MERGED = "merged"
"""Key of run.json: what a run was merged from."""
CONCATENATED = ("conditions", "outside")
"""Entries with one element a process: those of all shards, one after the other."""
IMAGE = ("image_file", "image_sha256", "more_image_files", "more_image_sha256")
"""Keys of a sample in a shard's record, by which the digest of all images is found: the last two of further ones."""


Line = dict[str, Any]


@dataclass(frozen=True)
class Shards:
    """Runs that fit together, in the order of their shards. missing: numbers of shards without a run."""

    runs: Sequence[Run]
    of: int
    missing: Sequence[int]

    @property
    def unfinished(self) -> list[Run]:
        """Those that did not end with all their samples measured."""
        return [run for run in self.runs if run.meta["status"] != "success"]


def read_shards(folders: Sequence[Path], ignored: Sequence[str], allow_missing: bool = False) -> Shards:
    """The runs in these folders. UsageError where they are not the shards of one run, each once and finished.

    ignored: options of `run` that measure nothing. allow_missing: shards may be missing or unfinished.
    """
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        if not run.meta.get("shard"):
            raise UsageError(f"{run.folder} is no shard: it was measured without --shard; name folders of shards only")
    runs.sort(key=lambda run: int(run.meta["shard"]["number"]))
    if not runs:
        raise UsageError("merge needs the folders of the shards; name them, or the folder that holds them")
    first, of = runs[0], int(runs[0].meta["shard"]["of"])
    for other in runs[1:]:
        if other.meta["shard"]["of"] != of:
            raise UsageError(f"{other.folder} is one of {other.meta['shard']['of']} shards, and {first.folder} one of "
                             f"{of}; merge the shards of one run")  # fmt: skip
        if changed := differing(first.meta, other.meta, (*ignored, "shard")):
            raise UsageError(f"{other.folder} was not measured as {first.folder} ({'; '.join(changed)}): no number of "
                             "the two together would say of what it is; measure that shard again")  # fmt: skip
    for run, after in zip(runs, runs[1:], strict=False):
        if run.meta["shard"]["number"] == after.meta["shard"]["number"]:
            raise UsageError(f"{run.folder} and {after.folder} are both shard {_name(run)}; name one of them")
    there = {int(run.meta["shard"]["number"]) for run in runs}
    found = Shards(runs, of, [number for number in range(1, of + 1) if number not in there])
    if allow_missing:
        return found
    if found.missing:
        names = ", ".join(f"{number}/{of}" for number in found.missing)
        raise UsageError(f"{names} of the shards {'is' if len(found.missing) == 1 else 'are'} missing; name their "
                         "folders, measure them, or merge the others with --allow-missing")  # fmt: skip
    if found.unfinished:
        run = found.unfinished[0]
        raise UsageError(f"shard {_name(run)} ended with status {run.meta['status']}; go on with it by fastvlm-bench "
                         f"run --resume {run.folder}, or merge what there is with --allow-missing")  # fmt: skip
    return found


def _name(run: Run) -> str:
    return f"{run.meta['shard']['number']}/{run.meta['shard']['of']}"


def merged_meta(shards: Shards, samples: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The fields of `run.json` for the run of all shards, but its name, the command and the configuration's digest.

    samples: by suite those of all shards, in the order of the whole. What was measured apart (costs, parts of memory,
    energy) is the first shard's, of which it was measured.
    """
    first = shards.runs[0].meta
    fields = {name: value for name, value in first.items() if name not in ("shard", "seal", "sealed")}
    for name in CONCATENATED:
        found = list(chain.from_iterable(run.meta.get(name) or [] for run in shards.runs))
        fields |= {name: found} if found else {}
    every = chain.from_iterable(run.meta["warnings"] for run in shards.runs)
    fields["warnings"] = list({(notice["name"], notice["message"]): notice for notice in every}.values())
    fields["config"] = {**first["config"], "shard": None}
    fields["suites"] = [_suite(suite, samples[suite["name"]], shards) for suite in first["suites"]]
    fields["started_at"] = min(str(run.meta["started_at"]) for run in shards.runs)
    fields[MERGED] = {
        "of": shards.of, "missing": list(shards.missing),
        "shards": [{"number": int(run.meta["shard"]["number"]), "run_id": run.run_id, "status": run.meta["status"],
                    "lines": len(run.lines), "host": (run.meta.get("environment") or {}).get("host"),
                    "started_at": run.meta["started_at"], "completed_at": run.meta["completed_at"]}
                   for run in shards.runs],
    }  # fmt: skip
    return fields


def _suite(suite: Mapping[str, Any], samples: list[dict[str, Any]], shards: Shards) -> dict[str, Any]:
    """A suite's entry with all samples. The digest of the images is that of a run of all; unknown if shards lack."""
    own = {name: value for name, value in suite.items()
           if name not in ("samples", "images_sha256", document_frequencies.FREQUENCIES)}  # fmt: skip
    images = dict.fromkeys((sample["image_id"], *image) for sample in samples for image in _images(sample))
    if not shards.missing and all(None not in image for image in images):
        own["images_sha256"] = digest_of_images((str(name), str(digest)) for _, name, digest in images)
    return {**own, "samples": [{k: v for k, v in sample.items() if k not in IMAGE} for sample in samples]}


def _images(sample: Mapping[str, Any]) -> list[tuple[str | None, str | None]]:
    """Name and digest of each image of a sample, in order: None where its record lacks them."""
    name, digest, names, digests = (sample.get(key) for key in IMAGE)
    return [(name, digest), *zip(names or (), digests or (), strict=True)]


def merged_lines(shards: Shards) -> Iterator[Line]:
    """The lines of all shards: of each suite the first group of each shard, then the second of each, and so on."""
    return side_by_side([run.lines for run in shards.runs])


def side_by_side(processes: Sequence[Sequence[Line]]) -> Iterator[Line]:
    """The lines of processes that measured at the same time, suite by suite, group by group."""
    for row in zip_longest(*(_blocks(lines) for lines in processes), fillvalue=[]):
        for groups in zip_longest(*(_groups(block) for block in row), fillvalue=[]):
            for group in groups:
                yield from group


def _blocks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines that follow each other and are of the same suite and invocation."""
    for _, block in groupby(lines, key=lambda line: (line["suite"], line.get("invocation"))):
        yield list(block)


def _groups(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines of a suite that follow each other and are of the same sample or batch, with all its turns and repeats."""
    group: list[Line] = []
    for _, some in groupby(lines, key=lambda line: (line.get("batch") or {}).get("id", line["sample_id"])):
        own = list(some)
        if group and own[0].get("turn", 1) == 1:
            yield group
            group = []
        group += own
    if group:
        yield group


def merge_frequencies(shards: Shards, suites: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Lay the shards' document frequencies together. Each has those of all images, of the n-grams of its own texts.

    Where all samples are there, none are needed. suites: those of the merged run.
    """
    content: dict[str, Any] = {}
    partly = {suite["name"] for suite in suites if len(suite["samples"]) < suite.get("document_images", 0)}
    for run in shards.runs:
        path = run.folder / document_frequencies.FILE
        if not path.is_file():
            continue
        for name, found in json.loads(path.read_bytes()).items():
            for group, own in found.items() if name in partly else ():
                known = content.setdefault(name, {}).setdefault(group, {"images": own["images"], "counts": {}})
                if known["images"] != own["images"]:
                    raise CorruptRecord(f"{path} counts {own['images']} images, and another shard {known['images']}")
                known["counts"] |= own["counts"]
    if content:
        document_frequencies.save(folder, content)
