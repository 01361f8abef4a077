"""Loads a checkpoint's processor, for images and text only: it is never given videos."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from fastvlm_bench.errors import UsageError

try:
    from transformers import AutoProcessor
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.processing_utils import ProcessorMixin
except ImportError:  # transformers imports torchvision where it is installed, and hides why that failed
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        raise
    except Exception:  # torchvision's compiled operators do not load
        raise UsageError(
            f"torchvision {importlib.metadata.version('torchvision')} was not built for torch {torch.__version__}, and "
            "transformers cannot read images beside it: install the torchvision of this torch, or "
            "pip uninstall torchvision, which most families do without"
        ) from None
    raise


def load_processor(source: str, **options: Any) -> Any:
    """`AutoProcessor.from_pretrained`. Where torchvision is not installed, the part that reads videos is left out."""
    if importlib.util.find_spec("torchvision") is not None:
        return AutoProcessor.from_pretrained(source, **options)
    with without_videos():
        return AutoProcessor.from_pretrained(source, **options)


def read_images(processor: Any, text: str, images: Any, options: Mapping[str, Any]) -> Any:
    """The processor's outputs for one text and its image, or a list of several, as PyTorch tensors.

    Several images are given as the list of the only text in a list of texts, as `apply_chat_template` gives them: a
    flat list is one of several samples to LLaVA-OneVision, which cuts each into tiles that it would not cut here. A few
    processors take nothing else.
    """
    if not isinstance(images, list):
        return processor(text=text, images=images, return_tensors="pt", **options)
    try:
        return processor(text=[text], images=[images], return_tensors="pt", **options)
    except (ValueError, TypeError, IndexError, AttributeError):
        return processor(text=text, images=images, return_tensors="pt", **options)


@contextlib.contextmanager
def without_videos() -> Iterator[None]:
    """Within the block processors are made without a video processor, which would need torchvision.

    Qwen-VL and others refuse to be made without one, so the check of that argument is replaced, too.
    """
    mixin: Any = ProcessorMixin
    auto: Any = AutoVideoProcessor
    check, load = mixin.check_argument_for_proper_class, auto.__dict__["from_pretrained"]

    def check_all_but_videos(self: Any, name: str, argument: Any) -> Any:
        return None if name == "video_processor" and argument is None else check(self, name, argument)

    mixin.check_argument_for_proper_class = check_all_but_videos
    auto.from_pretrained = classmethod(lambda *_, **__: None)
    try:
        yield
    finally:
        mixin.check_argument_for_proper_class = check
        auto.from_pretrained = load
