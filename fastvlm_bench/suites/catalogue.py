"""Which suites there are: those that come with the tool, those of the user's folder, and files named by their path."""

import os
from pathlib import Path

from fastvlm_bench.errors import UsageError, did_you_mean

SUITES_VARIABLE = "FASTVLM_BENCH_SUITES"
_BY_PATH: dict[str, Path] = {}
"""The suites that this process was given by the path of their file."""


def suites_folder() -> Path:
    """Where the suites that come with the tool lie: in the installed package, else in the checkout."""
    package = Path(__file__).parents[1]
    # An installed package is asked first: a folder named `suites` beside it belongs to someone else.
    return package / "_suites" if (package / "_suites").is_dir() else package.parent / "suites"


def suite_names() -> list[str]:
    """The names of all suites, sorted. UsageError if the folder of the user's own holds none."""
    return sorted(suite_files())


def known_suite(text: str) -> str:
    """The name of the suite that a user means: by its name, or by the path of its file, which is known from then on.

    UsageError, with the names of all suites, where there is none.
    """
    if text.endswith(".toml"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise UsageError(f"suite file {text} does not exist; give a file, or a name that `suites` lists")
        _BY_PATH[path.stem] = path
        return path.stem
    if text not in (names := suite_names()):
        raise UsageError(f"unknown suite '{text}': one of {', '.join(names)}, or the path of a file of your own, "
                         f"NAME.toml{did_you_mean(text, names)}")  # fmt: skip
    return text


def suite_files() -> dict[str, Path]:
    """Name -> file: those that come with the tool, those of the user's folder, and those that were named by a path.

    A later one takes the place of one of the same name.
    """
    found = {path.stem: path for path in suites_folder().glob("*.toml")}
    if override := os.environ.get(SUITES_VARIABLE):
        folder = Path(override).expanduser()
        own = {path.stem: path for path in folder.glob("*.toml")}
        if not own:
            raise UsageError(f"no suite files (*.toml) in {folder}; correct {SUITES_VARIABLE} or unset it")
        found |= own
    return found | _BY_PATH
