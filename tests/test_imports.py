"""The order of the rooms holds, imports make no circle, and what only reads results never brings torch."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from parsed import tree

PACKAGE = Path(__file__).parents[1] / "fastvlm_bench"
HEAVY = ("torch", "transformers")
ROOMS = (
    "__main__", "cli", "notebook", "agreement",
    "utilisation", "sweeping", "ablation", "embedded", "measuring", "training",
    "config", "option_checks", "scoring", "checks",
    "predicting", "report", "decoding", "analysis", "drafters", "engine", "method_spec", "foreign", "suites", "records",
    "drafts", "metrics",
    "world", "models", "machine", "sampling", "declared", "errors", "visible",
)  # fmt: skip
"""From the top down: rooms, and the modules that lie beside them. Each may import what is below it, or itself."""
OLD_PATHS = ("suite", "cli.__main__", "models.tiny.train", "models.tiny.evaluate", "models.tiny.render_suites")
"""Modules that only hand on what has moved. Nothing of the package imports them."""
LIGHT_ROOMS = ("analysis", "report", "foreign", "suites", "records", "metrics", "scoring")
LIGHT = (
    "notebook", "config", "option_checks", "method_spec", "declared", "errors", "visible",
    "sampling", "cli.app", "cli.config_file", "drafts.manifest", "models.names",
    "drafts.formats", "drafts.fitting",
    "drafts.speculation_profile", "predicting.asked", "predicting.devices",
    "models.families", "machine.environment", "machine.memory", "machine.clock", "machine.doctor", "machine.nvml",
    "machine.conditions", "machine.energy", "measuring.live", "measuring.benchmark", "measuring.before_loading",
    "measuring.batch_sweep", "measuring.invocation", "measuring.signals", "ablation.table", "world.scenes",
    "world.language",
)  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below it."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, in functions and for types too."""
    found = set()
    for node in ast.walk(tree(path)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastvlm_bench":
            module = str(node.module).removeprefix("fastvlm_bench").lstrip(".")
            names = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
            names = [name if name in MODULES else module for name in names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.split(".")[0] == "fastvlm_bench"]
            names = [name.removeprefix("fastvlm_bench").lstrip(".") for name in names]
        found |= {name for name in names if name}
    return found


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports; not at collection, as parsing all files takes more than a second."""
    return {name: imported(path) - {name} for name, path in MODULES.items() if name not in OLD_PATHS}


def place(name: str) -> int:
    return ROOMS.index(name.split(".")[0])


def test_every_room_has_its_place_and_says_what_it_is() -> None:
    there = {name.split(".")[0] for name in imports()} - {""}
    assert there == set(ROOMS)
    for room in ROOMS:
        docstring = ast.get_docstring(tree(MODULES[room]))
        assert docstring and (
            "may import" in docstring.lower() or "." not in room and MODULES[room].name != "__init__.py"
        ), room


def test_imports_point_down() -> None:
    wrong = [f"{name} imports {other}" for name, others in imports().items() if name
             for other in others if place(other) < place(name)]  # fmt: skip
    assert not wrong


def test_nothing_imports_what_has_moved() -> None:
    assert not [
        f"{name} imports {other}" for name, others in imports().items() for other in others if other in OLD_PATHS
    ]


def test_imports_make_no_circle() -> None:
    """Depth first: a module that is met again while its own imports are being followed is on a circle."""
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in sorted(imports().get(name, ())):
                follow(other, (*path, name))
            done.add(name)

    for name in imports():
        follow(name, ())


def light() -> list[str]:
    return [*LIGHT, *(name for name in MODULES if name.split(".")[0] in LIGHT_ROOMS)]


def test_light_modules_do_not_bring_torch() -> None:
    """One process for all: the first that brings it is named."""
    code = (
        "import importlib, sys\n"
        f"for name in {light()!r}:\n"
        "    importlib.import_module(f'fastvlm_bench.{name}')\n"
        f"    found = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    assert not found, f'{name} brings {found}'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("words", [[], ["run"], ["suites", "show"]])
def test_help_brings_nothing_heavy(words: list[str]) -> None:
    """Not even what the parser and the tables of results need."""
    heavy = ("torch", "transformers", "pandas", "numpy", "PIL", "pynvml", "yaml", "rich", "pydantic")
    code = (
        "import sys\nfrom fastvlm_bench.cli.app import app\n"
        f"try:\n    app({[*words, '--help']!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"sys.exit(str([m for m in {heavy!r} if m in sys.modules] or ''))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not result.stderr.strip() and "Usage" in result.stdout


@pytest.mark.parametrize("name", OLD_PATHS)
def test_old_paths_lead_to_what_has_moved(name: str) -> None:
    old = importlib.import_module(f"fastvlm_bench.{name}")
    assert getattr(old, "main", 0) or old.load_suite
