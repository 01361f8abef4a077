"""Imports point down, and what only reads results never brings torch: stored runs open on a laptop at once."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fastvlm_bench"
HEAVY = ("torch", "transformers")
LIGHT = (
    "metrics", "suite", "suite_definition", "annotations", "record", "storage", "summary", "arms", "quality",
    "statistics", "identities", "verdict", "report", "layout", "export",
    "sample_export", "csv_text", "compare", "config", "method_spec", "trace", "errors", "cli",
    "batches", "batch_table",
    "drafts", "environment", "memory", "clock", "live", "models.names", "scoring", "doctor", "nvml", "conditions",
)  # fmt: skip
# From the top down: a module may import from its own level or one further down.
LEVELS = (
    ("cli",), ("batch_sweep",), ("benchmark",), ("batch_runner",), ("runner", "training"), ("decoding",),
    ("imitation_head",), ("heads", "reduced_vocabulary"), ("models",),
)  # fmt: skip


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_do_not_bring_torch(name: str) -> None:
    code = f"import sys, fastvlm_bench.{name}; sys.exit(any(m in sys.modules for m in {HEAVY!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_brings_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fastvlm_bench.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pandas', 'numpy', 'PIL')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0 and b"self-speculative" in result.stdout


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports at its top level, as dotted names below the package."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fastvlm_bench."):
            found.add(node.module.removeprefix("fastvlm_bench."))
    return found


def level(name: str) -> int | None:
    parts = name.split(".")
    if parts[0] == "models" and parts[1:2] == ["tiny"]:  # its scripts sit on top of everything
        return 0
    return next((i for i, names in enumerate(LEVELS) if parts[0] in names), None)


def test_imports_point_down() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        own = level(name)
        for other in imported(path):
            theirs = level(other)
            if own is not None and theirs is not None and theirs < own and own > 0:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_results_side_imports_no_measuring_side() -> None:
    measuring = ("decoding", "runner", "training", "benchmark", "imitation_head", "models.load")
    for name in LIGHT:
        path = PACKAGE / (name.replace(".", "/") + ".py")
        if path.is_file():
            assert not [m for m in imported(path) if m.startswith(measuring)], name
