"""Finds a suite's longest prompt, for which a model must have positions and memory."""

import math
from typing import Any

from PIL import Image

from fastvlm_bench.checks.self_check import one_line
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.models.prompting import Earlier
from fastvlm_bench.suites.image_files import image_size
from fastvlm_bench.suites.suite import Sample, Suite, open_images


def longest_prompt(target: Target, suite: Suite, limit: int) -> tuple[dict[str, Any], Sample, dict[str, Any]]:
    """Find the suite's longest prompt, and the longest that fits the model together with `limit` new tokens.

    Returns ({sample_id, prompt_tokens, fits} of the longest, with `earlier_tokens` if it is a later turn, the sample of
    the longest that fits, that one's inputs).
    To encode all samples would take minutes, so only those with the longest text, the largest images, the most images
    and the shortest text are. But every text is rendered, so that one which the model family cannot be asked is
    reported here. A later turn counts with the longest answers that there can be to those before. UsageError for a
    sample that the family cannot read, or where none of these prompts fits.
    """
    texts = [len(_rendered(target, suite, sample)) for sample in suite.samples]
    order = sorted(range(len(texts)), key=texts.__getitem__)
    pixels = {path: math.prod(image_size(path)) for sample in suite.samples for path in sample.image_paths}
    sizes = [sum(pixels[path] for path in sample.image_paths) for sample in suite.samples]
    most_images = max(order, key=lambda i: len(suite.samples[i].image_paths))
    tried = []
    for place in dict.fromkeys((order[-1], max(order, key=sizes.__getitem__), most_images, order[0])):
        sample = suite.samples[place]
        inputs = encode(target, sample)
        tried.append((int(inputs["input_ids"].shape[1]) + limit * len(sample.earlier), sample, inputs))
    tried.sort(key=lambda each: each[0])
    most, longest, _ = tried[-1]
    there = positions(target.model)
    fitting = [each for each in tried if there is None or each[0] + limit <= there]
    if not fitting:
        remedy = "lower --max-new-tokens" if tried[0][0] < (there or 0) else "choose another suite or model"
        raise UsageError(
            f"{suite.name}: a prompt of {tried[0][0]} tokens + limit of {limit} is more than the model's {there} "
            f"positions; {remedy}"
        )
    found = {"sample_id": longest.sample_id, "prompt_tokens": most, "fits": fitting[-1][0] == most}
    found |= {"earlier_tokens": limit * len(longest.earlier)} if longest.earlier else {}
    return found, fitting[-1][1], fitting[-1][2]


UNSAID = "…"
"""Stands for an answer that is not known yet."""


def unsaid(sample: Sample) -> tuple[tuple[str, str], ...]:
    """The turns before a sample's, with `UNSAID` as the answer to each."""
    return tuple((prompt, UNSAID) for prompt in sample.earlier)


def _rendered(target: Target, suite: Suite, sample: Sample) -> str:
    """The text of a sample. UsageError that names it where several images or turns are what the family cannot take."""
    if not (sample.earlier or sample.more_images):
        return target.render(sample.prompt)
    try:
        return target.render(sample.prompt, len(sample.image_paths), unsaid(sample))
    except UsageError as error:
        raise UsageError(f"{suite.name}, sample {sample.sample_id}: {error}") from None


def encode(target: Target, sample: Sample) -> dict[str, Any]:
    """The processor's outputs for one sample. UsageError where it cannot read it."""
    return encoded(target, open_images(sample), sample.prompt, sample.sample_id, unsaid(sample))


def encoded(
    target: Target, image: Image.Image | list[Image.Image], prompt: str, sample_id: str, earlier: Earlier = ()
) -> dict[str, Any]:  # fmt: skip
    """The processor's outputs for a prompt and its image or images, after the turns before.

    The processor may be the checkpoint's own code, so every kind of error that it raises becomes a UsageError.
    """
    asked = f"{len(image)} images" if isinstance(image, list) else "one image"
    try:
        inputs = target.encode(image, prompt, earlier) if earlier else target.encode(image, prompt)
        if inputs["input_ids"].ndim != 2:
            raise ValueError("input_ids have no rows")
        if len(inputs["input_ids"]) != 1:
            raise ValueError(f"input_ids have {len(inputs['input_ids'])} rows, of {asked} and text")
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{type(target.processor).__name__} cannot read sample {sample_id}: {one_line(error)}; "
            f"{type(target.model).__name__} must read {asked} and a text"
        ) from error
    return inputs


def positions(model: Any) -> int | None:
    """How many positions the text decoder has. None where its configuration does not say, or for encoder-decoders."""
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False):
        return None
    found = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None
