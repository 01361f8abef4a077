"""`load_target("tiny" | "smol" | hub id | folder)`: the target with its processor, on its device, ready for methods."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models import tensor_parallel as divided
from fastvlm_bench.models.checkpoint_settings import check_file, settle
from fastvlm_bench.models.faulty_files import faulty_file
from fastvlm_bench.models.fingerprint import (
    config_fields,
    processor_fields,
    processor_sha256,
    rounds,
    set_weights_sha256,
    weights_sha256,
)
from fastvlm_bench.models.hub import asks_nothing, cached_commit, hub_answers, offline_by, once_each, quiet
from fastvlm_bench.models.inputs import placed
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.models.memory_need import check_room
from fastvlm_bench.models.names import check_model_name, default_drafts, long_dtype
from fastvlm_bench.models.packed import held_bytes
from fastvlm_bench.models.processor import load_processor, read_images
from fastvlm_bench.models.prompting import Earlier, render, text_options
from fastvlm_bench.models.source import source_of
from fastvlm_bench.models.unloadable import lacking, reason
from fastvlm_bench.models.whole import load_weights, reads_text_alone
from fastvlm_bench.visible import note

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"
"""The packing by torchao: weights alone, each row with a scale of its own. What is computed stays floating-point."""
PHASE_1 = "phase1.json"
"""A file in the folder of a model that `train --finetune-backbone` made: its origin, and how its answers changed."""


@dataclass
class Target:
    """The full VLM: its output is the truth.

    id: what the user typed. drafts: where its drafts lie. commit: of the hub, if it came from there.
    unused: the keys of the checkpoint's files that the model leaves out. trust_remote_code, offline: how it was loaded,
    which holds for a draft model beside it, too. asked: the checkpoint's own generation settings, of which the model
    keeps those that a run does not decide. criteria: what ends an answer besides EOS and the limit.
    """

    id: str
    model: Any
    processor: Any
    device: torch.device
    drafts: Path | None
    commit: str | None = None
    unused: Sequence[str] = ()
    trust_remote_code: bool = False
    offline: bool = False
    asked: Any = None
    criteria: Sequence[Any] = ()

    @property
    def layers(self) -> nn.ModuleList:
        return decoder_layers(self.model)

    def render(self, prompt: str, images: int = 1, earlier: Earlier = ()) -> str:
        """The exact text that the model reads around the images and the prompt, after the turns before."""
        return render(self.processor, self.model.config.model_type, prompt, self.id, images, earlier)

    def encode(
        self, image: Image.Image | Sequence[Image.Image], prompt: str, earlier: Earlier = ()
    ) -> dict[str, Any]:  # fmt: skip
        """Processor outputs on the target's device: input_ids (1, T), attention_mask, pixel_values, ...

        image: or several. earlier: the turns before. What is a list of tensors, as images of several sizes are for some
        families, stays one.
        """
        images = image if isinstance(image, Image.Image) else list(image)
        count = len(images) if isinstance(images, list) else 1
        text = self.render(prompt, count, earlier) if count > 1 or earlier else self.render(prompt)
        options = text_options(self.processor, self.model.config.model_type, text)
        batch = read_images(self.processor, text, images, options)
        floating = next(self.model.parameters()).dtype
        return {key: placed(value, self.device, floating) for key, value in batch.items()}

    def decode(self, token_ids: list[int]) -> str:
        """The answer's text, special tokens dropped, outer spaces stripped."""
        return str(self.processor.decode(token_ids, skip_special_tokens=True)).strip()

    def describe(self) -> dict[str, Any]:
        """The entry `model` of run.json."""
        parameters = list(self.model.parameters())
        story = Path(self.id) / PHASE_1
        return {
            **({"phase_1": json.loads(story.read_text(encoding="utf-8"))} if story.is_file() else {}),
            "id": self.id, "revision": self.commit,
            "quantized": getattr(self.model.config, "quantization_config", None) is not None,
            "class": type(self.model).__name__, "weights_sha256": weights_sha256(self.model),
            "processor_sha256": processor_sha256(self.processor),
            "config": config_fields(self.model.config), "processor": processor_fields(self.processor),
            "dtype": str(parameters[0].dtype).removeprefix("torch."),
            "attention": getattr(self.model.config, "_attn_implementation", None), "device": str(self.device),
            "layers": len(self.layers), "parameters": sum(p.numel() for p in parameters),
            "weights_bytes": sum(map(held_bytes, parameters)),
        }  # fmt: skip


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else Apple's GPU, else the CPU; UsageError if a named one is not there."""
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    there = True
    if device.type == "cuda":
        there = torch.cuda.is_available()
    elif device.type == "mps":
        there = torch.backends.mps.is_available()
    if not there or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device '{name}' is not available here; use --device cpu or auto")
    return device


def load_target(
    name: str = "tiny", *, device: str = "auto", dtype: str = "auto", device_map: str | None = None,
    attn: str | None = None, quantize: str | None = None, trust_remote_code: bool = False, offline: bool = False,
    text_alone: bool = False, tensor_parallel: bool = False,
) -> Target:  # fmt: skip
    """Load a target for inference: `tiny`, `smol`, a checkpoint folder, a hub id, or ID@REVISION.

    dtype `auto` is float32 on the CPU, where identical outputs are promised, and the checkpoint's own elsewhere.
    device_map `auto` spreads the layers over all devices (accelerate). attn: transformers' attention implementation.
    quantize: `4bit` or `8bit` (bitsandbytes), or `int8` (torchao). trust_remote_code: run the checkpoint's own Python
    code. A hub id is downloaded by `transformers`, with its progress bar, if it is not in the cache and not `offline`.
    text_alone: a language model that reads no images will do, as a draft; its processor is then its tokenizer.
    tensor_parallel: the processes that have met (`torch.distributed`) hold a part each. UsageError where the target
    cannot be loaded.
    """
    check_model_name(name)
    drafts = text_alone  # a model that may do without images drafts
    if device_map and device != "auto":
        raise UsageError(f"--device {device} and --device-map exclude each other: leave one out")
    _check_packages(device_map, attn, quantize, tensor_parallel)
    place = pick_device(device)
    wanted: Any = DTYPES.get(long_dtype(dtype)) or (torch.float32 if place.type == "cpu" and not quantize else "auto")
    with asks_nothing(offline):
        source, revision = source_of(name)
        here = Path(source).is_dir()
        local = here or not hub_answers(source, revision)
        forbidden = None if here else offline_by(offline)
        if forbidden and cached_commit(source, revision) is None:
            raise UsageError(f"model '{name}' is not in the cache, and {forbidden} forbids asking the hub: leave that "
                             "out, set HF_HOME to where the cache is, or give a checkpoint folder")  # fmt: skip
        shared = {"local_files_only": local, "revision": revision, "trust_remote_code": trust_remote_code}
        reading = "its processor or tokenizer"
        try:
            check_file(source, revision, name)
            with quiet(downloads=not local):
                processor = None if text_alone else load_processor(source, **shared)
                reading = "its config.json"
                config = AutoConfig.from_pretrained(source, **shared)
                text_alone = text_alone and reads_text_alone(config)
                if processor is None:
                    processor = (AutoTokenizer.from_pretrained if text_alone else load_processor)(source, **shared)
                reading = "its weights"
                if tensor_parallel:
                    divided.check(name, config, place)
                elif name != "tiny" and not device_map:
                    check_room(config, name, wanted, quantize, place, trust_remote_code)
                stored, digest = getattr(config, "dtype", None), None
                if rounds(stored, wanted) and not quantize:  # its fingerprint is that of the values before rounding

                    def stored_digest() -> str:
                        return weights_sha256(load_weights(name, source, text_alone, dtype=stored, **shared)[0])

                    digest = divided.led(stored_digest) if tensor_parallel else stored_digest()
                placed = _placement(place, device_map, attn, quantize) | (divided.options() if tensor_parallel else {})
                model, unused = load_weights(name, source, text_alone, dtype=wanted, **shared, **placed)
        except UsageError:
            raise
        except Exception as error:  # a damaged file makes other libraries raise whatever they have
            why = reason(error, reading, here, forbidden)
            if here and not lacking(error):
                why = faulty_file(Path(source)) or why
            raise UsageError(f"model '{name}' cannot be loaded: {why}") from None
    if device_map or quantize or tensor_parallel:
        place = model.get_input_embeddings().weight.device
    else:
        model.to(place)
    if digest:
        set_weights_sha256(model, digest)
    once_each()
    model.eval()
    settled = settle(model, processor, name, drafts=drafts)
    for told in settled.notes:
        note(told)
    commit = None if here else cached_commit(source, revision)
    return Target(name, model, processor, place, default_drafts(name), commit, unused, trust_remote_code, offline,
                  settled.asked, settled.criteria)  # fmt: skip


def _check_packages(device_map: str | None, attn: str | None, quantize: str | None, divided: bool) -> None:
    """UsageError for an option whose package is not installed, before anything is downloaded."""
    needed = [
        (device_map, f"--device-map {device_map}", "accelerate"),
        (divided, "--tensor-parallel", "accelerate"),
        (quantize, f"--quantize {quantize}", "torchao" if quantize == INT8 else "bitsandbytes"),
        (quantize, f"--quantize {quantize}", "accelerate"),
        (attn == "flash_attention_2", "--attn flash_attention_2", "flash_attn"),
    ]  # fmt: skip
    for wanted, option, package in needed:
        if wanted and importlib.util.find_spec(package) is None:
            hint = package.replace("_", "-")
            raise UsageError(f"{option} needs the package {hint}: pip install {hint}, or leave the option out")


def _placement(place: torch.device, device_map: str | None, attn: str | None, quantize: str | None) -> dict[str, Any]:
    """The keyword arguments of `from_pretrained` for the device, the attention implementation and quantization."""
    options: dict[str, Any] = {"attn_implementation": attn} if attn else {}
    if quantize:
        options["quantization_config"] = _packing(quantize)
    if device_map or quantize:  # quantized weights are made on the device where they stay
        options["device_map"] = device_map or {"": place}
    return options


def _packing(quantize: str) -> Any:
    """The quantization that `from_pretrained` is asked for."""
    if quantize == INT8:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**{f"load_in_{quantize}": True})
