"""Loads a checkpoint's processor: for images and text, which is all that is ever given to it."""

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
except ImportError:  # transformers imports torchvision wherever it lies, and hides what that says
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        raise
    except Exception:  # its compiled operators do not load
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
    """Processors are made without their video processor, which needs torchvision; Qwen-VL and others insist on one."""
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
