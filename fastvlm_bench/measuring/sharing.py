"""What the leader and the other processes of a run do, where torchrun started several: `ranks` has how they meet."""

import contextlib
import io
import platform
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import BenchError, Terminated
from fastvlm_bench.measuring.before_loading import check
from fastvlm_bench.measuring.live import Live
from fastvlm_bench.measuring.measure_suites import measure_suites
from fastvlm_bench.measuring.ranks import Lost, Team, unmeasured
from fastvlm_bench.measuring.signals import code_of, deaf
from fastvlm_bench.method_spec import REFERENCE
from fastvlm_bench.records.rank_files import RankWriter, fold
from fastvlm_bench.records.record import RunWriter
from fastvlm_bench.suites.suite import Suite
from fastvlm_bench.visible import visible


def lead(team: Team, config: RunConfig, suites: Sequence[Suite], writer: RunWriter, live: Live) -> None:
    """Measure the leader's part while the others measure theirs; then all lines are in the run's samples file.

    BenchError where a process failed or is gone; what all of them measured is kept, and what is missing is told.
    """
    live.say(f"{team.world} processes hold the target together, and decode in step" if team.in_step else
             f"{team.world} processes share the samples; this bar is of the first one's")  # fmt: skip
    failure: BenchError | None = None
    reports: list[dict[str, Any]] = []
    with _laid_together(team, config, suites, writer):
        own = team.divide(writer, suites, config)
        try:
            failure = _measured(team, config, suites, own, live)
            if team.agreement:
                try:
                    reports = team.gather(_report(own, failure))
                except Lost as lost:
                    failure = failure or lost
        finally:
            own.close()
    if reports:
        _take_over(writer, reports[1:])
    left = unmeasured(team.parts, suites, writer.completed, config)
    refused = [BenchError(f"rank {report['rank']}: {report['error']}") for report in reports[1:] if report["error"]]
    if left and (failure or refused):
        _tell(left)
    for each in (failure, *refused):
        if each is not None:
            raise each
    if left:
        raise BenchError(f"{'; '.join(left)}; go on with --resume {writer.folder}")


def follow(team: Team, config: RunConfig) -> int:
    """Measure this process's part, and say nothing: the leader tells. Returns the exit code."""
    suites, refused = None, None
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the leader tells its notes, and looks at the images
            suites = check(config, images=False)
    except BenchError as error:
        refused = error
    writer = team.receive()
    if writer is None:
        return 0
    live = Live(Console(stderr=True, quiet=True), REFERENCE)
    try:
        if suites is None:
            with contextlib.suppress(BenchError):
                team.agree(None, error=str(refused))
            return 0
        failure = _measured(team, config, suites, writer, live)
        writer.close()
        if team.agreement:
            team.gather(_report(writer, failure))
    except Lost:
        return BenchError.exit_code
    except (KeyboardInterrupt, Terminated) as stop:
        return code_of(stop)
    finally:
        writer.close()
    return 0


def _measured(
    team: Team, config: RunConfig, suites: Sequence[Suite], writer: RankWriter, live: Live
) -> BenchError | None:
    """Measure this process's part. Returns what ended it early; no process waits for one that failed."""
    try:
        measure_suites(config, suites, writer, live, team=team)
    except BenchError as error:
        if not team.agreed:
            with contextlib.suppress(BenchError):
                team.agree(None, error=str(error))
        return error
    return None


def _report(writer: RankWriter, failure: BenchError | None) -> dict[str, Any]:
    """What a process tells the leader at the end: of its device and its conditions, and what failed."""
    meta = writer.meta
    return {
        "rank": writer.rank, "error": None if failure is None else str(failure), "host": platform.node(),
        "device": (meta.get("model") or {}).get("device"), "conditions": (meta.get("conditions") or [])[-1:],
        "outside": (meta.get("outside") or [])[-1:], "warnings": meta.get("warnings") or [],
    }  # fmt: skip


def _take_over(writer: RunWriter, reports: Sequence[dict[str, Any]]) -> None:
    """Record what the others saw: one entry a process, as of invocations."""
    fields: dict[str, Any] = {name: [*(writer.meta.get(name) or []), *(each for r in reports for each in r[name])]
                              for name in ("conditions", "outside", "warnings")}  # fmt: skip
    notices = {(notice["name"], notice["message"]): notice for notice in fields["warnings"]}
    first = {"rank": 0, "host": platform.node(), "device": (writer.meta.get("model") or {}).get("device")}
    ranks = [first, *({name: report[name] for name in ("rank", "host", "device")} for report in reports)]
    writer.update(**{**fields, "warnings": list(notices.values()), "ranks": ranks})


@contextlib.contextmanager
def _laid_together(team: Team, config: RunConfig, suites: Sequence[Suite], writer: RunWriter) -> Iterator[None]:
    """However it ends, lay the lines of all processes together, and tell whose are missing if it did not end well."""
    try:
        yield
    except BaseException:
        with deaf():
            fold(writer)
            _tell(unmeasured(team.parts, suites, writer.completed, config))
        raise
    with deaf():
        fold(writer)


def _tell(left: Sequence[str]) -> None:
    for text in left:
        print(f"fastvlm-bench: {visible(text)}", file=sys.stderr)
