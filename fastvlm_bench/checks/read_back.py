"""Reads a given answer through the target in blocks, to get its logits when several tokens pass at once.

A block of one token is a pass of standard decoding. Larger blocks run other kernels, which add in another order, and
the router of a mixture of experts may choose another expert. How far their logits lie from those of single tokens is
the noise to which every method that verifies in blocks is exposed, whatever it drafts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.recurrent_state import undoable
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.layers import decoder_layers


def read_back(
    model: Any, inputs: dict[str, Any], tokens: Sequence[int], block: int, generation: Mapping[str, Any]
) -> Tensor:
    """The target's logits for each token of an answer but the first, (tokens − 1, vocabulary), in float32.

    Row i has read token i and predicts token i + 1, with the logits processors applied. inputs: the prompt, as for
    `generate`. tokens: the answer's ids, at least two. block: how many tokens pass at once, at least 1. UsageError if
    the model has recurrent layers whose states cannot be kept.
    """
    probe = _Reader(tokens, block)
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=len(tokens), custom_generate=probe, **generation)
    return torch.cat(probe.rows)


class _Reader:
    def __init__(self, tokens: Sequence[int], block: int) -> None:
        self.tokens, self.block, self.rows = list(tokens), block, list[Tensor]()

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        session.prefill()
        session.replace_last(self.tokens[0])
        session.record_past()  # a recurrent layer takes several tokens at once only where it keeps its states
        with undoable(decoder_layers(model)):
            for start in range(0, len(self.tokens) - 1, self.block):
                end = min(start + self.block, len(self.tokens) - 1)
                outputs = session.forward_block(end - start, self.tokens[1:end])
                session.advance_kwargs(outputs, session.kwargs, 1)
                session.roll_back(0)
                self.rows.append(session.processed(outputs.logits, start).float())
        return session.sequences
