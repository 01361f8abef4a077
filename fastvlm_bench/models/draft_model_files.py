"""What a draft model's files tell before anything is loaded: whether it is there, complete, and fits the target."""

import json
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.names import check_model_name, local_folder
from fastvlm_bench.models.same_tokenizer import differing_entries, entries_of

PROCESSORS = ("processor_config.json", "preprocessor_config.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")


def check_draft_model(method: str, source: str, target: str) -> None:
    """UsageError for a draft model that cannot draft for `target`, as far as folders tell. Hub ids are asked later.

    method: the method's name; `draft-model` needs the target's tokenizer.
    """
    try:
        check_model_name(source)
    except UsageError as error:
        raise UsageError(f"{method}:model={source}: {error}") from None
    folder, own = local_folder(source), local_folder(target)
    if folder is None:
        return
    try:
        config = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UsageError(f"{method}:model={source}: its config.json cannot be read; save the model again") from None
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UsageError(f"{method}:model={source}: the folder has no tokenizer; copy it from the model it belongs to")
    if _reads_images(config) and not any((folder / name).is_file() for name in PROCESSORS):
        raise UsageError(
            f"{method}:model={source}: the folder has no processor ({' or '.join(PROCESSORS)}), without which a model "
            "that reads images cannot be shown any; copy it from the model it belongs to"
        )
    if method == "draft-model" and own is not None:
        here, there = entries_of(own), entries_of(folder)
        if here is not None and there is not None and (found := differing_entries(here, there)):
            raise UsageError(other_tokenizer(source, target, found))


def other_tokenizer(source: str, target: str, found: str) -> str:
    """What is said where a draft model has another tokenizer than the target. found: what differs."""
    return (
        f"draft-model:model={source}: its tokenizer is not that of model '{target}': {found}; a draft model of another "
        f"vocabulary drafts by -m token-timing:model={source}"
    )


def _reads_images(config: Any) -> bool:
    return isinstance(config, dict) and any(key in config for key in ("vision_config", "image_token_id"))
