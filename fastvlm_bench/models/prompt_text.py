"""The exact text that a model reads for a prompt: its processor alone is loaded, not its weights."""

from typing import Any

from transformers import AutoConfig

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.names import check_model_name
from fastvlm_bench.models.processor import load_processor
from fastvlm_bench.models.prompting import render
from fastvlm_bench.models.source import source_of


def prompt_text(name: str, prompt: str) -> str:
    """The model's chat template around one image and the prompt. UsageError if there is no such model or template."""
    check_model_name(name)
    try:
        source, revision = source_of(name)
        processor: Any = load_processor(source, revision=revision)
        config = AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UsageError(f"the processor of model '{name}' cannot be loaded: {reason}") from None
    return render(processor, config.model_type, prompt, name)
