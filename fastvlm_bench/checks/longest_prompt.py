"""Finds a suite's longest prompt, for which a model must have positions and memory."""

import math
from typing import Any

from PIL import Image

from fastvlm_bench.checks.self_check import one_line
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.suites.image_files import image_size
from fastvlm_bench.suites.suite import Sample, Suite, open_image


def longest_prompt(target: Target, suite: Suite, limit: int) -> tuple[dict[str, Any], Sample, dict[str, Any]]:
    """Find the suite's longest prompt, and the longest that fits the model together with `limit` new tokens.

    Returns ({sample_id, prompt_tokens, fits} of the longest, the sample of the longest that fits, that one's inputs).
    To encode all samples would take minutes, so only those with the longest text, the largest image and the shortest
    text are. But every text is rendered, so that one which the model family cannot be asked is reported here.
    UsageError for such a text, or where none of the three prompts fits.
    """
    texts = [len(target.render(sample.prompt)) for sample in suite.samples]
    order = sorted(range(len(texts)), key=texts.__getitem__)
    pixels = {path: math.prod(image_size(path)) for path in {sample.image_path for sample in suite.samples}}
    largest = max(order, key=lambda i: pixels[suite.samples[i].image_path])
    tried = []
    for place in dict.fromkeys((order[-1], largest, order[0])):
        sample = suite.samples[place]
        inputs = encode(target, sample)
        tried.append((int(inputs["input_ids"].shape[1]), sample, inputs))
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
    return found, fitting[-1][1], fitting[-1][2]


def encode(target: Target, sample: Sample) -> dict[str, Any]:
    """The processor's outputs for one sample. UsageError where it cannot read it."""
    return encoded(target, open_image(sample), sample.prompt, sample.sample_id)


def encoded(target: Target, image: Image.Image, prompt: str, sample_id: str) -> dict[str, Any]:
    """The processor's outputs for one image and prompt.

    The processor may be the checkpoint's own code, so every kind of error that it raises becomes a UsageError.
    """
    try:
        inputs = target.encode(image, prompt)
        if inputs["input_ids"].ndim != 2:
            raise ValueError("input_ids have no rows")
        if len(inputs["input_ids"]) != 1:
            raise ValueError(f"input_ids have {len(inputs['input_ids'])} rows, of one image and text")
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{type(target.processor).__name__} cannot read sample {sample_id}: {one_line(error)}; "
            f"{type(target.model).__name__} must read an image and a text"
        ) from error
    return inputs


def positions(model: Any) -> int | None:
    """How many positions the text decoder has. None where its configuration does not say, or for encoder-decoders."""
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False):
        return None
    found = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None
