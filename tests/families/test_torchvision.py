"""A torchvision that was built for another torch, which pip installs without a word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_torchvision_of_another_torch_is_told(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    (tmp_path / "torchvision-9.9.9.dist-info").mkdir()
    (tmp_path / "torchvision-9.9.9.dist-info/METADATA").write_text("Name: torchvision\nVersion: 9.9.9\n")
    told = subprocess.run(
        [sys.executable, "-m", "fastvlm_bench.cli.app", "models", "--check", "tiny"], capture_output=True, text=True,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert told.returncode == 2, told.stderr
    assert "torchvision 9.9.9 was not built for torch" in told.stderr and "Traceback" not in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
