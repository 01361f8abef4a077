"""`run`, from configuration to exit code: check, load, build, warm up, measure, record, judge, report."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fastvlm_bench.analysis import floors
from fastvlm_bench.analysis.best_cell import is_sweep
from fastvlm_bench.analysis.verdict import judge, judged_rows, require_valid
from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import (
    FAILED_SAMPLES,
    BenchError,
    DeviceLost,
    LosslessViolation,
    Terminated,
    UsageError,
    WriteFailed,
)
from fastvlm_bench.measuring import williams
from fastvlm_bench.measuring.before_loading import check, check_same_data, described_shard, described_suite
from fastvlm_bench.measuring.ending import SUMMARY, end_run
from fastvlm_bench.measuring.invocation import invoke_all
from fastvlm_bench.measuring.live import Live
from fastvlm_bench.measuring.measure_suites import measure_suites
from fastvlm_bench.measuring.ranks import Team, check_alone, check_several, join, leave, several
from fastvlm_bench.measuring.sharing import follow, lead
from fastvlm_bench.measuring.signals import INTERRUPTED, TERMINATED, catch_signals, code_of, deaf
from fastvlm_bench.method_spec import METHODS, REFERENCE
from fastvlm_bench.records.rank_files import fold
from fastvlm_bench.records.record import Run, RunWriter, read_meta, read_run
from fastvlm_bench.records.run_folders import new_folder_name
from fastvlm_bench.records.storage import BOTH_PRINTED, STANDARD_OUTPUT, check_target_file, is_special, now
from fastvlm_bench.report.export import rows_csv, run_json, run_markdown, save
from fastvlm_bench.report.one_screen import print_screen
from fastvlm_bench.report.sample_export import sample_lines
from fastvlm_bench.report.sweep import sweep_csv
from fastvlm_bench.report.terminal import print_report
from fastvlm_bench.scoring.score import write_predictions
from fastvlm_bench.suites.suite import Suite
from fastvlm_bench.visible import note


def run_benchmark(
    config: RunConfig, *, resume: Path | None, csv: Path | None, predictions: Path | None = None, as_json: bool,
    show: bool = True, quiet: bool = False, details: bool = False, answers: bool = False,
    after: Sequence[Callable[[Run], None]] = (), command: Sequence[str] = (), sweep: Mapping[str, Any] | None = None,
) -> int:  # fmt: skip
    """`_run`, in one process or in several that share the samples: then only the leader prints."""
    given: dict[str, Any] = dict(
        resume=resume, csv=csv, predictions=predictions, as_json=as_json, show=show, quiet=quiet, details=details,
        answers=answers, after=after, command=command, sweep=sweep,
    )  # fmt: skip
    if not several():
        check_alone(config)
        return _run(config, None, **given)
    check_several(config, **{"a sweep": sweep is not None})
    team = join(config)
    try:
        return _run(config, team, **given) if team.leads else follow(team, config)
    finally:
        team.release()
        leave()


def _run(
    config: RunConfig, team: Team | None, *, resume: Path | None, csv: Path | None, predictions: Path | None,
    as_json: bool, show: bool, quiet: bool, details: bool, answers: bool, after: Sequence[Callable[[Run], None]],
    command: Sequence[str], sweep: Mapping[str, Any] | None,
) -> int:  # fmt: skip
    """Run what `config` says and, if `show`, print the report. Returns the exit code.

    resume: the folder of a run to go on with. csv, predictions: files to write. quiet: no progress, which otherwise
    goes to standard error. details: print every table, not one screen. answers: print each answer token by token as
    soon as it is measured, to standard error. after: what is called with the recorded run, whether or not it ended
    well. command: how the run was asked for, to be recorded; () is the command line. sweep: the grid whose cells the
    methods are, to be recorded. Every line that was measured is kept, also where the run is interrupted or raises a
    BenchError.
    """
    for path, option in ((csv, "--csv"), (predictions, "--predictions-out")):
        if path is not None:
            check_target_file(path, option)
    if predictions is not None and (predictions == STANDARD_OUTPUT or is_special(predictions)):
        raise UsageError(f"--predictions-out {predictions} names the beginning of several files; name one in a folder")
    if csv == STANDARD_OUTPUT and as_json:
        raise UsageError(BOTH_PRINTED)
    if answers and (as_json or quiet):
        raise UsageError(f"--show prints answers among the progress, which {'--json' if as_json else '--quiet'} leaves "
                         "out; leave one of them out, or use the command show afterwards")  # fmt: skip
    if details and as_json:
        raise UsageError("--details prints every table, and --json prints none; leave one of them out")
    suites = check(config, images=resume is None)  # of a resumed run their digest says that they are as they were
    for oddity in (text for suite in suites for text in suite.oddities):
        note(oddity)
    if resume and config.refine:
        raise UsageError("--resume cannot go on with --refine: what the drafts had learned is not in the records; "
                         "start a new run")  # fmt: skip
    if resume:
        check_same_data(read_meta(resume), suites, config)
    tell = _Telling(config, csv, predictions, as_json, show, details, after)
    if resume and (done := finished(resume, config)) is not None:
        print(f"fastvlm-bench: note: {resume} is finished: nothing is left to measure", file=sys.stderr)
        tell.results(done)
        return tell.code(done, "success", 0)
    catch_signals()
    writer, outcome, code, failure = None, "success", 0, None
    try:
        writer = RunWriter.resume(resume, config.sha256(), config.measured()) if resume else None
        if writer is not None and (left := fold(writer)):
            note(f"{left} lines that processes of this run had left are kept")
        live = Live(Console(stderr=True, quiet=as_json or quiet), REFERENCE, answers, swept=sweep is not None)
        writer = writer or _create(config, suites, command, sweep)
        if config.invocations > 1:
            writer, code = invoke_all(writer, config, as_json or quiet, answers)
            if code in (INTERRUPTED, TERMINATED):
                outcome = "interrupted"
            elif code:
                raise BenchError("an invocation failed, as said above; what was measured is kept")
        elif team is not None:
            lead(team, config, suites, writer, live)
        else:
            measure_suites(config, suites, writer, live)
    except (KeyboardInterrupt, Terminated) as stop:
        outcome, code = "interrupted", code_of(stop)
    except BenchError as error:
        outcome, code, failure = "error", error.exit_code, error
        if writer is None:
            raise
    except BaseException:
        if writer is not None and not writer.discard():
            writer.finish("error", error="internal error")
        raise
    if writer is None or (outcome != "success" and not resume and writer.discard()):  # nothing to keep
        if failure is not None:
            raise failure
        return code
    try:
        run, failure = _ended(writer, outcome, failure, suites)
        if run.lines:
            tell.results(run)
    except (KeyboardInterrupt, Terminated) as stop:  # while it scores, or reports
        with deaf():
            writer.finish_unjudged()
            _how_to_go_on("interrupted", writer.folder)
        return code_of(stop)
    if outcome == "interrupted" or isinstance(failure, WriteFailed):
        _how_to_go_on("interrupted" if failure is None else "stopped", run.folder, run)
    if isinstance(failure, DeviceLost) and show:  # a sweep, which does not show, says itself how to go on
        print(f"fastvlm-bench: go on after that sample with --resume {run.folder}", file=sys.stderr)
    if failure is not None:
        raise failure
    return tell.code(run, outcome, code)


@dataclass(frozen=True)
class _Telling:
    """What is said and written of a run that has ended, and the exit code that its results ask for."""

    config: RunConfig
    csv: Path | None
    predictions: Path | None
    as_json: bool
    show: bool
    details: bool
    after: Sequence[Callable[[Run], None]]

    def results(self, run: Run) -> None:
        if self.show:
            show_results(run, self.csv, self.as_json, self.details)
        if self.predictions is not None:
            write_predictions(run, self.predictions)
        for each in self.after:
            each(run)

    def code(self, run: Run, outcome: str, code: int) -> int:
        """The exit code; a BenchError where the run misses what was required of it."""
        config = self.config
        foreign = {spec.label for spec in config.specs if METHODS[spec.name].foreign}
        failed = sum(line["error"] is not None and line["method"] not in foreign for line in run.lines)
        if failed:  # said before anything that is required ends the run with a line of its own
            print(f"fastvlm-bench: {failed} measurements failed, see the table and {run.folder / 'samples.jsonl'}",
                  file=sys.stderr)  # fmt: skip
        if config.require_lossless:
            require_lossless(run)
        if config.require_valid and outcome == "success":
            require_valid([(run, judge(run))])
        if outcome == "success":
            floors.require([run], config.floors)
        return code or (FAILED_SAMPLES if failed else 0)


def finished(folder: Path, config: RunConfig) -> Run | None:
    """The run in a folder where nothing of it is left to measure: to open it again could only harm it. Else None."""
    meta = read_meta(folder)
    if meta["status"] != "success" or meta.get("config_sha256") != config.sha256():
        return None
    run = read_run(folder)
    there = {(line["suite"], line["sample_id"], line["method"], line["repeat"]) for line in run.lines}
    wanted = {(suite["name"], sample["sample_id"], method["label"], repeat)
              for suite in meta["suites"] if suite["name"] not in (meta.get("stopped") or {})
              for sample in suite["samples"] for method in meta["methods"]
              for repeat in range(config.repeats * config.invocations)}  # fmt: skip
    if not wanted <= there:
        return None
    if not (folder / SUMMARY).exists():
        save(folder / SUMMARY, run_markdown(run))
    return run


def _ended(
    writer: RunWriter, outcome: str, failure: BenchError | None, suites: Sequence[Suite]
) -> tuple[Run, BenchError | None]:  # fmt: skip
    """The run as it was finished. Where the disk takes no more, the run as it is, and the first failure."""
    try:
        documents = {suite.name: suite.documents for suite in suites if suite.documents}
        return end_run(writer, outcome, None if failure is None else str(failure), documents), failure
    except WriteFailed as full:
        writer.close()
        try:
            return read_run(writer.folder), failure or full
        except BenchError:  # nothing can be read there, either
            raise failure or full from None


def _how_to_go_on(what: str, folder: Path, run: Run | None = None) -> None:
    lines = [] if run is None else run.lines
    done = len({(line["suite"], line["sample_id"], line["repeat"]) for line in lines})
    kept = "what was measured is kept" if run is None else f"{done} samples are kept"
    print(f"fastvlm-bench: {what}; {kept}; go on with --resume {folder}", file=sys.stderr)


def require_lossless(run: Run) -> None:
    """LosslessViolation if any output is a violation, is unsteady or could not be judged. It names the first one."""
    bad = [line for line in run.lines
           if (line.get("losslessness") or {}).get("outcome") in ("violation", "unsteady", "unchecked")]  # fmt: skip
    if bad:
        first, found = bad[0], bad[0]["losslessness"]
        where = f"token {found['index']}, gap {found['gap']}" if "index" in found else found["reason"]
        raise LosslessViolation(
            f"{len(bad)} outputs are not lossless; the first: {first['method']} on sample {first['sample_id']} of "
            f"{first['suite']} ({found['outcome']}: {where}); everything is kept in {run.folder}"
        )


def _create(
    config: RunConfig, suites: Sequence[Suite], command: Sequence[str], sweep: Mapping[str, Any] | None
) -> RunWriter:
    """Make the run's folder and record what is known before the model is loaded."""
    names = "+".join(suite.name for suite in suites)
    run_id = new_folder_name(config.model, names, *(["sweep"] if sweep is not None else []))
    return RunWriter.create(Path(config.out) / run_id, {
        "run_id": run_id, "status": "started", "command": list(command) or ["fastvlm-bench", *sys.argv[1:]],
        "config": config.to_dict(),
        "config_sha256": config.sha256(), "suites": [described_suite(suite, config) for suite in suites],
        "model": {"id": config.model}, "methods": [{"label": spec.label} for spec in config.specs],
        "reference": REFERENCE, "order": williams.NAME, "environment": {}, "started_at": now(), "completed_at": None,
        "totals": {}, "warnings": [], "verdict": None, "error": None, **described_shard(config),
        **({"sweep": dict(sweep)} if sweep is not None else {}),
    })  # fmt: skip


def show_results(run: Run, csv: Path | None, as_json: bool, details: bool) -> None:
    """Print a run that has ended, and write its table where `csv` says."""
    rows, _ = judged_rows(run)
    if as_json:
        print(run_json(run, rows))
    elif csv == STANDARD_OUTPUT:
        pass
    elif details:
        print_report(run, rows=rows)
        print(f"\nrecords: {run.folder}")
    else:
        print_screen(run, rows=rows)
    if csv is not None:
        save(csv, sweep_csv(run, rows) if is_sweep(run) else rows_csv(rows))
        if csv != STANDARD_OUTPUT and not is_special(csv):
            save(csv.with_name(f"{csv.stem}-samples.csv"), sample_lines([run]))
