"""A checkpoint whose own settings ask for a logits processor with a state is refused before anything is measured."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from fastvlm_bench.models.names import TINY


def test_refused_in_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "guidance_scale": 1.5}))
    said = refused("run", "--model", folder, "-m", "standard", "--limit", "2", "--threads", "1", "-o", tmp_path / "out")
    assert (
        "UnbatchedClassifierFreeGuidanceLogitsProcessor (guidance_scale)" in said and "leave guidance_scale out" in said
    )
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir()), "nothing was measured"
