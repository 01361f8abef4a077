"""The states that enter the target's LM head: a draft that stands at the end reads them, and pays nothing for them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.engine import Watcher
from fastvlm_bench.models.layers import output_embeddings


class LastStates(Watcher):
    """Watches the LM head of one model. UsageError if none is found.

    latest: what entered it in the latest pass of the model, (rows, positions, width); None before the first.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.output = model, output_embeddings(model)
        self.latest: Tensor | None = None
        self._after: tuple[float, float | None] | None = None

    @contextmanager
    def watched(self) -> Iterator["LastStates"]:
        """Watch for the time of one generation."""
        with ExitStack() as hooks:
            hooks.callback(self.output.register_forward_pre_hook(self._arrive).remove)
            if self._after is None:
                hooks.callback(self.model.register_forward_hook(self._compare).remove)
            yield self
            self.latest = None

    def output_of(self, states: Tensor) -> Tensor:
        """(…, width) -> (…, vocabulary): the LM head's own output, of states that did not come by the model's pass."""
        raw: Tensor = self.output.forward(states)  # not by a call, which would be watched
        return raw

    def logits(self, raw: Tensor) -> Tensor:
        """What the model makes of its LM head's output: it may be scaled, and capped softly. float32."""
        scale, cap = self._after or (1.0, None)
        raw = raw.float() if scale == 1.0 else raw.float() * scale
        return raw if cap is None else torch.tanh(raw / cap) * cap

    def taken(self) -> tuple[Tensor, ...]:
        return () if self.latest is None else (self.latest,)

    def take(self, found: tuple[Tensor, ...]) -> None:
        (self.latest,) = found or (None,)

    def _arrive(self, _: Any, given: tuple[Any, ...]) -> None:
        self.latest = given[0]

    def _compare(self, _: Any, __: Any, result: Any) -> None:
        """After the first pass: find what follows the LM head. Not every model heeds what its text model's config says.

        A wrong guess would cost acceptance and never exactness, so the closest is taken.
        """
        if self._after is not None or self.latest is None or getattr(result, "logits", None) is None:
            return
        text = self.model.config.get_text_config(decoder=True)
        scales = dict.fromkeys((1.0, float(getattr(text, "logit_scale", None) or 1.0)))
        caps = dict.fromkeys((None, getattr(text, "final_logit_softcapping", None)))
        own, raw = result.logits[:, -1].float(), self.output_of(self.latest[:, -1])
        gaps: dict[tuple[float, float | None], float] = {}
        for self._after in [(scale, cap) for scale in scales for cap in caps]:
            gaps[self._after] = float((self.logits(raw) - own).abs().max())
        self._after = min(gaps, key=lambda after: gaps[after])
