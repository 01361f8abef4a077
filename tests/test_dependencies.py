"""What is imported is declared, what is declared is pinned, and every extra that a message or a page names exists."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from parsed import tree

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PACKAGES_OF = {"PIL": "pillow", "pynvml": "nvidia-ml-py", "huggingface_hub": "huggingface-hub", "yaml": "pyyaml",
               "mlflow": "mlflow-skinny"}  # fmt: skip
"""Modules that are not called as their package."""
NAMED = (
    re.compile(r"(?:fastvlm-bench|(?<=['\" ])\.)\[([a-z][\w, -]*)\]"),  # pip install 'fastvlm-bench[plots]', '.[dev]'
    re.compile(r"\b(?:the|an) +extra +`?([a-z][\w-]*)`?"),  # needs Java and the extra coco-java
    re.compile(r"\bextra +`([\w-]+)`"),
)
"""How an extra is named. Any other wording of one is found by `test_no_extra_is_named_otherwise`."""
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "results" / "README.md", ROOT / "Makefile",
         ROOT / "Dockerfile", ROOT / ".ci" / "run"]  # fmt: skip
SOURCES = sorted((ROOT / "fastvlm_bench").rglob("*.py"))


@cache
def strings(path: Path) -> tuple[str, ...]:
    return tuple(said(tree(path)))


def said(source: ast.Module) -> Iterator[str]:
    """All that a source file says to anyone: its messages, help texts and docstrings, joined where they are split."""
    for node in ast.walk(source):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else " " for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def told() -> Iterator[tuple[Path, str]]:
    """What may name an extra: looking closely at every other text takes seconds."""
    for path in SOURCES:
        yield from ((path, text) for text in strings(path) if "[" in text or "extra" in text)
    for path in PAGES:
        yield path, path.read_text(encoding="utf-8")


def named_extras(text: str) -> set[str]:
    if not any(mark in text for mark in ("fastvlm-bench[", ".[", "extra")):
        return set()  # none of the patterns can be in it, and to look for them takes long
    joined = " ".join(text.split())
    found = (match for pattern in NAMED for match in pattern.findall(joined))
    return {name.strip() for match in found for name in match.split(",")}


def test_every_extra_that_is_named_exists() -> None:
    found = {(path.name, name) for path, text in told() for name in named_extras(text)}
    assert [(place, name) for place, name in sorted(found) if name not in EXTRAS] == []
    assert {"plots", "coco-java", "lora", "parquet", "dev"} <= {name for _, name in found}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("needs matplotlib: pip install 'fastvlm-bench[card]'", {"card"}),
        ("-e '.[dev,plots]'", {"dev", "plots"}),
        ("needs Java and the extra\n coco-java.", {"coco-java"}),
        ("needs matplotlib (extra `card`)", {"card"}),
        ("Missing, extra and duplicate ids; without the extra, nothing", set()),
        (r"entries[0], rows[i, j], -?[0-9]*\.[0-9]+", set()),
    ],
)
def test_extras_are_found_in_text(text: str, names: set[str]) -> None:
    assert named_extras(text) == names


def test_no_extra_is_named_otherwise() -> None:
    """`[name]` of an extra that the patterns miss would go unchecked: each stands behind the name of the package."""
    for path, text in told():
        for match in re.finditer(r"\S*\[(" + "|".join(EXTRAS) + r")\]", text):
            assert named_extras(match[0]), f"{path}: {match[0]}"


def imported(paths: list[Path]) -> dict[str, Path]:
    """Top-level modules that are imported from outside the standard library and the package."""
    found: dict[str, Path] = {}
    for path in paths:
        for node in ast.walk(tree(path)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.split(".")[0]: path for name in names}
    return {name: path for name, path in found.items() if name not in {*sys.stdlib_module_names, "fastvlm_bench"}}


def declared(*extras: str) -> set[str]:
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    return {canonicalize_name(Requirement(text).name) for text in texts}


def test_what_is_imported_is_declared() -> None:
    modules = imported(SOURCES)
    everything = declared(*(name for name in EXTRAS if name not in ("test", "dev")))
    missing = {name: path for name, path in modules.items() if canonicalize_name(PACKAGES_OF.get(name, name)) not in
               everything}  # fmt: skip
    assert not missing


def test_what_is_a_dependency_is_imported() -> None:
    used = {canonicalize_name(PACKAGES_OF.get(name, name)) for name in imported(SOURCES)}
    assert declared() - used == set()


def test_what_the_tests_import_is_declared() -> None:
    """But for the scripts that made fixtures from other packages: the tests read what they wrote."""
    own = {path.stem for path in (ROOT / "tests").iterdir()}
    modules = imported(sorted(p for p in (ROOT / "tests").rglob("*.py") if "fixtures" not in p.parts))
    needed = {canonicalize_name(PACKAGES_OF.get(name, name)) for name in modules if name not in own}
    assert needed <= declared(*EXTRAS)


def installed() -> list[str]:
    """What the commands of the Makefile and of .ci/run install, own extras taken apart."""
    texts = [*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["wandb"], *EXTRAS["mlflow"]]
    for text in texts:  # grows while it is read
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == "fastvlm-bench":
            texts += [own for extra in requirement.extras for own in EXTRAS[extra] if own not in texts]
    return texts


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, version in
            (line.split("==") for line in lines if line and not line.startswith("#"))}  # fmt: skip


def test_pins_are_within_the_ranges() -> None:
    for requirement in map(Requirement, installed()):
        name = canonicalize_name(requirement.name)
        assert name == "fastvlm-bench" or requirement.specifier.contains(pins()[name]), requirement


def test_whatever_gets_installed_is_pinned() -> None:
    """The dependencies of the dependencies, as the installed packages tell them."""
    seen: set[str] = set()

    def follow(requirement: Requirement) -> None:
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        if name in {*seen, "fastvlm-bench"}:
            return
        seen.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            return
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                follow(need)

    for text in installed():
        follow(Requirement(text))
    # torch's builds for CUDA bring NVIDIA's packages, each build its own: they are not for constraints to choose.
    unpinned = {name for name in seen - set(pins()) if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert unpinned == set()
    assert {"torch", "pandas", "nvidia-ml-py", "jsonschema", "matplotlib", "wandb", "mlflow-skinny"} <= seen
