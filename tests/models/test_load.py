"""Loading: the hub is asked once, with a time-out; what is not there is refused in one line."""

from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models import load

NAME = "someone/some-model"


class FakeApi:
    """A hub that answers with an exception, or not at all."""

    error: Exception | None = None
    asked: list[float] = []

    def model_info(self, name: str, timeout: float) -> None:
        assert name == NAME
        self.asked.append(timeout)
        if self.error is not None:
            raise self.error


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    """The fake hub; `from_pretrained` records whether it may use the network, and finds nothing."""
    FakeApi.error, FakeApi.asked = None, []
    monkeypatch.setattr(load, "HfApi", FakeApi)

    def nothing(source: str, **options: Any) -> None:
        raise OSError(f"local_files_only={options['local_files_only']}")

    monkeypatch.setattr(load.AutoProcessor, "from_pretrained", nothing)
    return FakeApi


def refusal(name: str = NAME) -> str:
    with pytest.raises(UsageError) as caught:
        load.load_target(name, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unreachable_hub_serves_from_the_cache_without_retries(hub: type[FakeApi]) -> None:
    hub.error = ConnectionError("no route")
    assert "local_files_only=True" in refusal()
    assert len(hub.asked) == 1 and hub.asked[0] <= 10


def test_reachable_hub_may_download(hub: type[FakeApi]) -> None:
    assert "local_files_only=False" in refusal()


def test_unknown_and_gated_models(hub: type[FakeApi]) -> None:
    # Made without their constructor, which wants a response of whichever HTTP library the hub's client uses.
    hub.error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    assert f"no public model '{NAME}'" in refusal()
    hub.error = GatedRepoError.__new__(GatedRepoError)
    assert "gated" in refusal()


def test_local_folders_never_ask(hub: type[FakeApi], tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "local_files_only=True" in refusal(str(tmp_path))
    assert not hub.asked


def test_damaged_weights(tmp_path: Any) -> None:
    """A truncated weights file is one line, not a traceback."""
    import shutil

    from fastvlm_bench.models.names import TINY

    shutil.copytree(TINY, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "cannot be loaded" in refusal(str(tmp_path / "model"))


def test_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="is not available here"):
        load.pick_device("cuda:99")
