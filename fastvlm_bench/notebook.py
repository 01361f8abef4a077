"""The package in Python: `load_run`, `run` and `compare`, with tables as pandas data frames.

`import fastvlm_bench` offers these names and loads this file when one of them is first used. torch is imported by `run`
alone, pandas when the first table is made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_bench.analysis import comparison
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.analysis.verdict import Verdict, judged_rows
from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.report import frames

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class LoadedRun:
    """A run for a notebook. record: `run.json` and the lines of samples.jsonl, as they are.

    The tables hold seconds, bytes, counts and shares of one, as the suffixes of their names say, and NA for what was
    not measured; docs/results-schema.md lists their columns, docs/measuring.md has the formulas.
    """

    record: Run

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def folder(self) -> Path:
        return self.record.folder

    @cached_property
    def _judged(self) -> tuple[list[Row], Verdict]:
        return judged_rows(self.record)

    @property
    def _summary(self) -> list[Row]:
        return self._judged[0]

    @cached_property
    def rows(self) -> "DataFrame":
        """A line for each suite and method, in the columns of `export --format csv`."""
        return frames.rows_frame(self._summary)

    @cached_property
    def samples(self) -> "DataFrame":
        """A line for each suite, sample, method and repeat, in the columns of `export --format samples-csv`."""
        return frames.samples_frame(self.record)

    @cached_property
    def rounds(self) -> "DataFrame":
        """A line for each round of each sample: what was drafted, tested, accepted and emitted, and in what time."""
        return frames.rounds_frame(self.record)

    @property
    def verdict(self) -> Verdict:
        """VALID or INVALID with the reasons, and the warnings."""
        return self._judged[1]

    def report(self, details: bool = False) -> None:
        """Print what `fastvlm-bench report` prints: one screen, or every table."""
        from fastvlm_bench.report.one_screen import print_screen
        from fastvlm_bench.report.terminal import print_report

        (print_report if details else print_screen)(self.record, rows=self._summary, verdict=self.verdict)

    def report_html(self, path: str | Path) -> Path:
        """Write the page of `fastvlm-bench report --html`, and return its path. Needs the extra `html`."""
        from fastvlm_bench.report.html import write_html

        write_html([self.record], Path(path), [self._summary])
        return Path(path)

    def plots(self, folder: str | Path, form: str = "pdf") -> list[Path]:
        """Write the figures of `fastvlm-bench report --plots` with their data, and return the files."""
        from fastvlm_bench.report.plots import write_plots

        return write_plots([self.record], Path(folder), form, [self._summary])

    def __repr__(self) -> str:
        names = ", ".join(suite["name"] for suite in self.record.meta["suites"])
        methods = len(self.record.meta["methods"])
        model = self.record.meta["model"]["id"]
        return f"<run {self.run_id}: {model} on {names}, {methods} methods, {self.verdict.status}>"


@dataclass(frozen=True)
class ComparedRuns:
    """Runs side by side. notes: what differs between them, a sentence each."""

    runs: tuple[LoadedRun, ...]
    found: comparison.Comparison

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.found.forced, *self.found.notes)

    @cached_property
    def rows(self) -> "DataFrame":
        """A line for each run, suite and method: its columns, then those against the first run."""
        return frames.compared_frame(self.found)

    def report_html(self, path: str | Path) -> Path:
        """Write one page of all these runs, and return its path. Needs the extra `html`."""
        from fastvlm_bench.report.html import write_html

        write_html([run.record for run in self.runs], Path(path), [run._summary for run in self.runs])
        return Path(path)


def load_run(folder: str | Path) -> LoadedRun:
    """Read the run in a folder; UsageError or CorruptRecord, in one line, where that fails."""
    return LoadedRun(read_run(Path(folder)))


def compare(runs: Iterable[LoadedRun | str | Path], force: bool = False) -> ComparedRuns:
    """Put runs (or their folders) side by side. IncompatibleRuns if more than the methods differ, unless `force`."""
    own = tuple(run if isinstance(run, LoadedRun) else load_run(run) for run in runs)
    return ComparedRuns(own, comparison.compare([run.record for run in own], force=force))


def run(
    suite: str | Sequence[str] = "coco-caption", model: str = "tiny", methods: str | Sequence[str] = ("fastvlm",),
    *, quiet: bool = False, **options: Any,
) -> LoadedRun:  # fmt: skip
    """Measure, as `fastvlm-bench run` does, and return the run, whose folder is made below `out`.

    methods: as typed after `-m`; `standard` is always the reference. options: the further options of `run`, by their
    names with underscores (limit=20, dtype="bfloat16", out="results"). quiet: no progress on standard error.
    UsageError for bad input. A run with failed samples is returned; KeyboardInterrupt where it was interrupted, after
    what was measured has been kept. The number of torch's threads stays as the run has set it.
    """
    from fastvlm_bench.measuring.benchmark import run_benchmark
    from fastvlm_bench.measuring.signals import INTERRUPTED, TERMINATED, own_signals

    asked: dict[str, Any] = {"suites": suite, "model": model, "methods": methods, **options}
    _check_names(asked)
    made: list[Run] = []
    told = ", ".join(f"{'suite' if name == 'suites' else name}={value!r}" for name, value in asked.items())
    with own_signals():
        code = run_benchmark(RunConfig(**asked), resume=None, csv=None, as_json=False, show=False, quiet=quiet,
                             after=[made.append], command=[f"fastvlm_bench.run({told})"])  # fmt: skip
    if code in (INTERRUPTED, TERMINATED):
        raise KeyboardInterrupt(f"what was measured is kept in {made[0].folder}" if made else "nothing was measured")
    return LoadedRun(made[0])


def _check_names(asked: Mapping[str, Any]) -> None:
    """UsageError for an option that `run` does not have."""
    known = [field.name for field in fields(RunConfig) if field.name not in ("json", "resume")]
    for name in asked:
        if name not in known:
            raise UsageError(f"run has no option '{name}'{did_you_mean(name, known)}; it has {', '.join(known)}")
