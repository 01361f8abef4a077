"""The exact text that a model reads for a prompt: its processor alone is loaded, not its weights."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.names import check_model_name
from fastvlm_bench.models.processor import load_processor
from fastvlm_bench.models.prompting import render
from fastvlm_bench.models.source import source_of
from fastvlm_bench.models.unloadable import reason


def prompt_text(name: str, prompt: str, images: int = 1) -> str:
    """The model's chat template around the images and the prompt. UsageError if there is no such model or template."""
    check_model_name(name)
    source, revision = source_of(name)
    try:
        processor: Any = load_processor(source, revision=revision)
        config = AutoConfig.from_pretrained(source, revision=revision)
    except UsageError:
        raise
    except Exception as error:  # a damaged file makes other libraries raise whatever they have
        why = reason(error, "a file of it", Path(source).is_dir(), None)
        raise UsageError(f"the processor of model '{name}' cannot be loaded: {why}") from None
    return render(processor, config.model_type, prompt, name, images)
