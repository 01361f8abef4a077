"""Loads a second model that drafts for a target: a smaller VLM, which sees the image, or a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from PIL import Image

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.fingerprint import weights_sha256
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.models.prompting import Earlier, messages_of, template_refuses

_loaded: WeakValueDictionary[tuple[str, ...], Target] = WeakValueDictionary()


@dataclass
class TextModel(Target):
    """A language model that drafts without seeing the image. Its processor is its tokenizer."""

    def render(self, prompt: str, images: int = 0, earlier: Earlier = ()) -> str:
        """The prompt in the tokenizer's chat template, without an image; as it stands where there is no template."""
        parts = messages_of(prompt, 0, earlier)
        plain = [{**message, "content": message["content"][0]["text"]} for message in parts]
        if getattr(self.processor, "chat_template", None) is None:
            return "\n".join(str(message["content"]) for message in plain)
        refused = None
        for messages in (plain, parts):  # templates of VLMs take parts alone
            try:
                text = str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
            except Exception as error:  # a template is a program of the checkpoint's
                refused = error
                continue
            if prompt in text:
                return text
        if refused is not None:
            raise template_refuses(self.id, refused)
        raise UsageError(f"the chat template of model '{self.id}' leaves the prompt out: mend its chat_template.jinja")

    def encode(
        self, image: Image.Image | Sequence[Image.Image], prompt: str, earlier: Earlier = ()
    ) -> dict[str, Any]:  # fmt: skip
        """As in `Target`; the images are left out."""
        text = self.render(prompt, earlier=earlier)
        written = bool(self.processor.bos_token) and text.startswith(self.processor.bos_token)  # by the template
        found = self.processor(text, return_tensors="pt", add_special_tokens=not written)
        return {key: found[key].to(self.device) for key in ("input_ids", "attention_mask")}


def described(model: Target) -> dict[str, Any]:
    """What a record tells of a second model: its short name, where it came from, and its weights' hash."""
    name = model.id.rstrip("/").rpartition("/")[2]
    return {"name": name, "source": model.id, "sha256": weights_sha256(model.model)}


def weight_bytes(model: Target) -> int:
    """Bytes of a second model's parameters."""
    return sum(parameter.nbytes for parameter in model.model.parameters())


def tokenizer_of(model: Target) -> Any:
    return getattr(model.processor, "tokenizer", model.processor)


def load_draft_model(source: str, target: Target) -> Target:
    """Load the model to draft for `target`: on its device, in its dtype, offline if it was, without adapting either.

    Methods that name the same model share it. UsageError, in one line, where it cannot be loaded or prompted.
    """
    dtype = str(target.model.dtype).removeprefix("torch.")
    key = (source, str(target.device), dtype)
    if (known := _loaded.get(key)) is not None:
        return known
    try:
        loaded = load_target(
            source, device=str(target.device), dtype=dtype, offline=target.offline,
            trust_remote_code=target.trust_remote_code, text_alone=True,
        )  # fmt: skip
        if tokenizer_of(loaded) is loaded.processor:
            loaded = TextModel(**vars(loaded))
        loaded.render("What is it?")
    except UsageError as error:
        raise UsageError(f"the draft model cannot be used: {error}") from None
    _loaded[key] = loaded
    return loaded
