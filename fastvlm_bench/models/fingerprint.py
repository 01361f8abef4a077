"""Identifies a target by its weights and its processor, whatever folder, revision or dtype it was loaded from."""

import hashlib
import json
from typing import Any

import torch

from fastvlm_bench.models.packed import plain
from fastvlm_bench.models.tensor_parallel import whole

_FULL_BYTES = 1 << 20


def weights_sha256(model: Any) -> str:
    """SHA-256 over every parameter's name, shape and values, as float32; cached on the model.

    Only the first and the last MiB of a parameter larger than 2 MiB are hashed, so that billions of weights take
    seconds. Values are hashed as float32, so that a float16 checkpoint has one fingerprint, whether it is loaded in
    float32 or float16. Where loading rounds the values, `load_target` hashes the stored ones instead: a draft fits its
    target in any dtype.
    """
    cached = getattr(model, "_fastvlm_bench_sha256", None)
    if cached is not None:
        return str(cached)
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = whole(plain(parameter.detach())).flatten()
        edge = _FULL_BYTES // 4
        pieces = [flat] if flat.numel() <= 2 * edge else [flat[:edge], flat[-edge:]]
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        for piece in pieces:
            digest.update(piece.to("cpu", torch.float32).contiguous().numpy().tobytes())
    model._fastvlm_bench_sha256 = digest.hexdigest()
    return str(model._fastvlm_bench_sha256)


def set_weights_sha256(model: Any, digest: str) -> None:
    """Give a model that was loaded in a dtype that rounds the fingerprint of its checkpoint."""
    model._fastvlm_bench_sha256 = digest


def rounds(stored: Any, wanted: Any) -> bool:
    """Whether values of the dtype `stored` may change when they are loaded as `wanted`."""
    known = (torch.float32, torch.bfloat16, torch.float16)
    return stored in known and wanted in known and wanted not in (stored, torch.float32)


def processor_sha256(processor: Any) -> str:
    """SHA-256 of what turns an image and a text into model inputs: tokenizer, chat template, settings of each part.

    Names, paths and package versions are left out, so that the same processor in another folder has the same digest.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces: dict[str, Any] = {
        "tokenizer": backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        "template": getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None),
    }
    for name in ("image_processor", "video_processor", "feature_extractor"):
        if (part := getattr(processor, name, None)) is not None:
            settings = part.to_dict()
            pieces[name] = {
                key: settings[key] for key in settings if key not in ("_name_or_path", "transformers_version")
            }
    return hashlib.sha256(json.dumps(pieces, sort_keys=True, default=str).encode()).hexdigest()


_UNSAID = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id",
           "architectures", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset", "auto_map",
           "processor_class", "image_processor_type", "video_processor_type", "feature_extractor_type")  # fmt: skip
"""Fields of a configuration that decide no output, or are recorded elsewhere."""


def config_fields(config: Any) -> dict[str, Any]:
    """Every field of a model's configuration, parts included, that may decide an output or a time, as JSON has it."""
    return dict(_said(config.to_dict()))


def processor_fields(processor: Any) -> dict[str, Any]:
    """The settings of a processor and of each of its parts, as JSON; of the tokenizer and the template the SHA-256."""
    tokenizer = getattr(processor, "tokenizer", processor)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    found: dict[str, Any] = {
        "tokenizer_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "template_sha256": hashlib.sha256(json.dumps(template, sort_keys=True, default=str).encode()).hexdigest(),
    }
    for name in ("image_processor", "video_processor", "feature_extractor"):
        if (part := getattr(processor, name, None)) is not None:
            found[name] = _said(part.to_dict())
    for name, value in vars(processor).items():  # its own: the size of a patch, how many places an image takes
        if isinstance(value, int | float | str | bool) and name != "chat_template" and not name.startswith("_"):
            found[name] = value
    return found


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _said(own) for key, own in value.items() if key not in _UNSAID}
    if isinstance(value, list | tuple):
        return [_said(own) for own in value]
    return value if value is None or isinstance(value, int | float | str | bool) else str(value)
