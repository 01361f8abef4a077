"""The speculative loops of transformers, called as a user calls them and watched from outside.

Nothing of such a loop is replaced. A stopping criterion, which the loop calls after each of its passes, reads the clock
and the number of tokens, and a wrapper around its candidate generator counts and times the drafts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import FloatTensor, LongTensor, Tensor
from transformers import StoppingCriteria

from fastvlm_bench.engine.accept import accept_greedy
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.rows import Row, traced
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import LoopFailed, UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Round


@dataclass
class Pass:
    """One pass of the target. length: of prompt and output after it. known: the clock (s) then.

    drafts: what the candidate generator had proposed, (k,), and the seconds that this took.
    """

    length: int
    known: float
    drafts: Tensor | None
    draft_s: float


class Watch(StoppingCriteria):
    """Reads the clock after each pass of the loop, and at each call of its candidate generator. It never stops it."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.passes = clock, list[Pass]()
        self._drafts: Tensor | None = None
        self._draft_s = 0.0

    def __call__(self, input_ids: LongTensor, scores: FloatTensor, **kwargs: Any) -> Any:
        input_ids[:, -1].tolist()  # known on the host, as the other methods know their tokens
        self.passes.append(Pass(input_ids.shape[1], self.clock.now(), self._drafts, self._draft_s))
        self._drafts, self._draft_s = None, 0.0
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    @contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        """Let the model hand out candidate generators that are watched, within the block."""
        make = model._get_candidate_generator

        def watched(*args: Any, **kwargs: Any) -> Any:
            generator = make(*args, **kwargs)
            generator.get_candidates = self._timed(generator.get_candidates)
            return generator

        model._get_candidate_generator = watched
        try:
            yield
        finally:
            del model._get_candidate_generator

    def _timed(self, get_candidates: Any) -> Any:
        def timed(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            began = self.clock.now()
            candidates, logits = get_candidates(input_ids, *args, **kwargs)
            self._drafts = candidates[0, input_ids.shape[1] :]
            self._draft_s = self.clock.now() - began
            return candidates, logits

        return timed


class TransformersLoop(Method):
    """A loop of transformers that `generate` chooses by its own arguments (`asked`). It decodes single sequences.

    The loop drafts before the prefill, too. The first token that this pass gives counts as the prefill's; the others
    are a round without seconds.
    """

    takes_batches = False

    def asked(self, model: Any) -> dict[str, Any]:
        """The arguments of `generate` that choose the loop."""
        raise NotImplementedError

    def round(self, session: Session) -> list[Round]:
        raise UsageError(f"{type(self).__name__} is a loop of transformers: call generate with its own arguments, not "
                         "with custom_generate")  # fmt: skip

    def generate(self, model: Any, decode: Any, **options: Any) -> None:
        """Decode once. LoopFailed, whatever the loop raises."""
        watch, ids = Watch(self.clock), options["input_ids"]
        began = self.clock.synchronised()
        try:
            with watch.watching(model):
                # The watch comes first: a token is known before other criteria look at it, as in our own loop.
                criteria = [watch, *(options.pop("stopping_criteria", None) or ())]
                sequences = model.generate(**options, **self.asked(model), stopping_criteria=criteria)
        except Exception as error:  # its faults are part of what is measured
            failure = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:160]}"
        else:
            failure = ""
        if failure:
            raise LoopFailed(failure)
        ended = self.clock.synchronised()
        start = 1 if model.config.is_encoder_decoder else ids.shape[1]
        given = options.get("eos_token_id", model.generation_config.eos_token_id)
        eos = [given] if isinstance(given, int) else list(given or [])
        tokens = sequences[0, start:].tolist()
        # Its criteria are called once a pass, so accepted drafts may go beyond what should have stopped it.
        stop = "length" if len(tokens) >= options["max_new_tokens"] else "criteria"
        row = Row(0, 0, tokens, "eos" if tokens[-1] in eos else stop)
        for place, now in enumerate(watch.passes):
            row.rounds += _rounds(now, tokens, now.length - start, watch.passes[place - 1] if place else None)
        row.decode_s = ended - watch.passes[0].known
        self.trace = traced([row], began, watch.passes[0].known, ended)


def _rounds(now: Pass, tokens: Sequence[int], count: int, before: Pass | None) -> list[Round]:
    """The round that a pass was, if any. tokens: the whole output, of which `count` were known after the pass."""
    drafts = [] if now.drafts is None else now.drafts.tolist()
    if before is None:  # the prefill: its first token is no round's
        drafts, emitted, draft_s, verify_s = drafts[1:], count - 1, 0.0, 0.0
    else:
        emitted, draft_s = now.length - before.length, now.draft_s
        verify_s = max(now.known - before.known - draft_s, 0.0)
    if not emitted:
        return []
    accepted = accept_greedy(drafts, tokens[count - emitted : count])
    tested = accepted + (accepted < min(len(drafts), emitted))
    rejected = drafts[accepted:] if tested > accepted else ()
    return [Round(len(drafts), tested, accepted, emitted, draft_s, verify_s, rejected)]
