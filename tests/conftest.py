"""Fixtures shared by all tests."""

from typing import Any

import pytest
import torch
from targets import PROMPT, random_llava
from torch import Tensor


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests compare tokens, not times; one thread keeps two test processes from fighting for two cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llava() -> Any:
    return random_llava()[0]


@pytest.fixture(scope="session")
def inputs() -> dict[str, Tensor]:
    _, tokenizer = random_llava(2)
    ids = torch.tensor([tokenizer.encode("<s>USER: " + "<image>" * 36 + PROMPT, add_special_tokens=False)])
    pixels = torch.randn(1, 3, 120, 120, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
