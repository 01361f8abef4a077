"""Sampling through the real loop keeps the target's distribution: by enumeration, chi-square, and mutants that fail.

Enumeration runs the whole of `generate` with its two sources of chance replaced: each draw and each coin branches, and
the loop is run once for every way they can fall. The target has two layers and may say three tokens, one of which ends
the output. For every output of up to three tokens, and of four in the slow run, its probability is compared with the
product of the target's own.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from covering import covering
from scipy.stats import chi2_contingency, chisquare
from targets import PROMPT, random_llava
from torch import Tensor

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.prompt_lookup import PromptLookup
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine import accept, choosing, session, tree
from fastvlm_bench.engine.drafting import Doubt, Drafts
from fastvlm_bench.engine.measure import measure, seed_of
from fastvlm_bench.engine.proposing import Proposing
from fastvlm_bench.records.trace import Round

LENGTH, GAMMA, TEMPERATURE = 3, 2, 2.0
Distribution = dict[tuple[int, ...], float]


@pytest.fixture(scope="module")
def target() -> Any:
    return random_llava(2)[0]


@pytest.fixture(scope="module")
def prompt() -> dict[str, Tensor]:
    """No image: it would be read again for every way that chance may fall, and changes nothing about chance."""
    _, tokenizer = random_llava(2)
    ids = torch.tensor([tokenizer.encode("<s>USER: " + PROMPT, add_special_tokens=False)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(scope="module")
def said(target: Any, prompt: dict[str, Tensor]) -> list[int]:
    """The three tokens that may be said: likely ones, of which the last is declared to be EOS."""
    with torch.inference_mode():
        found: list[int] = target(**prompt).logits[0, -1].topk(3).indices.tolist()
    return found


def options(target: Any, said: list[int], **changes: Any) -> dict[str, Any]:
    silent = [token for token in range(target.config.text_config.vocab_size) if token not in said]
    return {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0, "suppress_tokens": silent,
            "eos_token_id": said[2], "max_new_tokens": LENGTH} | changes  # fmt: skip


class Paths:
    """Runs a program once for every way its choices can fall, with the probability of each way."""

    def __init__(self) -> None:
        self.plan: list[int] = []
        self.sizes: list[int] = []
        self.place, self.weight = 0, 1.0

    def choose(self, chances: list[float]) -> int:
        """Take one of the choices that have a chance, another one in each run."""
        there = [i for i, chance in enumerate(chances) if chance > 1e-12]
        if self.place == len(self.plan):
            self.plan.append(0)
            self.sizes.append(len(there))
        choice = there[self.plan[self.place]]
        self.place += 1
        self.weight *= chances[choice]
        return choice

    def __iter__(self) -> Iterator[None]:
        while True:
            self.place, self.weight = 0, 1.0
            yield
            while self.plan and self.plan[-1] + 1 == self.sizes[-1]:
                self.plan.pop()
                self.sizes.pop()
            if not self.plan:
                return
            self.plan[-1] += 1


class Coin:
    """The uniform number in `_uniform(...) * own >= target`: the comparison branches by its exact chance."""

    def __init__(self, paths: Paths, own: float = 1.0) -> None:
        self.paths, self.own = paths, own

    def __mul__(self, own: float) -> "Coin":
        return Coin(self.paths, self.own * own)

    def __ge__(self, target: float) -> bool:
        stands = min(1.0, target / self.own)
        return bool(self.paths.choose([stands, 1 - stands]))


def outputs(target: Any, prompt: dict[str, Tensor], method: Any, **given: Any) -> Distribution:
    """The distribution of what `method` says, over everything that may be drawn."""
    found: Distribution = defaultdict(float)
    paths = Paths()

    def draw(weights: Tensor, _: Any = None) -> int:
        weights = weights.double()
        return paths.choose((weights / weights.sum()).tolist())

    with pytest.MonkeyPatch.context() as patch:
        for module in (accept, choosing, tree):
            patch.setattr(module, "draw", draw)
        if accept._uniform is REAL_UNIFORM:
            patch.setattr(accept, "_uniform", lambda _: Coin(paths))
        else:
            patch.setattr(accept, "_uniform", lambda _, mutant=accept._uniform: mutant(Coin(paths)))
        for _ in paths:
            ids = target.generate(**prompt, custom_generate=method, **given)
            found[tuple(ids[0, prompt["input_ids"].shape[1] :].tolist())] += paths.weight
    return found


REAL_UNIFORM = accept._uniform


@pytest.fixture(scope="module")
def wanted(target: Any, prompt: dict[str, Tensor], said: list[int]) -> Distribution:
    return products(target, prompt, said, LENGTH)


def products(target: Any, prompt: dict[str, Tensor], said: list[int], length: int) -> Distribution:
    """The product of the target's own probabilities, from plain forward passes."""
    found: Distribution = {}

    def grow(prefix: tuple[int, ...], chance: float) -> None:
        if len(prefix) == length or prefix[-1:] == (said[2],):
            found[prefix] = chance
            return
        ids = torch.cat([prompt["input_ids"], torch.tensor([prefix], dtype=torch.long)], dim=1)
        with torch.inference_mode():
            inputs = {**prompt, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            logits = target(**inputs).logits[0, -1].double()
        for token, p in zip(said, torch.softmax(logits[said] / TEMPERATURE, dim=0).tolist(), strict=True):
            grow((*prefix, token), chance * p)

    grow((), 1.0)
    return found


def distance(ours: Distribution, theirs: Distribution) -> float:
    """Total variation."""
    assert sum(ours.values()) == pytest.approx(1) and sum(theirs.values()) == pytest.approx(1)
    return sum(abs(ours.get(s, 0.0) - theirs.get(s, 0.0)) for s in {*ours, *theirs}) / 2


def drafting(**changes: Any) -> FastVLM:
    return FastVLM(Draft(1, None), **{"gamma": GAMMA, **changes})


@pytest.mark.parametrize("length", covering([LENGTH, LENGTH + 1], [LENGTH]))
def test_every_sequence_has_the_targets_probability(
    target: Any, prompt: dict[str, Tensor], said: list[int], length: int
) -> None:
    given, wanted = options(target, said, max_new_tokens=length), products(target, prompt, said, length)
    assert len(wanted) == sum(2**place for place in range(length)) + 2**length  # those that EOS ends, and the others
    assert distance(outputs(target, prompt, Standard(), **given), wanted) < 1e-5
    assert distance(outputs(target, prompt, drafting(), **given), wanted) < 1e-5


def test_stopping_in_doubt_favours_no_token(
    target: Any, prompt: dict[str, Tensor], said: list[int], wanted: Distribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule looks at the whole distribution before a token is drawn, so it may stop wherever it likes."""
    asked: list[bool] = []

    def doubt(self: FastVLM, drafts: Drafts) -> Doubt:
        def doubted(chances: Sequence[float]) -> bool:
            asked.append(int(chances[0] * 1000) % 2 == 0)
            return not asked[-1]

        return doubted

    monkeypatch.setattr(FastVLM, "_doubt", doubt)
    assert distance(outputs(target, prompt, drafting(stop_below=0.5), **options(target, said)), wanted) < 1e-5
    assert True in asked and False in asked


class Guesses(Proposing):
    """Drafts fixed tokens, as a method does that draws nothing itself."""

    def __init__(self, guesses: list[int]) -> None:
        super().__init__(gamma=GAMMA)
        self.guesses = guesses

    def propose(self, session: session.Session, drafts: Drafts) -> None:
        for token in self.guesses[len(session.new_tokens) % 2 :]:
            if not drafts.wanted or not session.propose([[token]], drafts):
                break


class Branches(Guesses):
    """Drafts a fixed tree."""

    def round(self, session: session.Session) -> list[Round]:
        first, second, _ = self.guesses
        drafted = tree.Tree([first, second, first, second, first], [tree.ROOT, tree.ROOT, 0, 0, 3])
        outputs, path, standing = tree.verify_tree(session, drafted)
        (emitted,) = session.emit([standing])
        tree.keep_tree(session, outputs, path, emitted)
        return [Round(len(drafted), len(path), len(path), emitted, 0.0, 0.0)]


@pytest.mark.parametrize("kind", covering(["guesses", "tree", "lookup"], ["guesses", "tree"]))
def test_drafts_that_were_not_drawn(
    target: Any, prompt: dict[str, Tensor], said: list[int], wanted: Distribution, kind: str
) -> None:
    methods = {
        "guesses": lambda: Guesses(said),
        "tree": lambda: Branches(said),
        "lookup": lambda: PromptLookup(gamma=2),
    }
    method = methods[kind]()
    assert distance(outputs(target, prompt, method, **options(target, said)), wanted) < 1e-5


# ------------------------------------------------------------------------------------------ mutants


def resample_from_p(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accept, "residual", lambda p, q: p)


def no_clamp(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accept, "residual", lambda p, q: (p - q).abs())


def ratio_a_tenth_too_large(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accept, "_uniform", lambda coin: coin * (1 / 1.1))


def inverted_ratio(patch: pytest.MonkeyPatch) -> None:
    """Accepting with q/p."""
    real = accept.accept_sampled

    def swapped(drafted: list[int], q: Tensor, p: Tensor, generator: Any = None) -> Any:
        exchanged = torch.cat([q, p[len(drafted) :]])
        return real(drafted, p[: len(drafted)], exchanged, generator)

    patch.setattr(choosing, "accept_sampled", swapped)


def always_accepting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accept, "_uniform", lambda coin: coin * 1e-9)


def temperature_on_the_target_alone(patch: pytest.MonkeyPatch) -> None:
    """The draft's token is drawn from another distribution than the one that acceptance divides by."""

    def draft(self: session.Session, logits: Tensor, drafts: Drafts, *_: Any, **__: Any) -> bool:
        (row,) = self.probabilities(logits, drafts.count)
        self._drawn_from.append(row)
        return drafts.take([[choosing.draw(row**TEMPERATURE)]])

    patch.setattr(session.Session, "draft", draft)


def dropping_what_is_improbable(patch: pytest.MonkeyPatch) -> None:
    """Stopping by the token that was drawn, after it was drawn."""

    real = session.Session.draft

    def draft(self: session.Session, logits: Tensor, drafts: Drafts, *_: Any, **__: Any) -> bool:
        before = drafts.count
        if not real(self, logits, drafts):
            return False
        (mine,) = drafts.tokens
        if float(self._drawn_from[-1][mine[-1]]) >= 0.3:
            return True
        self._drawn_from.pop()
        mine.pop()
        drafts.count = before
        return False

    patch.setattr(session.Session, "draft", draft)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    resample_from_p, no_clamp, ratio_a_tenth_too_large, inverted_ratio, always_accepting,
    temperature_on_the_target_alone, dropping_what_is_improbable,
]  # fmt: skip


QUICK = [temperature_on_the_target_alone, dropping_what_is_improbable]
"""The others are faults of `accept_sampled`, whose own tests catch them."""


@pytest.mark.parametrize("mutant", covering(MUTANTS, QUICK))
def test_a_mutant_is_caught(
    mutant: Callable[[pytest.MonkeyPatch], None], target: Any, prompt: dict[str, Tensor], said: list[int],
    wanted: Distribution, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    mutant(monkeypatch)
    assert distance(outputs(target, prompt, drafting(), **options(target, said)), wanted) > 1e-3


# ------------------------------------------------------------------------------------------ drawn, not enumerated


def drawn(target: Any, prompt: dict[str, Tensor], method: Any, place: int, size: int, **given: Any) -> list[int]:
    """The token at `place` in each of `size` outputs, which are drawn with seeds of their own."""
    found = []
    for seed in range(size):
        torch.manual_seed(seed_of(seed, type(method).__name__))
        ids = target.generate(**prompt, custom_generate=method, **given)
        found.append(int(ids[0, prompt["input_ids"].shape[1] + place]))
    return found


def test_the_same_seed_gives_what_transformers_gives(target: Any, prompt: dict[str, Tensor]) -> None:
    generation = {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95}
    ours, theirs = (
        measure(method, target, prompt, 20, generation=generation, seed=7).rows[0]
        for method in (Standard(), HfGenerate())
    )
    assert ours.token_ids == theirs.token_ids
    (again,) = measure(Standard(), target, prompt, 20, generation=generation, seed=8).rows
    assert again.token_ids != ours.token_ids


@pytest.mark.slow
@pytest.mark.parametrize("generation", [{"top_k": 8, "top_p": 0.9}, {"top_k": 4, "repetition_penalty": 1.3}])
def test_drafted_tokens_follow_the_targets_distribution(
    target: Any, prompt: dict[str, Tensor], generation: dict[str, Any]
) -> None:
    """Two-sample chi-square on the second token, the first that is drafted, with warpers on both sides."""
    given = {"do_sample": True, "temperature": 1.5, "top_k": 0, "max_new_tokens": 3, "min_new_tokens": 3} | generation
    size = 600
    ours, theirs = (drawn(target, prompt, method, 1, size, **given) for method in (drafting(), Standard()))
    tokens = sorted({*ours, *theirs}, key=lambda token: -(ours.count(token) + theirs.count(token)))
    common = [token for token in tokens if ours.count(token) + theirs.count(token) >= 10]
    table = [[arm.count(token) for token in common] for arm in (ours, theirs)]
    rest = [size - sum(row) for row in table]
    if sum(rest) >= 10:
        table = [[*row, left] for row, left in zip(table, rest, strict=True)]
    assert len(table[0]) >= 3
    assert chi2_contingency(table).pvalue > 1e-3


@pytest.mark.slow
def test_two_thousand_draws_follow_the_exact_distribution(
    target: Any, prompt: dict[str, Tensor], said: list[int], wanted: Distribution
) -> None:
    size = 2000
    found: dict[tuple[int, ...], int] = defaultdict(int)
    for seed in range(size):
        torch.manual_seed(seed)
        ids = target.generate(**prompt, custom_generate=drafting(), **options(target, said))
        found[tuple(ids[0, prompt["input_ids"].shape[1] :].tolist())] += 1
    common = [s for s, chance in wanted.items() if chance * size >= 5]
    counts, chances = [found[s] for s in common], [wanted[s] for s in common]
    if (rest := 1 - sum(chances)) * size >= 5:
        counts, chances = [*counts, size - sum(counts)], [*chances, rest]
    assert sum(counts) == size or rest > 1e-9, "nothing that the target never says"
    chances = [chance / sum(chances) for chance in chances]
    assert chisquare(counts, [sum(counts) * chance for chance in chances]).pvalue > 1e-3
