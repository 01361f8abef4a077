"""MMMU's parquet files: the questions with exactly one image, because a prompt here holds one image.

References of a multiple-choice question are the right letter, then all options; of an open one its answers.
"""

import ast
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Document, Entry, unique
from fastvlm_bench.suites.readers import LETTERS, Source, lettered

NEEDS = ("annotations",)
LAYOUT = "MMMU's layout is a table of id, question, options (a Python list as text), image_1 … image_7, answer"
LETTER = "Answer with the option's letter from the given choices directly."
PHRASE = "Answer the question using a single word or phrase."


def read(source: Source) -> list[Entry]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError("suite 'mmmu' lies in parquet files, which need pyarrow: "
                         "pip install 'fastvlm-bench[parquet]'") from None  # fmt: skip
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for path in source.files["annotations"]:
        source.raw(path)  # for the hash
        try:
            rows = parquet.read_table(path).to_pylist()
        except Exception as error:
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"{path}: not readable parquet ({problem}); download the official file again") from None
        entries += entries_of(Document(path, None, LAYOUT), rows, Path(source.settings["cache"]), places)
    if not entries:
        raise UsageError(f"{source.files['annotations'][0]}: no question with exactly one image; {LAYOUT}")
    return entries


def entries_of(document: Document, rows: Iterable[Any], cache: Path, places: dict[str, str]) -> list[Entry]:
    """The entries of one file's rows. Their images are written to `cache`, named by the hash of their content.

    places: id -> place of all ids seen so far, in this file and the earlier ones; it is added to.
    """
    entries = []
    for index, row in enumerate(rows):
        place = f"row {index}"
        sample_id = document.identity(row, "id", place)
        unique(document, places, sample_id, f"{document.path.name} {place}", "id")
        images = [image for number in range(1, 8) if (image := row.get(f"image_{number}")) is not None]
        if len(images) != 1:
            continue
        options = _literal(document, document.get(row, "options", str, place), f"{place}.options")
        question, answer = document.text(row, "question", place), document.text(row, "answer", place)
        if options:
            right = LETTERS.find(answer) if len(answer) == 1 else -1
            if not 0 <= right < len(options):
                raise document.fault(f"{place}.answer", f"is {answer!r}, but there are {len(options)} options")
            references, question = (answer, *lettered(options)), "\n".join([question, *lettered(options)])
        else:
            several = answer.startswith("[")
            references = tuple(_literal(document, answer, f"{place}.answer")) if several else (answer,)
        name = _kept(document.get(images[0], "bytes", bytes, f"{place}.image_1"), cache)
        fields = {"instruction": LETTER if options else PHRASE}
        entries.append(Entry(sample_id, sample_id, name, references, place, question, fields))
    return entries


def _literal(document: Document, text: str, place: str) -> list[str]:
    """A list of texts in Python's notation. JSON would refuse its single quotes, and `eval` would run what it holds."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise document.fault(place, f"is {text[:40]!r}, not a Python list of texts")
    return found


def _kept(content: bytes, cache: Path) -> str:
    name = f"{hashlib.sha256(content).hexdigest()}.png"
    if not (cache / name).is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            part = cache / f"{name}.{os.getpid()}"
            part.write_bytes(content)
            part.replace(cache / name)
        except OSError as error:
            raise UsageError(f"cannot unpack images to {cache}: {error.strerror}; set XDG_CACHE_HOME") from None
    return name
