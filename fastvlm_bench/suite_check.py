"""`suites check`: everything that is wrong with a suite's files, each problem once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fastvlm_bench.annotations import Entry, line_break
from fastvlm_bench.errors import UsageError
from fastvlm_bench.suite import Sample, open_image
from fastvlm_bench.suite_definition import Split, read_definition
from fastvlm_bench.suite_files import candidates, data_root, find_images, layout, read_entries


@dataclass
class Findings:
    """problems: what keeps a run from starting. warnings: what is unlike the official data. checked: what was read."""

    problems: dict[str, None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)


def check_data(name: str, data: str | Path, split: str | None = None) -> Findings:
    """Read the files of a suite's splits and decode each image. split: None is every split whose files are there.

    A reader stops at the first fault of a file, so a faulty annotation file is one problem. An image that several
    splits share is looked at once.
    """
    definition = read_definition(name)
    splits = [definition.split(split)] if split else [s for s in definition.splits.values() if not s.root]
    if splits[0].root:
        raise UsageError(f"split '{split}' of suite '{name}' is embedded and needs no check; leave --split out")
    root, findings = data_root(data, splits), Findings()
    there = [s for s in splits if None not in candidates(root, s).values()]
    if not there:
        for item in splits:
            findings.problems[f"split '{item.name}': files are missing; it needs {layout(item)}"] = None
    seen: set[Path] = set()
    for item in there:
        _check_split(name, root, item, findings, seen)
    return findings


def odd_breaks(entries: Sequence[Entry], files: Sequence[Path]) -> list[str]:
    """A warning for the first reference that holds a line break which other scorers stumble over, with their number."""
    found = [(entry, index, name) for entry in entries for index, text in enumerate(entry.references)
             if (name := line_break(text))]  # fmt: skip
    if not found:
        return []
    entry, index, name = found[0]
    others = f", so do {len(found) - 1} others" if len(found) > 1 else ""
    where = ", ".join(map(str, files))
    return [f"{where}: {entry.place} (id {entry.sample_id}), reference [{index}] holds {name}{others}; it is scored "
            "as a space, while coco-caption's tokenizer would move every later caption to another image"]  # fmt: skip


def _check_split(name: str, root: Path, split: Split, findings: Findings, seen: set[Path]) -> None:
    where = f"{name}/{split.name}"
    try:
        entries = read_entries(root, split, lambda _: None)
    except UsageError as error:
        findings.problems[str(error)] = None
        return
    if split.samples is not None and len(entries) != split.samples:
        findings.warnings.append(f"{where} has {len(entries)} samples; officially it has {split.samples}")
    findings.warnings += odd_breaks(
        entries, [path for paths in candidates(root, split).values() for path in paths or ()]
    )
    decoded = 0
    for entry in {entry.image_name: entry for entry in reversed(entries)}.values():
        try:
            paths, _ = find_images(root, split, [replace(entry)], where)
            path = paths[entry.image_name]
            if path not in seen:
                seen.add(path)
                open_image(Sample(entry.sample_id, entry.image_id, path, "", ()))
            decoded += 1
        except UsageError as error:
            findings.problems[str(error)] = None
    findings.checked.append(f"{where}: {len(entries)} samples, {decoded} images decoded")
