"""What decoding would choose along a known text: the largest logit after the model's own logits processors.

A model's generation settings may ask for a repetition penalty, suppressed tokens, a forced first or last token, or a
minimum length. `run` applies them to target and draft alike (`Session.choose`), so whatever predicts the acceptance of
a run must apply them, too.
"""

from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.session import placeholders
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example


class Choosing:
    """Chooses tokens as decoding with one target does. `placeholders`: the token ids that are never drafted."""

    def __init__(self, target: Target) -> None:
        self.target, self.placeholders = target, placeholders(target.model)
        self._changes: bool | None = None
        self._known: dict[Example, _Prepared] = {}

    def along(self, example: Example, logits: Tensor) -> Tensor:
        """The token chosen at each of the text's n taught positions, (n,). logits: (n, vocab)."""
        if self._changes is None:
            self._changes = len(self._prepared(example).processors) > 0
        if self._changes:
            own = self._prepared(example)
            answer = torch.tensor([example.answer], device=own.prompt.device)
            ids, before = torch.cat([own.prompt, answer], dim=1), own.prompt.shape[1] + 1
            logits = torch.cat([
                own.processors(ids[:, : before + place], row[None].to(torch.float32, copy=True))
                for place, row in enumerate(logits)
            ])  # fmt: skip
        return logits.max(dim=-1).indices

    def _prepared(self, example: Example) -> "_Prepared":
        if example not in self._known:
            self._known[example] = seen = _Prepared()
            unstopped(self.target.model)(
                **example.inputs(self.target), max_new_tokens=example.most, do_sample=False, num_beams=1,
                custom_generate=seen,
            )  # fmt: skip
        return self._known[example]


class _Prepared:
    """A `custom_generate` that decodes nothing. It keeps what `generate` prepared: logits processors and prompt ids."""

    processors: Any
    prompt: Tensor

    def __call__(self, model: Any, input_ids: Tensor, *, logits_processor: Any, **prepared: Any) -> Tensor:
        self.processors, self.prompt = logits_processor, input_ids
        return input_ids
