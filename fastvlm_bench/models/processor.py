"""Loads a checkpoint's processor, for images and text only: it is never given videos."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
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
