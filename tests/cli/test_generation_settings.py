"""A checkpoint's generation settings through `run`: recorded, shown, applied to all methods, and kept by --resume."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cut_run import cut_run

from fastvlm_bench.models.names import TINY
from fastvlm_bench.records.record import read_run


@pytest.mark.slow
def test_settings_of_a_checkpoint(call: Callable[..., Any], refused: Callable[..., str], tmp_path: Path) -> None:
    model, file = tmp_path / "model", tmp_path / "model" / "generation_config.json"
    shutil.copytree(TINY, model)
    own = json.loads(file.read_text())
    file.write_text(json.dumps({**own, "do_sample": True, "temperature": 0.6, "repetition_penalty": 1.2}))
    words = ("run", "--model", model, "--suite", "describe", "--limit", "1", "--threads", "1", "--warmup", "0",
             "--max-new-tokens", "4", "--method", "layerskip:exit_layer=2", "--device", "cpu")  # fmt: skip
    result = call(*words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "generation: greedy · end token 2 · repetition_penalty 1.2 · not as the" in result.stdout
    (folder,) = (tmp_path / "out").iterdir()
    assert read_run(folder).meta["generation"] == {
        "in_force": {"do_sample": False, "num_beams": 1, "eos_token_id": [2], "repetition_penalty": 1.2},
        "overridden": {"do_sample": True, "temperature": 0.6},
    }
    cut_run(folder, 1)
    file.write_text(json.dumps({**own, "repetition_penalty": 1.3}))
    said = refused(*words, "--out", tmp_path / "out", "--resume", folder)
    assert "generation.in_force.repetition_penalty: 1.2 -> 1.3" in said and "or start anew" in said
