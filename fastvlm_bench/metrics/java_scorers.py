"""The Java programs that come with pycocoevalcap: Stanford's PTB tokenizer, METEOR and SPICE. Optional, never needed.

They are run directly, not through pycocoevalcap's Python: its wrappers write into site-packages and break under a
locale with a decimal comma, and the one for SPICE downloads 384 MB as soon as it is constructed. Whatever prevents a
score is a UsageError of one line, which tables give as the reason for an empty column.
"""

import contextlib
import importlib.util
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics.ptb_tokenizer import PUNCTUATION

REMEDY = "pip install 'fastvlm-bench[coco-java]'"
OPTIONS = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
"""They fix the locale, because a Java that writes 0,5 for a half could not be read."""
LINE_BREAKS = re.compile("[\n\r\v\f\x85\u2028\u2029]")
LAST = "zzz"
"""An extra line after the captions. Java leaves out lines without a token at the end, so no caption may be the last."""
CORENLP = "stanford-corenlp-3.6.0.jar"
FETCH_SPICE = "python -c 'from pycocoevalcap.spice.get_stanford_models import get_stanford_models as g; g()'"


def extra_folder() -> Path:
    """Where pycocoevalcap is installed; it is not imported. UsageError if it is not there."""
    found = importlib.util.find_spec("pycocoevalcap")
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise UsageError(f"needs pycocoevalcap: {REMEDY}")
    return Path(places[0])


def check() -> str:
    """UsageError unless Java and the programs are there, so that `--java` is refused before anything is measured.

    Returns what is missing for SPICE alone, or "".
    """
    try:
        folder = extra_folder()
        _java(folder / "meteor", "meteor-1.5.jar")
    except UsageError as error:
        raise UsageError(f"--java {error}; or leave --java out") from None
    there = (folder / "spice" / "lib" / CORENLP).is_file()
    return "" if there else f"SPICE will have no value: it needs Stanford CoreNLP 3.6.0 (384 MB): {FETCH_SPICE}"


def _java(folder: Path, jar: str) -> list[str]:
    """The first words of a command that runs one of the programs. UsageError without Java or without the program."""
    java = shutil.which("java")
    if java is None:
        raise UsageError("needs Java (8 to 17), and there is no `java` on the PATH: install a JRE")
    if not (folder / jar).is_file():
        raise UsageError(f"{folder / jar} is missing: reinstall pycocoevalcap")
    return [java, *OPTIONS]


def _failed(program: str, errors: bytes) -> UsageError:
    lines = [line for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    told = next((line for line in lines if "Exception" in line or "Error" in line), lines[0] if lines else "no message")
    return UsageError(f"{program} failed in Java: {told.strip()[:160]}")


def tokenize(captions: Sequence[str]) -> list[str]:
    """Each caption's tokens by Stanford's tokenizer, joined by spaces and without punctuation, as in coco-caption.

    The captions are passed in one file, one per line. Line breaks inside a caption become spaces first, since they
    would move every later caption by a line; lone surrogates become question marks, since Java cannot read them.
    UsageError where Java or a program is missing or fails.
    """
    folder = extra_folder() / "tokenizer"
    jar = "stanford-corenlp-3.4.1.jar"
    command = [*_java(folder, jar), "-cp", str(folder / jar), "edu.stanford.nlp.process.PTBTokenizer",
               "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "captions.txt"
        lined = [*(LINE_BREAKS.sub(" ", text) for text in captions), LAST]
        path.write_bytes("\n".join(lined).encode("utf-8", "replace"))
        done = subprocess.run([*command, str(path)], capture_output=True, check=False)
    if done.returncode:
        raise _failed("the PTB tokenizer", done.stderr)
    lines = done.stdout.decode("utf-8").split("\n")
    lines = lines[:-1] if lines and not lines[-1] else lines
    if len(lines) != len(captions) + 1 or lines.pop().rstrip() != LAST:
        raise UsageError(f"the PTB tokenizer gave {len(lines)} lines for {len(captions) + 1}")
    return [" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATION) for line in lines]


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """METEOR 1.5 of tokenised texts: the value of the whole set, from pooled statistics, and one per sample."""
    folder = extra_folder() / "meteor"
    command = [*_java(folder, "meteor-1.5.jar"), "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en",
               "-norm"]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    asked, answered, errors = process.stdin, process.stdout, process.stderr
    assert asked is not None and answered is not None and errors is not None
    try:
        statistics = []
        for prediction, texts in zip(predictions, references, strict=True):
            own = prediction.replace("|||", "").replace("  ", " ")
            asked.write(" ||| ".join(["SCORE", *texts, own]).encode("utf-8", "replace") + b"\n")
            asked.flush()
            statistics.append(answered.readline().decode().strip())
        asked.write(" ||| ".join(["EVAL", *statistics]).encode() + b"\n")
        asked.flush()
        values = [float(answered.readline()) for _ in range(len(statistics) + 1)]
    except (OSError, ValueError):
        process.kill()
        raise _failed("METEOR", errors.read()) from None
    finally:
        process.kill()
        for stream in (asked, answered, errors):
            with contextlib.suppress(OSError):  # closing flushes input that a dead process cannot take
                stream.close()
        process.wait()
    return values[-1], values[:-1]


def spice(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """SPICE 1.0 of tokenised texts: F1 of scene-graph tuples, the mean over the samples, and one value per sample.

    The official score of a sample without any tuple is NaN, which makes the mean NaN. Here it is a UsageError, so that
    such a run has no SPICE.
    """
    folder = extra_folder() / "spice"
    command = [*_java(folder, "spice-1.0.jar"), "-Xmx8G", "-jar", "spice-1.0.jar"]
    if not (folder / "lib" / CORENLP).is_file():
        raise UsageError(f"needs Stanford CoreNLP 3.6.0 (a download of 384 MB, not made unasked): {FETCH_SPICE}")
    rows = [{"image_id": index, "test": text, "refs": list(texts)}
            for index, (text, texts) in enumerate(zip(predictions, references, strict=True))]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        asked, answered = Path(place) / "in.json", Path(place) / "out.json"
        asked.write_text(json.dumps(rows), encoding="ascii")
        arguments = [str(asked), "-out", str(answered), "-subset", "-silent"]
        done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, check=False)
        if done.returncode or not answered.is_file():
            raise _failed("SPICE", done.stderr)
        found = {row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(answered.read_bytes())}
    values = [float(found[index]) if found.get(index) is not None else math.nan for index in range(len(rows))]
    if empty := sum(map(math.isnan, values)):
        raise UsageError(f"SPICE found nothing to compare in {empty} of {len(values)} samples")
    return sum(values) / len(values), values
