"""Loading: the hub is asked once, with a time-out; what is not there is refused in one line."""

from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models import hub as hub_module
from fastvlm_bench.models import load

pytestmark = pytest.mark.usefixtures("hub_may_be_asked")

NAME = "someone/some-model"


class FakeApi:
    """A hub that answers with an exception, or not at all."""

    error: Exception | None = None
    asked: list[float] = []

    def model_info(self, name: str, revision: str | None, timeout: float) -> None:
        assert name == NAME
        self.asked.append(timeout)
        if self.error is not None:
            raise self.error


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    """The fake hub; `from_pretrained` records whether it may use the network, and finds nothing."""
    FakeApi.error, FakeApi.asked = None, []
    monkeypatch.setattr(hub_module, "HfApi", FakeApi)

    def nothing(source: str, **options: Any) -> None:
        raise OSError(f"local_files_only={options['local_files_only']}")

    monkeypatch.setattr(load, "load_processor", nothing)
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
    for name in ("config.json", "processor_config.json", "tokenizer.json"):  # a folder in which no file is at fault
        (tmp_path / name).write_text("{}")
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


def test_a_draft_fits_its_target_in_bfloat16() -> None:
    """A target whose weights were rounded in loading is still the model that the draft was made for."""
    import torch

    from fastvlm_bench.drafts.imitation_head import Draft
    from fastvlm_bench.models.names import TINY_DRAFTS

    target = load.load_target("tiny", device="cpu", dtype="bfloat16")
    draft = Draft.load(TINY_DRAFTS / "attention-exit1", target.model)
    assert draft.head is not None and next(draft.head.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "4bit"}, "--quantize 4bit needs the package bitsandbytes: pip install bitsandbytes"),
        ({"quantize": "int8"}, "--quantize int8 needs the package torchao: pip install torchao"),
        ({"attn": "flash_attention_2"}, "--attn flash_attention_2 needs the package flash-attn"),
        ({"device_map": "auto", "device": "cpu"}, "--device cpu and --device-map exclude each other"),
        ({"device_map": "auto", "device": "auto"}, "--device-map auto needs the package accelerate"),
        ({"tensor_parallel": True}, "--tensor-parallel needs the package accelerate: pip install accelerate"),
    ],
)
def test_options_that_cannot_be_had(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=message):
        load.load_target("tiny", **options)


def test_offline_never_asks(hub: type[FakeApi]) -> None:
    with pytest.raises(UsageError, match="not in the cache, and --offline forbids asking the hub: leave that out"):
        load.load_target(NAME, device="cpu", offline=True)
    assert not hub.asked


def test_offline_with_part_of_a_model_in_the_cache(hub: type[FakeApi], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "cached_commit", lambda *_: "0" * 40)
    with pytest.raises(UsageError, match="local_files_only=True; leave out --offline, or check the id"):
        load.load_target(NAME, device="cpu", offline=True)
    assert not hub.asked


def test_revision(hub: type[FakeApi]) -> None:
    from fastvlm_bench.models.names import check_model_name, split_revision

    assert split_revision(f"{NAME}@v1.0") == (NAME, "v1.0") and split_revision(NAME) == (NAME, None)
    check_model_name(f"{NAME}@refs/pr/1")
    assert "local_files_only=False" in refusal(f"{NAME}@main")


def test_weights_larger_than_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Refused from the configuration alone: no weights are needed to tell."""
    import shutil

    from fastvlm_bench.models import memory_need
    from fastvlm_bench.models.names import TINY

    shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(memory_need, "free_bytes", lambda device: 1 << 20)
    assert "0.0 GiB are free on cpu: try --dtype bfloat16" in refusal(str(tmp_path / "model"))
