"""Fixtures shared by all tests."""

import gc

gc.disable()  # until all is collected: what imports make stays, and looking through it again and again costs seconds

import functools  # noqa: E402
import os  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: for this process and those that tests start

import huggingface_hub  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
import typer.testing  # noqa: E402
from targets import PROMPT, random_llava  # noqa: E402
from torch import Tensor  # noqa: E402

from fastvlm_bench.analysis import bounds  # noqa: E402


def pytest_collection_finish() -> None:
    """What was loaded is never looked through again: runs of the tool, and so most tests, collect all the garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests compare tokens, not times; one thread keeps two test processes from fighting for two cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def commands_built_once() -> Iterator[None]:
    """Building the commands of the tool is most of the time of a call that does little, and no call changes them."""
    once = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", once)
        patch.setattr(typer.testing, "_get_command", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """With TEST_ENGINE=graphs every method of the tests has that engine, so that any test may be run over both."""
    if os.environ.get("TEST_ENGINE") == "graphs":
        from fastvlm_bench.engine import method
        from fastvlm_bench.engine.graphs import Graphs

        method.Eager = Graphs  # type: ignore[misc]


@pytest.fixture(scope="module")
def quick_bounds() -> Iterator[None]:
    """A tenth of the draws, where no assertion depends on how exact the bounds of a quality difference are."""
    with pytest.MonkeyPatch.context() as patch:
        bounds._weights.cache_clear()
        patch.setattr(bounds, "DRAWS", 1000)
        yield
    bounds._weights.cache_clear()


@pytest.fixture(scope="session")
def llava() -> Any:
    return random_llava()[0]


@pytest.fixture(scope="session")
def inputs() -> dict[str, Tensor]:
    _, tokenizer = random_llava(2)
    ids = torch.tensor([tokenizer.encode("<s>USER: " + "<image>" * 36 + PROMPT, add_special_tokens=False)])
    pixels = torch.randn(1, 3, 120, 120, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@pytest.fixture
def hub_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is asked of the hub, which fake its answers: they mean the same where HF_HUB_OFFLINE is set."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # read when it was imported
