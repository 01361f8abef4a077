"""The application: its commands in the order of its help, the options before any command, and the console script."""

import signal
import sys
from typing import Annotated

import typer

from fastvlm_bench import __version__
from fastvlm_bench.cli import about, results
from fastvlm_bench.cli.acceptance import acceptance
from fastvlm_bench.cli.help import HELP, Command, Group
from fastvlm_bench.cli.predict import predict
from fastvlm_bench.cli.run import run
from fastvlm_bench.cli.skip_search import skip_search
from fastvlm_bench.cli.streams import make_patient
from fastvlm_bench.cli.suites import suites_app
from fastvlm_bench.cli.sweep import sweep, tune
from fastvlm_bench.cli.train import ablate, train
from fastvlm_bench.cli.utilisation import utilisation
from fastvlm_bench.errors import Terminated, WriteFailed

PROGRAM = "fastvlm-bench"
"""Its name however it was started: as the console script, or as `python -m fastvlm_bench`."""
MEASURE, READ, LOOK_UP = "Train and measure", "Read results", "Look up"

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(HELP)},
    help="Benchmarks FastVLM's self-speculative decoding (arXiv 2510.22641; not Apple's FastVLM) against standard "
    "decoding of the same vision-language model: speed, acceptance, memory and quality on the same samples.",
)

for panel, commands in (
    (MEASURE, (run, sweep, tune, acceptance, utilisation, train, skip_search, ablate)),
    (
        READ,
        (
            results.compare,
            results.report,
            results.show,
            results.batches,
            results.export,
            results.score,
            results.verify_metrics,
            results.audit,
        ),
    ),
    (LOOK_UP, (predict, about.methods, about.metrics, about.models, about.doctor)),
):
    for command in commands:
        app.command(cls=Command, rich_help_panel=panel)(command)
app.add_typer(suites_app, name="suites", rich_help_panel=LOOK_UP)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def main() -> None:
    """The console script."""
    output = make_patient()
    try:
        app(prog_name=PROGRAM)
    except SystemExit as ended:
        output.flush()
        if not ended.code and (refused := output.refused):
            typer.echo(f"fastvlm-bench: cannot write the standard output: {refused.strerror}; free space, or send it "
                       "elsewhere", err=True)  # fmt: skip
            raise SystemExit(WriteFailed.exit_code) from None
        raise
    except Terminated:  # after the run itself has ended
        sys.exit(128 + signal.SIGTERM)
    finally:
        # The exit code is known. A signal while the interpreter shuts down would replace it by that of a killed process.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
