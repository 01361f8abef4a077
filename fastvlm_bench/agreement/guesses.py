"""What every exit guesses along the target's own answers: one teacher-forced pass of the target for each answer.

The answer is read after its prompt, as verification reads it. What arrives at each exit goes through the head, the
final norm and the LM head, as in decoding with `layerskip` or `fastvlm`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.agreement.kinds import kinds_of
from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.errors import BenchError, UsageError
from fastvlm_bench.machine.failures import FAILURES, out_of_memory
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example, ends, greedy_answers
from fastvlm_bench.training.choosing import Choosing
from fastvlm_bench.training.observe import Observer, View
from fastvlm_bench.training.prediction import Checked
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.tail import Tail

UNROLLED = 8
"""Passes of a head that recurs; what it would guess after more of its own tokens is taken to be as in the last one."""


@dataclass(frozen=True)
class Guess:
    """A source's guesses along one answer. tokens, sure: of each token after the first, the guess and its probability.

    A guess that is never drafted has the probability -1. after: of a head that recurs, the same after 1, 2, .. drafted
    tokens of its own round, since it then reads its own output in place of the target's states.
    """

    tokens: tuple[int, ...]
    sure: tuple[float, ...]
    after: tuple["Guess", ...] = ()


@dataclass(frozen=True)
class Text:
    """One answer of the target. kinds: of each token. forced: what the teacher-forced pass of the target chooses.

    room: how many more tokens the limit would have allowed after EOS.
    """

    sample_id: str
    image_id: str
    answer: tuple[int, ...]
    kinds: tuple[str, ...]
    ended: bool
    room: int
    forced: tuple[int, ...]
    guesses: Mapping[Source, Guess] = field(default_factory=dict)

    def right(self, source: Source) -> list[bool]:
        """Of each token after the first, whether the source guesses it."""
        return [ours == own for ours, own in zip(self.guesses[source].tokens, self.answer[1:], strict=True)]

    def checked(self, source: Source) -> Checked:
        """The guesses as a simulation of the loop reads them."""
        guess = self.guesses[source]
        given = self.right(source), guess.sure, self.ended, self.room
        own = self.answer[1:]
        after = [([a == b for a, b in zip(one.tokens, own, strict=True)], one.sure) for one in guess.after]
        return Unrolled(*given, after) if after else Checked(*given)


@dataclass(frozen=True)
class Unrolled(Checked):
    """The guesses of a head that recurs, which get worse within a round. after: those after 1, 2, .. drafted tokens."""

    after: Sequence[tuple[Sequence[bool], Sequence[float]]] = ()

    def guess(self, place: int, drafted: int) -> tuple[bool, float]:
        right, sure = self.after[min(drafted, len(self.after)) - 1] if drafted else (self.right, self.confidence)
        return right[place], sure[place]


def answers_of(
    target: Target, samples: Iterable[TrainingSample], most: int, report: Callable[[], None] = lambda: None
) -> list[Example]:
    """The target's greedy answers of at most `most` tokens, one prompt at a time."""
    found = []
    for sample in samples:
        ((answer, ended),) = greedy_answers(target, [sample], most)
        found.append(Example(sample, answer, ended, most))
        report()
    return found


class Guesser:
    """Reads answers with one target, for all sources at once. drafts: source -> its draft, which decodes, too."""

    def __init__(self, target: Target, sources: Sequence[Source], example: Example) -> None:
        """BenchError where the target's last states do not give its own logits. example: has at least two tokens."""
        self.target = target
        self.drafts = {
            source: Draft(source.exit_layer, None) if source.folder is None else Draft.load(source.folder, target.model)
            for source in sources
        }
        self.observer = Observer(target, [source.exit_layer for source in sources], 1)
        self.choosing = Choosing(target)
        self.never = torch.tensor(sorted(self.choosing.placeholders), device=target.device)
        self.ends = set(ends(target))
        try:
            self.tail = Tail(target, self.observer, example)
        except FAILURES as error:
            if out_of_memory(error):
                raise
            (first, *_) = str(error).strip().splitlines() or [type(error).__name__]
            raise BenchError(f"the exits of {type(target.model).__name__} cannot be read: {first}") from error

    @torch.no_grad()
    def read(self, example: Example) -> Text:
        """One teacher-forced pass over an answer of at least two tokens."""
        view = self.observer.forced(example)
        forced, _ = self._chosen(example, self.tail(view.last_states()))
        sample = example.sample
        return Text(
            sample.sample_id, sample.image_id, example.answer,
            tuple(kinds_of(example.answer, self._text, self.ends)), example.ended,
            example.most - len(example.answer) if example.ended else 0, forced,
            {source: self._guess(source, example, view) for source in self.drafts},
        )  # fmt: skip

    def _text(self, ids: Sequence[int]) -> str:
        tokenizer: Any = getattr(self.target.processor, "tokenizer", self.target.processor)
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _guess(self, source: Source, example: Example, view: View) -> Guess:
        draft = self.drafts[source]
        if draft.head is None:
            passes = [torch.cat([span.states[source.exit_layer] for span in view.spans], dim=1)[view.told]]
        else:
            passes = view.imitate(draft.head, source.exit_layer, UNROLLED)
        first, *after = (
            Guess(*self._chosen(example, self.tail.after(self.tail.before(states), draft.output))) for states in passes
        )
        return Guess(first.tokens, first.sure, tuple(after))

    def _chosen(self, example: Example, logits: Tensor) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """(tokens, probabilities) as decoding would choose them. logits: (n, vocab)."""
        logits = logits.float()
        tokens = self.choosing.along(example, logits)
        sure = logits.softmax(-1).amax(-1)  # of unprocessed logits, as the loop's stop in doubt takes them
        sure[torch.isin(tokens, self.never)] = -1.0
        return tuple(tokens.tolist()), tuple(sure.tolist())


def read_all(
    target: Target, sources: Sequence[Source], samples: Sequence[TrainingSample], most: int,
    report: Callable[[str, int], None] = lambda *_: None,
) -> tuple[list[Text], Guesser, Example]:  # fmt: skip
    """The texts, what read them, and the longest example. report: called with what is done, and how many of it.

    Answers of one token are left out: their token comes from prefill, and nothing is drafted. UsageError where all are.
    """
    done = iter(range(1, len(samples) + 1))
    examples = answers_of(target, samples, most, lambda: report("answers", next(done)))
    usable = [example for example in examples if example.taught]
    if not usable:
        raise UsageError(f"none of the {len(examples)} answers has a second token, so nothing is ever drafted; choose "
                         "a suite with longer answers, or a larger --max-new-tokens")  # fmt: skip
    longest = max(usable, key=lambda example: len(example.answer))
    guesser, texts = Guesser(target, sources, longest), []
    for number, example in enumerate(usable, start=1):
        texts.append(guesser.read(example))
        report("forced passes", number)
    return texts, guesser, longest
