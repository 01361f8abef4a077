"""The digest of a processor: the same from another folder, another one where anything changes that a model reads."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from fastvlm_bench.models.fingerprint import processor_sha256
from fastvlm_bench.models.names import TINY


def loaded(folder: Path = TINY) -> Any:
    return AutoProcessor.from_pretrained(folder)


def test_a_copy_has_the_same(tmp_path: Path) -> None:
    original = loaded()
    original.save_pretrained(tmp_path / "copy")
    assert processor_sha256(loaded(tmp_path / "copy")) == processor_sha256(original) == processor_sha256(loaded())


@pytest.mark.parametrize("what", ["template", "token", "image"])
def test_a_change_is_seen(what: str) -> None:
    changed = loaded()
    if what == "template":
        changed.chat_template = changed.chat_template.replace("\n", " \n") + " "
    elif what == "token":
        changed.tokenizer.add_tokens(["<new>"])
    else:
        changed.image_processor.image_mean = [0.4, 0.5, 0.5]
    assert processor_sha256(changed) != processor_sha256(loaded())
