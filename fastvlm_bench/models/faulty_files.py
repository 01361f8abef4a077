"""Which file of a checkpoint folder is at fault, looked for once loading has failed: other libraries seldom name it."""

import json
from pathlib import Path

from transformers import GenerationConfig

from fastvlm_bench.models.checkpoint_settings import DECIDED, FILE

JSON_FILES = (
    "config.json", FILE, "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
    "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json",
    "model.safetensors.index.json", "pytorch_model.bin.index.json",
)  # fmt: skip
"""Files that a checkpoint may have, each of them one JSON object."""
IMAGE_FILES = ("processor_config.json", "preprocessor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""What a processor and a tokenizer are made from: a folder has at least one of each."""


def faulty_file(folder: Path) -> str | None:
    """In one line, which file is no JSON object, has a setting that transformers refuses, or is missing; else None."""
    for name in JSON_FILES:
        if why := _damage(folder / name):
            return f"{folder / name} is damaged, it {why}; copy it anew"
    if field := _refused_setting(folder / FILE):
        return f"{folder / FILE} has {field}; mend it, or leave it out of the file, for a run decides it"
    for what, names in (("image processor", IMAGE_FILES), ("tokenizer", TOKENIZER_FILES)):
        if not any((folder / name).is_file() for name in names):
            return f"{folder} has no {what}: none of {', '.join(names)}; take its files again from where they came"
    return None


def _damage(path: Path) -> str | None:
    """Why a file that is there is no JSON object; None where it is one, or where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        return None if isinstance(json.loads(text), dict) else "is no JSON object"
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({' '.join(str(error).split())[:120]})"


def _refused_setting(path: Path) -> str | None:
    """The first generation setting of those that a run decides which transformers refuses, with its message."""
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for field in DECIDED:
        if told.get(field) is not None:
            try:
                GenerationConfig(**{field: told[field]})
            except Exception as error:  # whatever a wrong value makes transformers raise
                return f"{field}={told[field]!r}, which transformers refuses ({' '.join(str(error).split())[:160]})"
    return None
