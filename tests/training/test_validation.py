"""What a training promises of its held-out samples is what `run` accepts on them."""

import json
import shutil
from pathlib import Path

import pytest

from fastvlm_bench.config import RunConfig
from fastvlm_bench.measuring.benchmark import run_benchmark
from fastvlm_bench.training import fit
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.folder import TrainingFolder
from fastvlm_bench.training.samples import folder_samples, hold_out
from fastvlm_bench.training.settings import TrainSettings
from fastvlm_bench.training.texts import Texts


@pytest.mark.slow
def test_alpha_of_the_manifest_is_that_of_run(
    checkpoint: Path, pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A target with a repetition penalty; the saved draft, through `run` itself, on the samples that were held out."""
    model, (images, prompts) = tmp_path / "model", pictures
    shutil.copytree(checkpoint, model)
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**settings, "repetition_penalty": 1.3}))
    given = TrainSettings(
        out=str(tmp_path / "drafts"), model=str(model), images=str(images), prompts=str(prompts), exit_layers=("1",),
        heads=("mlp", "attention"), samples=4, held_out=4, max_new_tokens=16, updates=120, refine_updates=4, batch=4,
        lr=0.02, validate_every=22, device="cpu",
    )  # fmt: skip
    assert fit.train(given) == 0
    _, held = hold_out(folder_samples(images, prompts), 4, seed=0)
    rows = [{"id": s.sample_id, "image": s.image_id.partition("/")[2], "prompt": s.prompt} for s in held]
    data = images / "held-out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ("mlp-exit1", "attention-exit1")
    config = RunConfig(
        suites=("jsonl",), model=str(model), data=str(data), draft=str(tmp_path / "drafts"), max_new_tokens=16,
        methods=tuple(f"fastvlm:draft={name},stop_below=0,gamma=10" for name in names), device="cpu", threads=1,
        warmup=0, out=str(tmp_path / "results"),
    )  # fmt: skip
    run_benchmark(config, resume=None, csv=None, as_json=False)
    capsys.readouterr()
    (record,) = (tmp_path / "results").glob("*/samples.jsonl")
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    for name in names:
        rounds = [r for line in lines if name in line["method"] for r in line["rounds"]]
        accepted, tested = sum(r[2] for r in rounds), sum(r[1] for r in rounds)
        manifest = json.loads((tmp_path / "drafts" / name / "manifest.json").read_text())
        assert manifest["validation"] == {images.name: round(accepted / tested, 4)}, name
        assert 0 < accepted < tested and tested > 15
    data.unlink()


def test_a_text_has_the_limit_that_run_would_give_it(tmp_path: Path) -> None:
    given = {"out": str(tmp_path), "suites": ("describe", "vqav2"), "samples": 2, "held_out": 2, "refine_updates": 0}
    own = Texts(TrainSettings(**given), TrainingFolder(tmp_path), Display(quiet=True))  # type: ignore[arg-type]
    limits = {sample.sample_id.partition("/")[0]: own.limit(sample) for sample in [*own.samples, *own.held_out]}
    assert limits == {"describe": 160, "vqav2": 16}
    own = Texts(TrainSettings(**given, max_new_tokens=9), TrainingFolder(tmp_path), Display(quiet=True))  # type: ignore[arg-type]
    assert {own.limit(sample) for sample in own.samples} == {9}
