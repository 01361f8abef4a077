"""Reads given texts through the plain model, by the loops of transformers alone: no layer gate, no session of ours.

One token per pass is `_sample`, the loop of `generate`. Blocks are `_assisted_decoding`, in which the text itself is
the candidate, so that every block stands. A batch is `_sample` again. How far blocks, or a batch, move the logits of
single passes is the model's own doing: the noise to which every method that verifies in blocks is exposed. Nothing of
what is judged by this noise takes part in it, so no fault of a method can excuse itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.candidate_generator import CandidateGenerator

from fastvlm_bench.engine.measure import GREEDY
from fastvlm_bench.models.checkpoint_settings import unstopped

FAULTS = (AttributeError, AssertionError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
          ValueError)  # fmt: skip
"""What a model raises that cannot be decoded in the way it is asked to."""
See = Callable[[int, int, Tensor], None]
"""Called with a row's number, a token's index in its text, and the logits, (vocab,), from which it was chosen."""


def read(
    model: Any, inputs: Mapping[str, Any], texts: Sequence[Sequence[int]], see: See, *, block: int | Sequence[int] = 1,
    generation: Mapping[str, Any] = GREEDY, limit: int | None = None, raw: bool = False,
) -> None:  # fmt: skip
    """Read each row's text, new token ids, after its prompt. `see` gets the logits in order, each once.

    inputs: as for `generate`, a row for each text; several rows are read with `block` 1 only. block: how many tokens
    pass at once, or the sizes of the passes after the prefill, of which the last is repeated. limit: the token limit
    that logits processors are told; by default the longest text. raw: show the logits before any logits processor.
    An EOS within a text does not end it. Whatever transformers raises where it cannot read so is raised.
    """
    longest = max(map(len, texts))

    def loop(model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        start = input_ids.shape[1]
        before = [] if raw else prepared["logits_processor"]
        prepared["logits_processor"] = LogitsProcessorList([*before, _Forced(texts, start, see)])
        prepared["stopping_criteria"] = StoppingCriteriaList([_Until(start + longest)])
        prepared["generation_config"]._eos_token_tensor = None  # it is `generate`'s own copy
        if block == 1:
            found: Tensor = model._sample(input_ids, **prepared)
            return found
        sizes = [block] if isinstance(block, int) else block
        with _candidates(model, _Blocks(texts[0], sizes, start)):
            found = model._assisted_decoding(input_ids, **prepared)
        return found

    with torch.inference_mode():
        unstopped(model)(**inputs, max_new_tokens=max(limit or 0, longest), custom_generate=loop, **generation)


class _Forced(LogitsProcessor):
    """Shows what the model says at each place of the texts, then leaves it only the text's token to choose.

    start: how many ids precede the texts. That is not always the prompt: an encoder-decoder's answer follows a start
    token.
    """

    def __init__(self, texts: Sequence[Sequence[int]], start: int, see: See) -> None:
        self.texts, self.start, self.see = texts, start, see

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        index, forced = input_ids.shape[1] - self.start, torch.full_like(scores, -torch.inf)
        for row, text in enumerate(self.texts):
            if index < len(text):
                self.see(row, index, scores[row].to(torch.float32, copy=True))  # assisted decoding reuses it
            forced[row, text[min(index, len(text) - 1)]] = 0.0  # a row that has been read repeats its last token
        return forced


class _Until(StoppingCriteria):
    """Stops once there are so many ids."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length, device=input_ids.device)


class _Blocks(CandidateGenerator):
    """Proposes the text itself. The prefill gives its first token; then as many tokens pass at once as `sizes` say."""

    requires_model_outputs = False

    def __init__(self, text: Sequence[int], sizes: Sequence[int], start: int) -> None:
        self.text, self.sizes, self.start, self.passes = list(text), list(sizes), start, 0

    def get_candidates(self, input_ids: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        done = input_ids.shape[1] - self.start
        if not done:
            return input_ids, None
        size = self.sizes[min(self.passes, len(self.sizes) - 1)]
        self.passes += 1
        ahead = self.text[done : min(done + size, len(self.text)) - 1]  # the last token is chosen, but never read
        return torch.cat([input_ids, input_ids.new_tensor([ahead])], dim=1) if ahead else input_ids, None

    def update_candidate_strategy(self, *_: Any, **__: Any) -> None:
        """The sizes are given."""


@contextmanager
def _candidates(model: Any, generator: CandidateGenerator) -> Iterator[None]:
    """Let assisted decoding take its candidates from `generator`."""
    model._get_candidate_generator = lambda *_, **__: generator
    try:
        yield
    finally:
        del model._get_candidate_generator
