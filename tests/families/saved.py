"""Each family as a user has it: a folder with weights, tokenizer, image processor and chat template, made here."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from families.builders import FAMILIES, vary
from families.decoder_only import FASTVIT_SIDE
from families.others import kosmos2 as kosmos2_builder
from families.published import PUBLISHED
from families.saved_recurrent import NEED_TORCHVISION, RECURRENT
from families.shapes import VOCABULARY
from families.spelling import tokenizer
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from fastvlm_bench.models.load import Target
from fastvlm_bench.models.processor import load_processor, without_videos
from fastvlm_bench.suites.suite import load_suite, open_image

PATCH, SIDE = 8, 32
SIZE = {"height": SIDE, "width": SIDE}


def pil(name: str, **options: Any) -> Any:
    return getattr(hf, f"{name}ImageProcessorPil")(**options)


def _clip(**options: Any) -> Any:
    return pil("CLIP", size={"shortest_edge": SIDE}, crop_size=SIZE, **options)


def _siglip(**options: Any) -> Any:
    return pil("Siglip", size=SIZE, **options)


def llava(model: Any) -> Any:
    chat = PUBLISHED["llava"]
    return hf.LlavaProcessor(
        _clip(), chat.tokenizer("<image>"), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=chat.template,
    )  # fmt: skip


def fast_vlm(model: Any) -> Any:
    chat = PUBLISHED["fast_vlm"]
    side = {"height": FASTVIT_SIDE, "width": FASTVIT_SIDE}
    return hf.LlavaProcessor(
        pil("CLIP", size={"shortest_edge": FASTVIT_SIDE}, crop_size=side), chat.tokenizer("<image>"),
        patch_size=FASTVIT_SIDE // 2, vision_feature_select_strategy="full", num_additional_image_tokens=0,
        chat_template=chat.template,
    )  # fmt: skip


def llava_next(model: Any) -> Any:
    chat = PUBLISHED["llava_next"]
    images = pil("LlavaNext", size={"shortest_edge": SIDE}, crop_size=SIZE, image_grid_pinpoints=[[32, 64]])
    return hf.LlavaNextProcessor(
        images, chat.tokenizer("<image>"), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=chat.template,
    )  # fmt: skip


def llava_onevision(model: Any) -> Any:
    chat = PUBLISHED["llava_onevision"]
    images = pil("LlavaOnevision", size=SIZE, image_grid_pinpoints=[[32, 64]])
    return hf.LlavaOnevisionProcessor(
        images, chat.tokenizer("<image>", "<video>"), num_image_tokens=16, vision_feature_select_strategy="full",
        vision_aspect_ratio=model.config.vision_aspect_ratio, chat_template=chat.template,
    )  # fmt: skip


QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def _qwen(kind: Any, name: str) -> Any:
    chat = PUBLISHED[name]
    images = pil("Qwen2VL", patch_size=PATCH, size={"shortest_edge": 16 * 64, "longest_edge": 16 * 64})
    return kind(images, chat.tokenizer(*QWEN), chat_template=chat.template)


def qwen2_vl(model: Any) -> Any:
    return _qwen(hf.Qwen2VLProcessor, "qwen2_vl")


def qwen2_5_vl(model: Any) -> Any:
    return _qwen(hf.Qwen2_5_VLProcessor, "qwen2_5_vl")


def qwen3_vl(model: Any) -> Any:
    return _qwen(hf.Qwen3VLProcessor, "qwen3_vl")


def glm4v(model: Any) -> Any:
    chat = PUBLISHED["glm4v"]
    marks = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>",
             "<|end_of_video|>")  # fmt: skip
    images = pil("Glm4v", patch_size=PATCH, size={"shortest_edge": 16 * 64, "longest_edge": 2 * 16 * 64})
    return hf.Glm4vProcessor(images, chat.tokenizer(*marks), chat_template=chat.template)


IDEFICS = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<video>")


def idefics2(model: Any) -> Any:
    chat = PUBLISHED["idefics2"]
    images = pil("Idefics2", size={"shortest_edge": SIDE, "longest_edge": SIDE}, do_image_splitting=False)
    return hf.Idefics2Processor(images, chat.tokenizer(*IDEFICS), image_seq_len=4, chat_template=chat.template)


def idefics3(model: Any) -> Any:
    chat = PUBLISHED["idefics3"]
    images = pil(
        "Idefics3", size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    return hf.Idefics3Processor(images, chat.tokenizer(*IDEFICS), image_seq_len=4, chat_template=chat.template)


def smolvlm(model: Any) -> Any:
    chat = PUBLISHED["smolvlm"]
    images = pil(
        "SmolVLM", size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    return hf.SmolVLMProcessor(images, chat.tokenizer(*IDEFICS), None, image_seq_len=4, chat_template=chat.template)


def paligemma(model: Any) -> Any:
    return hf.PaliGemmaProcessor(_siglip(image_seq_length=16), tokenizer("<image>", image_token="<image>"))


def gemma3(model: Any) -> Any:
    chat = PUBLISHED["gemma3"]
    marks = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    return hf.Gemma3Processor(
        pil("Gemma3", size=SIZE), chat.tokenizer(*marks.values(), **marks), image_seq_length=4,
        chat_template=chat.template,
    )  # fmt: skip


def gemma4(model: Any) -> Any:
    chat = PUBLISHED["gemma4"]
    marks = {
        "image_token": "<|image|>", "video_token": "<|video|>", "audio_token": "<|audio|>", "boi_token": "<|image>",
        "eoi_token": "<image|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
    }  # fmt: skip
    images = pil("Gemma4", patch_size=PATCH, max_soft_tokens=70, pooling_kernel_size=2)
    return hf.Gemma4Processor(
        hf.Gemma4AudioFeatureExtractor(),
        images,
        chat.tokenizer(*marks.values(), **marks),
        None,
        image_seq_length=4,
        chat_template=chat.template,
    )  # fmt: skip


def internvl(model: Any) -> Any:
    chat = PUBLISHED["internvl"]
    marks = {
        "context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>",
        "video_token": "<video>",
    }  # fmt: skip
    images = pil("GotOcr2", size=SIZE, crop_to_patches=False)
    return hf.InternVLProcessor(
        images, chat.tokenizer(*marks.values(), **marks), image_seq_length=4, chat_template=chat.template
    )


def mllama(model: Any) -> Any:
    chat = PUBLISHED["mllama"]
    images = pil("Mllama", size=SIZE, max_image_tiles=1)
    spelling = chat.tokenizer()
    spelling.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
    return hf.MllamaProcessor(images, spelling, chat_template=chat.template)


def blip2(model: Any) -> Any:
    return hf.Blip2Processor(pil("Blip", size=SIZE), tokenizer("<image>"), num_query_tokens=4)


def instructblip(model: Any) -> Any:
    return hf.InstructBlipProcessor(pil("Blip", size=SIZE), tokenizer("<image>"), tokenizer(), num_query_tokens=4)


def _pixtral(**options: Any) -> Any:
    chat = PUBLISHED["pixtral"]
    marks = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    return hf.PixtralProcessor(
        pil("Pixtral", size={"longest_edge": SIDE}, patch_size=PATCH), chat.tokenizer(*marks), patch_size=PATCH,
        image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]",
        chat_template=chat.template, **options,
    )  # fmt: skip


def mistral3(model: Any) -> Any:
    return _pixtral(spatial_merge_size=2)


def pixtral(model: Any) -> Any:
    return _pixtral()


def aya_vision(model: Any) -> Any:
    chat = PUBLISHED["aya_vision"]
    marks = ("<|IMG_PATCH|>", "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE",
             "TILE_GLOBAL")  # fmt: skip
    images = pil("GotOcr2", size=SIZE, crop_to_patches=False)
    return hf.AyaVisionProcessor(
        images, chat.tokenizer(*marks), patch_size=PATCH, img_size=SIDE, downsample_factor=2,
        chat_template=chat.template,
    )  # fmt: skip


def lfm2_vl(model: Any) -> Any:
    chat = PUBLISHED["lfm2_vl"]
    marks = ("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>")
    images = hf.Lfm2VlImageProcessor(
        encoder_patch_size=PATCH, downsample_factor=2, do_image_splitting=False, min_image_tokens=4,
        max_image_tokens=4, max_num_patches=16, tile_size=SIDE, use_thumbnail=False,
    )  # fmt: skip
    return hf.Lfm2VlProcessor(images, chat.tokenizer(*marks), chat_template=chat.template)


def llama4(model: Any) -> Any:
    chat = PUBLISHED["llama4"]
    marks = ("<|patch|>", "<|image_start|>", "<|image_end|>", "<|image|>", "<|tile_x_separator|>",
             "<|tile_y_separator|>")  # fmt: skip
    images = hf.Llama4ImageProcessor(size=SIZE, max_patches=1, resize_to_max_canvas=False)
    return hf.Llama4Processor(
        images, chat.tokenizer(*marks), patch_size=PATCH, pixel_shuffle_ratio=0.5, chat_template=chat.template
    )


def kosmos2(model: Any) -> Any:
    return hf.Kosmos2Processor(_clip(), tokenizer("<image>"))


def florence2(model: Any) -> Any:
    return hf.Florence2Processor(_clip(image_seq_length=17), tokenizer("<image>", image_token="<image>"))


PROCESSORS: dict[str, Callable[[Any], Any]] = {
    f.__name__: f
    for f in (
        llava, fast_vlm, llava_next, llava_onevision, qwen2_vl, qwen2_5_vl, qwen3_vl, glm4v, idefics2, idefics3,
        smolvlm, paligemma, gemma3, gemma4, internvl, mllama, blip2, instructblip, mistral3, pixtral,
        aya_vision, lfm2_vl, llama4, kosmos2, florence2,
    )
} | RECURRENT | {"paligemma2": paligemma, "blip2_t5": blip2, "instructblip_t5": instructblip}  # fmt: skip


NEEDED = {
    "smolvlm": ("torchvision", "num2words"), "mistral3": ("torchvision",), "pixtral": ("torchvision",),
    "lfm2_vl": ("torchvision",), "llama4": ("torchvision",), "fast_vlm": ("timm",),
} | NEED_TORCHVISION  # fmt: skip
"""The packages without which a family's own processor or image encoder cannot be made."""


def unmade(name: str) -> str | None:
    """The first package that is missing here for this family's processor; None if it can be made.

    A torchvision that was built for another torch is there, and cannot be imported: an error, not a skipped test.
    """
    return next((package for package in NEEDED.get(name, ()) if importlib.util.find_spec(package) is None), None)


def save(name: str, folder: Path, count: int = 24) -> Path:
    """Write the family's checkpoint folder, as `save_pretrained` does for any user.

    The weights are of the first seed whose answer to a caption prompt has varied tokens.
    """
    torch.manual_seed(0)
    model, _ = kosmos2_builder(VOCABULARY + 11 + 1024, 64) if name == "kosmos2" else FAMILIES[name]()
    model.save_pretrained(folder)
    with without_videos():
        processor = PROCESSORS[name](model)
    save_processor(processor, model, folder)
    target = Target(str(folder), model, load_processor(str(folder)), torch.device("cpu"), None)
    sample = load_suite("coco-caption", limit=1).samples[0]
    vary(model, target.encode(open_image(sample), sample.prompt), count)
    model.save_pretrained(folder)
    return folder


def save_processor(processor: Any, model: Any, folder: Path) -> None:
    """Write a processor's files, without torchvision, too."""
    kind, parts = type(processor), type(processor).get_attributes()
    if "video_processor" in parts and importlib.util.find_spec("torchvision"):  # every user's checkpoint has one
        processor.video_processor = VIDEO_PROCESSOR_MAPPING[type(model.config)]["torchvision"]()
    if getattr(processor, "video_processor", model) is None:  # `save_pretrained` would ask it for its configuration
        parts = [part for part in parts if part != "video_processor"]
    kind.get_attributes = classmethod(lambda cls: parts)
    try:
        processor.save_pretrained(folder)
    finally:
        del kind.get_attributes
