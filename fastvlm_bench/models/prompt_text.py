"""The exact text that a model reads for a prompt: its processor alone is loaded, not its weights."""

from typing import Any

import torch
from transformers import AutoProcessor

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.models.names import TINY, check_model_name


def prompt_text(name: str, prompt: str) -> str:
    """The model's chat template around one image and the prompt. UsageError if there is no such model or template."""
    check_model_name(name)
    try:
        processor: Any = AutoProcessor.from_pretrained(str(TINY) if name == "tiny" else name)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UsageError(f"the processor of model '{name}' cannot be loaded: {reason}") from None
    return Target(name, None, processor, torch.device("cpu"), None).render(prompt)
