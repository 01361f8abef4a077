"""What `suites check` finds: everything that is wrong with a suite's files, each problem once."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from fastvlm_bench import metrics
from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.definition import Definition, Split, read_definition
from fastvlm_bench.suites.files import candidates, data_root, find_images, layout, odd_breaks, places_of, read_entries
from fastvlm_bench.suites.hub_data import Files
from fastvlm_bench.suites.suite import Sample, open_image
from fastvlm_bench.suites.tables import read_table
from fastvlm_bench.suites.turns import by_turn
from fastvlm_bench.suites.where import choose_split, is_official


@dataclass
class Findings:
    """One line per finding, in the order found.

    problems: what keeps a run from starting (the keys; the values are None). warnings: what differs from the official
    data. checked: a line for each split that could be read.
    """

    problems: dict[str, None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)


def check_data(name: str, data: str | Path, split: str | None = None) -> Findings:
    """Read the files of a suite's splits and decode each image. split: None checks every split whose files are there.

    A reader stops at the first fault, so a faulty annotation file is one problem. An image that several splits share
    is decoded once. UsageError for an unknown suite or split, an embedded split, and a folder that does not exist.
    """
    definition = read_definition(name)
    splits = [definition.split(split)] if split else [s for s in definition.splits.values() if not s.root]
    if splits[0].root:
        raise UsageError(f"split '{split}' of suite '{name}' is embedded and needs no check; leave --split out")
    findings = Findings()
    if not any(is_official(data, item) for item in splits):
        place = choose_split(definition, split, data)
        if place.files is not None and place.is_table:
            _check_table(definition, place.files, place.split, findings)
            return findings
    root = data_root(data, splits)
    there = [s for s in splits if None not in candidates(root, s).values()]
    if not there:
        for item in splits:
            findings.problems[f"split '{item.name}': files are missing; it needs {layout(item)}"] = None
    seen: dict[Path, bool] = {}
    for item in there:
        _check_split(definition, root, item, findings, seen)
    return findings


def _check_table(definition: Definition, files: Files, split: Split, findings: Findings) -> None:
    """A split that lies in parquet files: all rows are read, and all images unpacked and decoded."""
    try:
        table = read_table(files, split, None)
    except UsageError as error:
        findings.problems[str(error)] = None
        return
    findings.warnings += [files.note] if files.note else []
    _count(definition, split, len(table.whole), findings)
    decoded, names = 0, set()
    for entry, name in [(each, name) for each in table.entries for name in each.image_names]:
        if name in names:
            continue
        names.add(name)
        place = f"{entry.file}: {entry.place}"
        try:
            open_image(Sample(entry.sample_id, entry.image_id, table.images[name], "", (), place=place))
            decoded += 1
        except UsageError as error:
            findings.problems[str(error)] = None
    findings.checked.append(f"{definition.name}/{split.name}: {len(table.whole)} samples, {decoded} images decoded")


def _count(definition: Definition, split: Split, count: int, findings: Findings) -> None:
    if split.samples is not None and count != split.samples:
        where = f"{definition.name}/{split.name}"
        findings.warnings.append(f"{where} has {count} samples; officially it has {split.samples}")


def _check_split(definition: Definition, root: Path, split: Split, findings: Findings, seen: dict[Path, bool]) -> None:
    where = f"{definition.name}/{split.name}"
    try:
        entries = read_entries(root, split, lambda _: None)
        by_turn(entries)
    except UsageError as error:
        findings.problems[str(error)] = None
        return
    _count(definition, split, len(entries), findings)
    places = places_of(root, split, entries)
    if metrics.tokenised(definition.metrics):
        findings.warnings += [text for text in odd_breaks(places, entries) if text not in findings.warnings]
    decoded = 0
    first = {name: (entry, place) for entry, place in zip(entries[::-1], places[::-1], strict=True)
             for name in reversed(entry.image_names)}  # fmt: skip
    for name, (entry, place) in list(first.items())[::-1]:
        absent: list[Path] = []
        try:
            paths, _ = find_images(root, split, [replace(entry, image_name=name, images=())], where, absent)
            path = paths[name]
            if path not in seen:
                seen[path] = False
                if absent:
                    findings.problems[f"{place} has image {path}, which is missing; add it"] = None
                else:
                    open_image(Sample(entry.sample_id, entry.image_id, path, "", (), place=place))
                    seen[path] = True
            decoded += seen[path]
        except UsageError as error:
            findings.problems[str(error)] = None
    findings.checked.append(f"{where}: {len(entries)} samples, {decoded} images decoded")
