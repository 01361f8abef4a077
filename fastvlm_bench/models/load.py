"""`load_target("tiny" | hub id | folder)`: the target with its processor, on its device, ready for methods."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from PIL import Image
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.fingerprint import weights_sha256
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.models.names import TINY, check_model_name, default_drafts

HUB_TIMEOUT_S = 5.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Target:
    """The full VLM: its output is the truth. `id` is what the user typed; `drafts` is where its drafts lie."""

    id: str
    model: Any
    processor: Any
    device: torch.device
    drafts: Path | None

    @property
    def layers(self) -> nn.ModuleList:
        return decoder_layers(self.model)

    def render(self, prompt: str) -> str:
        """The exact text that the model reads: the processor's chat template around one image and the prompt."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        if getattr(self.processor, "chat_template", None) is None:
            raise UsageError(f"model '{self.id}' has no chat template: add chat_template.jinja to its folder")
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return str(text)

    def encode(self, image: Image.Image, prompt: str) -> dict[str, Any]:
        """Processor outputs on the target's device: input_ids (1, T), attention_mask, pixel_values, ..."""
        # The template writes the special tokens itself; a second <s> would be another prompt.
        batch = self.processor(text=self.render(prompt), images=image, return_tensors="pt", add_special_tokens=False)
        floating = next(self.model.parameters()).dtype
        return {
            key: value.to(self.device, floating if value.is_floating_point() else None) for key, value in batch.items()
        }

    def decode(self, token_ids: list[int]) -> str:
        """The answer's text, special tokens dropped, outer spaces stripped."""
        return str(self.processor.decode(token_ids, skip_special_tokens=True)).strip()

    def describe(self) -> dict[str, Any]:
        """What run.json says about the model."""
        parameters = list(self.model.parameters())
        return {
            "id": self.id, "revision": getattr(self.model.config, "_commit_hash", None),
            "class": type(self.model).__name__, "weights_sha256": weights_sha256(self.model),
            "dtype": str(parameters[0].dtype).removeprefix("torch."),
            "attention": getattr(self.model.config, "_attn_implementation", None), "device": str(self.device),
            "layers": len(self.layers), "parameters": sum(p.numel() for p in parameters),
            "weights_bytes": sum(p.numel() * p.element_size() for p in parameters),
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


def load_target(name: str = "tiny", *, device: str = "auto", dtype: str = "auto") -> Target:
    """Load a target for inference.

    dtype `auto` is float32 on the CPU (identity of outputs is promised there) and the checkpoint's own elsewhere.
    A hub id is downloaded by `transformers`, with its progress bar, if it is not in the cache.
    """
    check_model_name(name)
    place = pick_device(device)
    source = str(TINY) if name == "tiny" else name
    wanted: Any = DTYPES.get(dtype) or (torch.float32 if place.type == "cpu" else "auto")
    local = Path(source).is_dir() or not _hub_answers(source)
    with quiet_loading(downloads=not local):
        try:
            processor = AutoProcessor.from_pretrained(source, local_files_only=local)
            model = AutoModelForImageTextToText.from_pretrained(source, dtype=wanted, local_files_only=local)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise UsageError(
                f"model '{name}' cannot be loaded: {reason}; check the id, the folder and the network"
            ) from None
    model.to(place).eval()
    return Target(name, model, processor, place, default_drafts(name))


def _hub_answers(name: str) -> bool:
    """Whether the hub can be asked for this model; without it, the cache serves at once, or not at all.

    Asked first with a short time-out, because loading would retry each file for minutes. UsageError where the hub
    answers that there is no such model, or that it is gated.
    """
    try:
        HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
    except GatedRepoError:
        raise UsageError(
            f"model '{name}' is gated: accept its terms on the hub, then log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"the hub has no public model '{name}': check the id, or log in with `hf auth login`"
        ) from None
    except Exception:  # each way of being offline has an exception of its own
        return False
    return True


@contextlib.contextmanager
def quiet_loading(downloads: bool) -> Iterator[None]:
    """Without torchvision, transformers tells of each fallback to Pillow: many lines too many.

    Its progress bars stay only where something may be downloaded.
    """
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    if not downloads:
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
