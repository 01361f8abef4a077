"""Refuses logits processors that keep a state from token to token: drafting would change what they do, without a word.

A method calls the processors for drafts that are rejected later, for several places of one verification, and in a
batch for each row in turn. One that keeps a state (a counter, the KV of another branch, the context that it has seen)
then gives other scores than in a loop that goes on token by token. So those of transformers that keep one are known by
name. Any other, a user's own above all, is tried once: it must give the same scores for the same prefix and logits,
whatever it was called with in between.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers.generation import logits_process

from fastvlm_bench.errors import UsageError

KEEPS = {
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    "SynthIDTextWatermarkLogitsProcessor": "watermarking_config",
    "WhisperNoSpeechDetection": "no_speech_threshold",
    "DiaEOSDelayPatternLogitsProcessor": "delay_pattern",
}
"""transformers' processors that keep a state, and the option that asks for each."""
PURE = frozenset({
    "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor", "TemperatureLogitsWarper",
    "RepetitionPenaltyLogitsProcessor", "EncoderRepetitionPenaltyLogitsProcessor", "TopPLogitsWarper",
    "TopKLogitsWarper", "TopHLogitsWarper", "MinPLogitsWarper", "TypicalLogitsWarper", "EpsilonLogitsWarper",
    "EtaLogitsWarper", "NoRepeatNGramLogitsProcessor", "EncoderNoRepeatNGramLogitsProcessor",
    "SequenceBiasLogitsProcessor", "NoBadWordsLogitsProcessor", "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor", "InfNanRemoveLogitsProcessor", "ExponentialDecayLengthPenalty",
    "LogitNormalization", "SuppressTokensAtBeginLogitsProcessor", "SuppressTokensLogitsProcessor",
    "WatermarkLogitsProcessor",
})  # fmt: skip
"""transformers' processors whose scores depend on prefix and logits alone, as a test shows of each. They are not tried
again in every generation. `PrefixConstrainedLogitsProcessor` is not among them: it calls a function of the user's."""
BY_SET = frozenset({
    "RepetitionPenaltyLogitsProcessor", "TemperatureLogitsWarper", "TopPLogitsWarper", "TopKLogitsWarper",
    "MinPLogitsWarper", "TypicalLogitsWarper", "EpsilonLogitsWarper", "EtaLogitsWarper", "InfNanRemoveLogitsProcessor",
    "LogitNormalization", "SuppressTokensLogitsProcessor",
})  # fmt: skip
"""Those whose scores depend on which tokens the prefix has, and neither on their order nor on their number."""

_tried: WeakSet[Any] = WeakSet()
Call = tuple[Tensor, int]
"""A prefix, (1, T), and the number of the logits that are given with it."""


def check_processors(processors: Any, input_ids: Tensor, vocabulary: int) -> None:
    """UsageError if any of the processors keeps a state. A user's own is tried at its first call only.

    input_ids: the prompt, (rows, T), of which the first row is tried. vocabulary: how many logits there are.
    """
    for processor in processors:
        kind = type(processor)
        own = getattr(logits_process, kind.__name__, None) is kind
        if own and kind.__name__ in KEEPS:
            option = KEEPS[kind.__name__]
            raise UsageError(
                f"{kind.__name__} ({option}) keeps a state from token to token, which rolled-back drafts would spoil: "
                f"leave {option} out (in generation_config.json, too), or decode with transformers' own generate"
            )
        if (own and kind.__name__ in PURE) or (kind.__hash__ is not None and processor in _tried):
            continue
        if (fault := _fault(processor, input_ids[:1], vocabulary)) is not None:
            raise UsageError(
                f"logits processor {kind.__name__} {fault}: drafting calls it for tokens that are rolled back, so its "
                "scores must depend on the prefix and the logits alone; leave it out, or decode with transformers' own "
                "generate"
            )
        if kind.__hash__ is not None:
            _tried.add(processor)


def at_each_place(processors: Any, ids: Tensor, start: int, logits: Tensor) -> Tensor:
    """(k, vocab), float32: `logits`, (1, k, vocab), after the processors. Place i has the prefix ids[:, : start + i].

    In one call where the processors see a prefix as a set of tokens: all prefixes are then filled up to one length by
    their own last token. The scores are the same numbers.
    """
    count = logits.shape[1]
    if count == 1 or not all(_by_set(processor) for processor in processors):
        places = [logits[:, i].to(torch.float32, copy=True) for i in range(count)]
        return torch.cat([processors(ids[:, : start + i], scores) for i, scores in enumerate(places)])
    last = torch.arange(start - 1, start - 1 + count, device=ids.device)
    columns = torch.minimum(torch.arange(start + count - 1, device=ids.device), last[:, None])
    scores: Tensor = processors(ids[0, columns], logits[0].to(torch.float32, copy=True))
    return scores


def _by_set(processor: Any) -> bool:
    kind = type(processor)
    known = kind.__name__ in BY_SET and getattr(logits_process, kind.__name__, None) is kind
    return known and getattr(processor, "prompt_ignore_length", None) is None


def _fault(processor: Any, prompt: Tensor, vocabulary: int) -> str | None:
    """What is wrong with a processor; None where its scores depend on prefix and logits alone, as far as was tried."""
    generator = torch.Generator().manual_seed(0)
    logits = [(3 * torch.randn(1, vocabulary, generator=generator)).to(prompt.device) for _ in range(4)]
    known: dict[tuple[int, ...], Tensor] = {}
    random = torch.random.get_rng_state()
    try:
        for prefix, place in _calls(processor, prompt, logits):
            given = prefix.clone()
            scores = processor(given, logits[place].clone())
            if not torch.equal(given, prefix):
                return "changes the token ids that it is given"
            before = known.setdefault((place, *prefix[0].tolist()), scores.clone())
            if not torch.equal(before.nan_to_num(), scores.nan_to_num()):
                return "gives other scores for the same prefix and logits when it is called again"
    except Exception as error:  # it may be anyone's code
        lines = str(error).strip().splitlines()
        return f"cannot be tried ({type(error).__name__}: {lines[0][:120] if lines else 'no message'})"
    finally:
        torch.random.set_rng_state(random)
    return None


def _calls(processor: Any, prompt: Tensor, logits: Sequence[Tensor]) -> Iterator[Call]:
    """Each call: token by token, once more, then in other orders, with drafts between that are rejected.

    Each next token is one that the processor itself leaves likely, since one that constrains the text may know no
    other.
    """

    def after(prefix: Tensor, place: int) -> Tensor:
        chosen = processor(prefix.clone(), logits[place].clone()).argmax(dim=-1, keepdim=True)
        return torch.cat([prefix, chosen.to(prefix.dtype)], dim=1)

    yield from [(prompt, 0)] * 2
    one, other = after(prompt, 0), after(prompt, 3)
    two, another = after(one, 1), after(other, 2)
    straight: list[Call] = [(prompt, 0), (one, 1), (two, 2)]
    drafts: list[Call] = [(other, 2), (another, 1), (other, 3)]
    yield from straight
    yield from (straight[1], straight[0], drafts[0], straight[2], drafts[1], straight[1], drafts[2], *straight[::-1])
    yield from (*drafts, *straight, *drafts[::-1], *straight[::-1])
