"""The errors that a user can cause or must know of. A BenchError carries the exit code of the command line.

Exit codes: 0 success, 1 internal error, 2 bad input, 3 a file could not be written, 4 runs that cannot be compared,
5 output not lossless where that was required, or a metric that differs from the official scorer's, 6 corrupt record,
7 finished with failed samples, 8 INVALID where VALID was required, or a bound missed,
130 interrupted (Ctrl-C), 143 terminated.
"""

import difflib
from collections.abc import Iterable

FAILED_SAMPLES = 7
"""The exit code of a run that went to its end although samples failed: the rest is measured and reported."""


class BenchError(Exception):
    """An error with a one-line message that names the culprit, the allowed values and the remedy."""

    exit_code = 1


class UsageError(BenchError):
    """Bad input: an option, a file, a data set or a draft that does not fit."""

    exit_code = 2


class WriteFailed(BenchError):
    """A file could not be written although its folder was there: a full disk, a broken one, a quota."""

    exit_code = 3


class DeviceLost(BenchError):
    """The device failed, for example by a device-side assert: this process can compute nothing more on it."""


class IncompatibleRuns(BenchError):
    """`compare` was given runs whose numbers must not stand side by side."""

    exit_code = 4


class LosslessViolation(BenchError):
    """A lossless method produced a token that the target would not have chosen."""

    exit_code = 5


class MetricMismatch(BenchError):
    """A score of this tool differs from the official scorer's."""

    exit_code = 5


class CorruptRecord(BenchError):
    """A stored record was changed or damaged after it was written."""

    exit_code = 6


class InvalidRun(BenchError):
    """A run is INVALID where `--require-valid` asked for VALID. Its records are kept and its report was printed."""

    exit_code = 8


class FloorMissed(BenchError):
    """A method misses a bound that `run` was asked to keep. The records are kept and the report was printed."""

    exit_code = 8


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The hint to append to an error message: "; did you mean 'x'?", or "" when nothing is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


class Terminated(BaseException):
    """SIGTERM arrived: end as on Ctrl-C, with another exit code."""


class TooLong(ValueError):
    """The prompt and the token limit need more positions than the model has. The sample has failed, not the run."""


class LoopFailed(RuntimeError):
    """A loop of transformers raised an error, which is recorded for its sample; the other methods go on."""


class NonFiniteLogits(FloatingPointError):
    """The model gave NaN or infinite logits. An argmax would silently return the index of one of them as a token.

    Not a BenchError: only the sample has failed, and the run goes on.
    """


class Absent(Exception):
    """This machine does not have what a probe looked for. The message says why; it is recorded as the reason."""
