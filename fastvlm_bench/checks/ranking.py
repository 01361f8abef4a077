"""Ranks given answers by log-likelihood, as VisDial asks: a property of the model, which no decoding loop changes.

An answer's log-likelihood is Σ log p over its tokens and the end token after them, each given the image, the prompt
and the tokens before. p comes from the raw logits (temperature 1, no logits processors). VisDial's own generative
decoder ranks by this sum (batra-mlp-lab/visdial-challenge-starter-pytorch, decoders/gen.py). Others rank by the mean,
the sum divided by the number of these tokens. The prompt passes the model once; its KV is repeated for as many answers
as memory allows.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from fastvlm_bench.decoding.build import Built
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.measure import cache_bytes
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import NonFiniteLogits
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.metrics.visdial_ranking import ranks_of
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.load import Target

CACHE_BYTES, LOGIT_BYTES = 1 << 30, 1 << 28
"""How many bytes the repeated KV, and the logits, of the answers that are read together may take."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""By how much an answer's log-likelihood may change when it is read beside others: relative, but absolute below 1."""
CHECKED = 3
FAULTS = (AttributeError, AssertionError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
          ValueError)  # fmt: skip


class OptionRanker:
    """Ranks the options of samples for the methods of a run."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.together: dict[int, bool] = {}  # id(draft) -> whether answers may be read beside each other
        self.known: tuple[str, dict[int, dict[str, list[int]]]] = ("", {})  # the latest sample, its ranks by id(draft)

    def add(
        self, lines: Sequence[dict[str, Any]], sample: Any, inputs: dict[str, Any], methods: Sequence[Built]
    ) -> list[dict[str, Any]]:
        """The lines of one sample, each with the ranks that its method gives the options. Failed lines get none.

        A method ranks by the distribution of its output: for every lossless method that is the target's, for a method
        that never verifies its draft's.
        """
        if self.known[0] != sample.sample_id:
            self.known = sample.sample_id, {}
        drafts = {built.label: None if built.lossless else getattr(built.method, "draft", None) for built in methods}
        for draft in drafts.values():
            if id(draft) not in self.known[1]:
                self.known[1][id(draft)] = self.ranks(sample.options, sample.prompt, inputs, draft)
        return [
            line if line["error"] else {**line, "ranks": self.known[1][id(drafts[line["method"]])]} for line in lines
        ]

    def ranks(self, options: Sequence[str], prompt: str, inputs: dict[str, Any], draft: Draft | None = None
              ) -> dict[str, list[int]]:  # fmt: skip
        """{"sum": ranks, "mean": ranks} of the options, 1 for the likeliest. NonFiniteLogits if a value is NaN.

        draft: with it, the ranks are those of a method that never verifies, where the target gives the first token and
        the draft all others.
        """
        tokens = option_tokens(self.target, prompt, options)
        sums = self.log_likelihoods(tokens, inputs, draft)
        means = [total / (len(ids) + 1) for total, ids in zip(sums, tokens, strict=True)]
        return {"sum": ranks_of(sums), "mean": ranks_of(means)}

    def log_likelihoods(
        self, options: Sequence[Sequence[int]], inputs: dict[str, Any], draft: Draft | None = None
    ) -> list[float]:
        """The log-likelihood of each option, in the options' order. NonFiniteLogits if one is NaN.

        The first time, the first three options are read both alone and beside each other. If that fails or gives other
        values, because the model's cache cannot be repeated, every option is read alone from then on.
        """
        key = id(draft)
        if key not in self.together:
            alone = self._read(options[:CHECKED], inputs, draft, 1)
            try:
                beside = self._read(options[:CHECKED], inputs, draft, CHECKED)
            except FAULTS as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                beside = [math.nan]
            limit = TOLERANCE.get(self.target.model.dtype, 0.25)
            pairs = zip(alone, beside, strict=False)
            self.together[key] = all(a == b or abs(a - b) <= limit * max(1.0, abs(a)) for a, b in pairs)
        found = self._read(options, inputs, draft, len(options) if self.together[key] else 1)
        if any(map(math.isnan, found)):
            raise NonFiniteLogits("the log-likelihood of an option is not a number")
        return found

    def _read(
        self, options: Sequence[Sequence[int]], inputs: dict[str, Any], draft: Draft | None, most: int
    ) -> list[float]:
        reader = _Reader(options, draft, most)
        with torch.inference_mode():
            longest = max(map(len, options)) + 1
            unstopped(self.target.model)(**inputs, max_new_tokens=longest, do_sample=False, custom_generate=reader)
        return reader.found


def option_tokens(target: Target, prompt: str, options: Sequence[str]) -> list[list[int]]:
    """The token ids of each option as they follow the prompt, without an end token; at least one for each option.

    Prompt and option are tokenised as one text, since a word's tokens depend on what is before it. Where that changes
    the prompt's own tokens, the option is tokenised alone, as it always is for an encoder-decoder. A space joins the
    two unless the prompt ends with white space.
    """
    tokenizer = target.processor.tokenizer
    encoder = target.model.config.is_encoder_decoder
    rendered = "" if encoder else target.render(prompt)
    gap = "" if encoder or not rendered or rendered[-1].isspace() else " "
    before = tokenizer.encode(rendered, add_special_tokens=False)
    found = []
    for option in options:
        text = option.strip()
        both = tokenizer.encode(rendered + gap + text, add_special_tokens=False)
        ids = both[len(before) :] if both[: len(before)] == before else []
        found.append(ids or tokenizer.encode(gap + text, add_special_tokens=False) or [tokenizer.unk_token_id or 0])
    return found


class _First(Session):
    """A session that keeps the logits after the prompt, which give the probability of an answer's first token."""

    after_prompt: Tensor

    def choose(self, logits: Tensor, ahead: Tokens = (), first: int = 0) -> list[list[int]]:
        self.after_prompt = logits[0, -1].float()
        return [[int(self.after_prompt.argmax())]]


class _Reader:
    """A `custom_generate` that reads every option after one prefill. `found`: the log-likelihood of each option."""

    def __init__(self, options: Sequence[Sequence[int]], draft: Draft | None, most: int) -> None:
        self.options, self.draft, self.most = options, draft, most
        self.found = [0.0] * len(options)

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = _First(model, input_ids, clock=Clock(), **prepared)
        if self.draft is None:
            session.prefill()
            self._all(session, None)
        else:
            gate = LayerGate.of(model, self.draft)
            with gate.installed(self.draft.new_cache()):
                session.prefill()
                self._all(session, gate)
        return session.sequences

    def _all(self, session: _First, gate: LayerGate | None) -> None:
        ends = sorted(session.end_tokens)
        first = torch.log_softmax(session.after_prompt, dim=-1)
        prefix, cache = session.cache, session.kwargs.pop("past_key_values")
        head_cache = gate.head_cache if gate is not None else None
        for places in self._groups(session, cache_bytes(prefix) or 1, len(first)):
            own = [self.options[place] for place in places]
            columns = max(map(len, own))
            padded = [[*ids, *[ids[-1]] * (columns - len(ids))] for ids in own]
            tokens = torch.tensor(padded, device=session.sequences.device)  # not always where the logits are
            repeated = _repeated(cache, len(own))
            if gate is None:
                logits = _read_at_once(session, tokens, repeated)
            else:
                gate.head_cache = _repeated(head_cache, len(own)) if head_cache is not None else None
                logits = _read_one_by_one(session, tokens, repeated, gate)
            told = torch.log_softmax(logits.float(), dim=-1)
            for row, (place, ids) in enumerate(zip(places, own, strict=True)):
                following = [told[row, i, token] for i, token in enumerate(ids[1:])]
                end = torch.logsumexp(told[row, len(ids) - 1, ends], dim=0) if ends else first.new_zeros(())
                self.found[place] = float(sum([first[ids[0]], *following, end]))

    def _groups(self, session: Session, prefix_bytes: int, vocabulary: int) -> Iterator[list[int]]:
        """Yield the places of options to be read together. They have similar lengths, to need little padding."""
        order = sorted(range(len(self.options)), key=lambda place: len(self.options[place]))
        while order:
            rows = 1
            for rows in range(1, min(self.most, len(order)) + 1):
                columns = len(self.options[order[rows - 1]])
                over = rows * prefix_bytes > CACHE_BYTES or rows * columns * vocabulary * 4 > LOGIT_BYTES
                if over and rows > 1:
                    rows -= 1
                    break
            yield order[:rows]
            order = order[rows:]


def _read_at_once(session: Session, tokens: Tensor, cache: Any) -> Tensor:
    """Logits, (rows, columns, vocab), of one pass over `tokens`, (rows, columns), after the prompt.

    Short rows are padded on the right, where causal attention keeps the padding from changing their logits.
    """
    rows, columns = tokens.shape
    kwargs = dict(session.kwargs)
    if columns > 1:
        session.advance_kwargs(BaseModelOutputWithPast(past_key_values=cache), kwargs, columns - 1)
    return _forward(session, tokens, columns, {**kwargs, "past_key_values": cache})


def _read_one_by_one(session: Session, tokens: Tensor, cache: Any, gate: LayerGate) -> Tensor:
    """The same with a draft, one token per pass: a head that recurs needs its output for a token to draft the next."""
    rows, columns = tokens.shape
    gate.mode = Mode.FULL
    gate.follow_rows(tokens.new_zeros(rows), tokens.new_zeros(rows))  # every row goes on from the prompt's last state
    gate.mode = Mode.DRAFT
    kwargs = {**session.kwargs, "past_key_values": gate.draft_view(cache)}
    logits = []
    for column in range(columns):
        logits.append(_forward(session, tokens[:, : column + 1], 1, kwargs))
        gate.kept.clear()
        session.advance_kwargs(BaseModelOutputWithPast(past_key_values=kwargs["past_key_values"]), kwargs, 1)
    return torch.cat(logits, dim=1)


def _forward(session: Session, tokens: Tensor, count: int, kwargs: dict[str, Any]) -> Tensor:
    """Logits, (rows, count, vocab), of the last `count` columns of the prompt and `tokens`."""
    rows = len(tokens)
    ids = torch.cat([session.sequences[:, :-1].expand(rows, -1), tokens], dim=1)
    given = {key: _rows(key, value, rows) for key, value in kwargs.items()}
    if "logits_to_keep" in given:
        given["logits_to_keep"] = count
    inputs = session.model.prepare_inputs_for_generation(ids, next_sequence_length=count, **given)
    logits: Tensor = session.model(**inputs, return_dict=True).logits
    return logits[:, -count:]


def _rows(key: str, value: Any, rows: int) -> Any:
    """A keyword argument of the model, which belongs to the one prompt, repeated for `rows` rows."""
    if isinstance(value, Tensor):
        if value.ndim == 3 and value.shape[1] == 1 and "position_ids" in key:  # positions in several dimensions
            return value.expand(-1, rows, -1)
        return value.expand(rows, *value.shape[1:]) if value.ndim and value.shape[0] == 1 else value
    if hasattr(value, "items") and hasattr(value, "last_hidden_state"):
        return type(value)(**{name: _rows(name, part, rows) for name, part in value.items()})
    return value


def _repeated(cache: Any, rows: int) -> Any:
    """A copy of the cache with its one row repeated `rows` times; reading then fills the copy."""
    own = copy.deepcopy(cache)
    if rows > 1:
        own.batch_repeat_interleave(rows)
    return own
