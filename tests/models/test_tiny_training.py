"""The training of the embedded model itself: it resumes exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress

from fastvlm_bench.embedded import train
from fastvlm_bench.embedded.parts import build_config, build_tokenizer


@pytest.mark.slow
def test_training_of_the_embedded_model_resumes_exactly(tmp_path: Path) -> None:
    """Stopped after half of a stage and resumed, a stage ends with the very weights of an uninterrupted one."""
    tokenizer = build_tokenizer(train.tokenizer_texts(0, scenes=50))

    def stage(out: Path) -> train.Stage:
        out.mkdir(exist_ok=True)
        torch.manual_seed(0)
        config = build_config(tokenizer, 2)
        model = train.LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
        return train.language_stage("language", model, tokenizer, 2, 0.5, updates=6, warmup=2, lr=1e-3, seed=0, out=out)

    whole = stage(tmp_path / "whole")
    with Progress(disable=True) as progress:
        whole.run(progress)
        halted = stage(tmp_path / "halted")
        loss, calls = halted.loss, []

        def stop_after_three(rng: Any) -> Any:
            if len(calls) == 3 * train.HALVES:
                raise KeyboardInterrupt
            calls.append(1)
            return loss(rng)

        halted.loss = stop_after_three
        with pytest.raises(KeyboardInterrupt):
            halted.run(progress)
        halted.save(3)  # saved here, because the fourth update was stopped within its two threads
        resumed = stage(tmp_path / "halted")
        resumed.run(progress)
    for a, b in zip(whole.module.state_dict().values(), resumed.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)
