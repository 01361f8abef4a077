"""Why a checkpoint cannot be loaded and what would work, in one line, of whatever error another library raised."""

import importlib.util
import re
from collections.abc import Iterator

import transformers

MOST = 200
"""Characters of an unforeseen message."""
NAMED = (
    r"[Mm]issing optional dependencies: ([\w, -]+)",
    r"No module named '([\w.]+)'",
    r"not found in your environment: ([\w, .-]+?)\. ",
    r"requires the ([\w-]+) library but it was not found",
    r"pip install (?:-[-\w]+ )*['\"]?([\w-]+)",
)
"""How libraries say which packages they lack."""
INSTALLED_AS = {"cv2": "opencv-python", "PIL": "pillow", "flash_attn": "flash-attn", "pytorch": "torch"}


def reason(error: BaseException, reading: str, here: bool, forbidden: str | None) -> str:
    """A known cause with its remedy, else the error's first line.

    reading: what of the checkpoint was being read. here: it is a folder of the user. forbidden: what forbids asking the
    hub, as the user wrote it.
    """
    text = str(error)
    if "trust_remote_code" in text:
        return "it needs Python code of its own; read that code, then allow it with --trust-remote-code"
    if match := re.search(r"model type `?([\w.-]+)`? but Transformers does not recognize", text):
        return (
            f"transformers {transformers.__version__} has no model type '{match[1]}': take a checkpoint of a type "
            "that it has, or a newer transformers if that has it"
        )
    if packages := lacking(error):
        names = " ".join(packages)
        build = ", in the build for your torch" if "torchvision" in packages else ""
        return f"it needs the package{'s' * (len(packages) > 1)} {', '.join(packages)}{build}: pip install {names}"
    if match := re.search(r"Unrecognized configuration class <class '[\w.]*?(\w+)'>", text):
        return f"transformers has no image-and-text model for {match[1]}; choose a checkpoint that reads images"
    first = _first(text) or type(error).__name__
    if here and not isinstance(error, OSError):
        return f"{reading} cannot be used ({type(error).__name__}: {first}); take its files again from where they came"
    return (
        f"{first}; " + (f"leave out {forbidden}, or " if forbidden else "") + "check the id, the folder and the network"
    )


def lacking(error: BaseException) -> list[str]:
    """The packages, as pip knows them, that an error or one that led to it says are missing, and that are missing."""
    found: list[str] = []
    for each in _led_to(error):
        for pattern in NAMED:
            for match in re.finditer(pattern, str(each)):
                for name in re.split(r"[, ]+", match[1]):
                    found.append(name.partition(".")[0])
    named = [name if importlib.util.find_spec(name) is None else "" for name in map(_module, found) if name]
    return list(dict.fromkeys(INSTALLED_AS.get(name, name).replace("_", "-") for name in named if name))


def _module(name: str) -> str:
    """The module's name of a library that a message names in words: Torchvision is torchvision."""
    return name.lower().replace("-", "_") if name not in INSTALLED_AS else name


def _led_to(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _first(text: str) -> str:
    """The first line, or two where the first only announces; without what points to a report that was not printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in (re.sub(r"[^.!;]*above report[^.!;]*[.!;]?", "", line).strip() for line in lines) if line]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:MOST] if lines else ""
