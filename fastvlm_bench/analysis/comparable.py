"""Which runs below a folder can stand side by side: what `compare` shows when no run is named.

Only `run.json` decides who fits whom; the samples are read of those that are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_bench.analysis.batches import batch_size
from fastvlm_bench.analysis.comparison import Comparison, compare, differences, identity
from fastvlm_bench.errors import BenchError, UsageError
from fastvlm_bench.records.record import Run, list_runs, read_meta, read_run

MOST_HELD = 100_000
"""Runs of more lines are not held in memory beside each other."""
SHOWN = 8
"""So many reasons are told of what was left out, and so many names of each; the rest is counted."""


@dataclass(frozen=True)
class Comparable:
    """Runs that can stand side by side, newest first, and a sentence for what was left out and why.

    of_suites: they differ in their suites and in nothing else, so that no sample of one has a partner in the others.
    """

    runs: tuple[Run, ...]
    of_suites: bool
    left_out: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A run by its run.json alone: its samples have not been read. identity: as in `comparison.identity`."""

    run: Run
    identity: dict[str, Any]

    def differs(self, other: "_Candidate", of_suites: bool) -> list[str]:
        return differences(self.identity, other.identity, of_suites)


def compare_newest(results_dir: Path, folders: Sequence[Path] | None = None) -> Comparison:
    """What `compare` shows of a folder of runs. UsageError where no two fit. folders: as in `find_comparable`."""
    found = find_comparable(results_dir, folders)
    return compare(found.runs, of_suites=found.of_suites, left_out=found.left_out)


def find_comparable(results_dir: Path, folders: Sequence[Path] | None = None) -> Comparable:
    """The newest runs below a folder that are comparable; where there are none, the newest that differ only in suites.

    A run that cannot be read, or has no sample, is left out. So is a sweep over batch sizes: `batches` shows those. A
    run of very many lines is given without them, for `compare` reads one run after the other.
    folders: the run folders, if they are not all that lie below `results_dir`. UsageError, with the reason and the
    remedy, if nothing remains that could stand side by side.
    """
    results_dir = Path(results_dir)
    candidates, left_out = _read(results_dir, list_runs(results_dir) if folders is None else folders)
    candidates, sweeps = _without_sweeps(candidates, results_dir)
    left_out |= sweeps
    while True:
        chosen, of_suites = _newest_group(candidates)
        if not chosen:
            raise UsageError(_nothing(results_dir, candidates, left_out))
        runs: list[Run] = []
        for candidate in chosen:
            try:
                read = _with_samples(candidate.run.folder)
                runs.append(read if len(read.lines) <= MOST_HELD else candidate.run)
            except BenchError as error:
                left_out[_name(candidate.run.folder, results_dir)] = str(error)
                candidates.remove(candidate)
        if len(runs) == len(chosen):
            break
    for candidate in candidates:
        if candidate not in chosen:
            left_out[_name(candidate.run.folder, results_dir)] = _reason(candidate, chosen, of_suites)
    return Comparable(tuple(runs), of_suites, _sentences(left_out))


def _read(results_dir: Path, folders: Sequence[Path]) -> tuple[list[_Candidate], dict[str, str]]:
    """The runs of these folders, newest first, and name -> reason for those whose run.json is damaged."""
    found: list[_Candidate] = []
    damaged: dict[str, str] = {}
    for folder in folders:
        try:
            run = Run(folder, read_meta(folder), [])
            found.append(_Candidate(run, identity(run)))
        except BenchError as error:
            damaged[_name(folder, results_dir)] = str(error)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            damaged[_name(folder, results_dir)] = f"its run.json is damaged ({type(error).__name__}: {error})"
    return sorted(found, key=lambda c: str(c.run.meta.get("started_at") or ""), reverse=True), damaged


def _with_samples(folder: Path) -> Run:
    run = read_run(folder)
    if not run.lines:
        raise UsageError("it has no sample yet")
    return run


def _without_sweeps(runs: Sequence[_Candidate], results_dir: Path) -> tuple[list[_Candidate], dict[str, str]]:
    """The runs that belong to no sweep, and name -> reason for each sweep: a folder of runs of several batch sizes."""
    sizes: dict[Path, set[int]] = {}
    for candidate in runs:
        sizes.setdefault(candidate.run.folder.parent, set()).add(batch_size(candidate.run))
    sweeps = [folder for folder, own in sizes.items() if folder != results_dir and len(own) > 1]
    said = {_name(p, results_dir): f"a sweep over batch sizes, which `fastvlm-bench batches {p}` shows" for p in sweeps}
    return [candidate for candidate in runs if candidate.run.folder.parent not in sweeps], said


def _newest_group(runs: Sequence[_Candidate]) -> tuple[list[_Candidate], bool]:
    """The newest run that has a partner, with all that fit; and whether they differ in their suites. [] if none has."""
    for of_suites in (False, True):
        for place, newest in enumerate(runs):
            group = [newest]
            for other in runs[place + 1 :]:
                if not any(member.differs(other, of_suites) for member in group):
                    group.append(other)
            if len(group) > 1:
                return group, of_suites
    return [], False


def _reason(left: _Candidate, group: Sequence[_Candidate], of_suites: bool) -> str:
    """In what a run differs from those that are shown: from the first, or the first that it does differ from."""
    member = next(member for member in group if member.differs(left, of_suites))
    return f"differs from {member.run.run_id} in {_some('; ', member.differs(left, of_suites))}"


def _some(mark: str, texts: Sequence[str], most: int = SHOWN) -> str:
    more = [] if len(texts) <= most else [f"{len(texts) - most} more"]
    return mark.join([*texts[:most], *more])


def _sentences(left_out: dict[str, str]) -> tuple[str, ...]:
    """ "NAMES: REASON", a reason once; the last sentence counts what is not told."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    told = [f"{_some(', ', own)}: {reason}" for reason, own in names.items()]
    rest = sum(len(own) for own in list(names.values())[SHOWN:])
    return (*told[:SHOWN], *([f"{rest} more runs"] if rest else []))


def _name(folder: Path, results_dir: Path) -> str:
    return str(folder.relative_to(results_dir) if folder.is_relative_to(results_dir) else folder)


def _nothing(results_dir: Path, runs: Sequence[_Candidate], left_out: dict[str, str]) -> str:
    """Why there is nothing to show, with the remedy."""
    others = f" (left out: {'; '.join(_sentences(left_out))})" if left_out else ""
    if not runs:
        return (f"{results_dir} has no run to compare{others}; make two with `fastvlm-bench run`, or name another "
                "folder with --results")  # fmt: skip
    newest = runs[0].run
    if len(runs) == 1:
        return (f"{results_dir} has only one run to compare, {newest.run_id}{others}; make another with "
                f"`fastvlm-bench run`, or see this one with `fastvlm-bench report {newest.folder}`")  # fmt: skip
    differing = runs[0].differs(runs[1], of_suites=True)
    fields = _some("; ", differing)
    if all(field.startswith("batch size") for field in differing):
        return (f"the runs in {results_dir} differ in their batch sizes, which `fastvlm-bench batches {results_dir}` "
                f"puts side by side{others}; for a comparison name two runs of one batch size")  # fmt: skip
    return (f"no two of the {len(runs)} runs in {results_dir} are comparable: the newest, {newest.run_id}, and "
            f"{runs[1].run.run_id} differ in {fields}{others}; run again with the options of one of them, or name two "
            "folders and give --force")  # fmt: skip
