"""`run --invocations N`: measures everything in N processes, because memory layout, caches and threads differ in each.

The parent loads no model. It starts one process after the other on the same run folder; each measures all samples and
repeats. Then the parent judges and reports. Such a process is
`python -m fastvlm_bench.measuring.invocation FOLDER NUMBER [--quiet] [--show]`.
"""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_bench.errors import BenchError, Terminated
from fastvlm_bench.measuring.signals import catch_signals, code_of, deaf

if TYPE_CHECKING:
    from fastvlm_bench.config import RunConfig
    from fastvlm_bench.records.record import RunWriter


def invoke(folder: Path, number: int, quiet: bool, answers: bool = False) -> int:
    """Run one invocation and wait for it. Returns its exit code. A signal that stops the parent stops it, too."""
    command = [sys.executable, "-m", "fastvlm_bench.measuring.invocation", str(folder), str(number)]
    child = subprocess.Popen([*command, *(["--quiet"] if quiet else []), *(["--show"] if answers else [])])
    try:
        return child.wait()
    except (KeyboardInterrupt, Terminated) as stop:  # on Ctrl-C the child has got the signal, too
        with deaf():
            child.terminate()
            child.wait()
        return code_of(stop)


def invoke_all(
    writer: "RunWriter", config: "RunConfig", quiet: bool, answers: bool = False
) -> tuple["RunWriter", int]:  # fmt: skip
    """Run the invocations until one fails. Those that a resumed run has already measured end at once.

    Returns the folder's writer, which is opened again, and the exit code of the last invocation.
    """
    from fastvlm_bench.records.record import RunWriter

    folder, code = writer.folder, 0
    writer.close()
    for number in range(config.invocations):
        code = invoke(folder, number, quiet, answers)
        if code:
            break
    return RunWriter.resume(folder, config.sha256()), code


def main(folder: Path, number: int, quiet: bool, answers: bool = False) -> int:
    """Measure what is missing of invocation `number` of the run in `folder`. Returns the exit code."""
    from rich.console import Console

    from fastvlm_bench.config import RunConfig
    from fastvlm_bench.measuring.before_loading import check
    from fastvlm_bench.measuring.live import Live
    from fastvlm_bench.measuring.measure_suites import measure_suites
    from fastvlm_bench.method_spec import REFERENCE
    from fastvlm_bench.records.record import RunWriter, read_meta

    config = RunConfig.from_dict(read_meta(folder)["config"])
    suites = check(config, images=False)  # the parent has decoded them
    writer = RunWriter.resume(folder, config.sha256(), config.measured())
    catch_signals()
    try:
        own = range(number * config.repeats, (number + 1) * config.repeats)
        samples = [(suite.name, sample.sample_id) for suite in suites for sample in suite.samples]
        wanted = {(*sample, repeat) for sample in samples for repeat in own}
        if not wanted <= writer.completed:
            live = Live(Console(stderr=True, quiet=quiet), REFERENCE, answers)
            live.say(f"invocation {number + 1} of {config.invocations}")
            measure_suites(config, suites, writer, live, number)
    except (KeyboardInterrupt, Terminated) as stop:
        return code_of(stop)
    finally:
        writer.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), "--quiet" in sys.argv, "--show" in sys.argv))
    except BenchError as error:
        print(f"fastvlm-bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
