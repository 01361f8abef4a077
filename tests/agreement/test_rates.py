"""Kinds of tokens, groups, shares and the matrix, on answers that are written by hand."""

import pytest

from fastvlm_bench.agreement.guesses import Guess, Text, Unrolled
from fastvlm_bench.agreement.kinds import CONTINUATION, DIGIT, END, FUNCTION, PUNCTUATION, WORD, kinds_of
from fastvlm_bench.agreement.rates import KIND, LENGTH, OVERALL, POSITION, matrix, rates, span_of
from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.training.prediction import simulate

SHALLOW, DEEP, HEAD = Source(1, "raw"), Source(3, "raw"), Source(1, "mlp")


def text(number: int, answer: list[int], **guesses: list[int]) -> Text:
    kinds = (WORD, *((DIGIT, PUNCTUATION)[token % 2] for token in answer[1:]))
    sources = {"shallow": SHALLOW, "deep": DEEP, "head": HEAD}
    return Text(f"s/{number}", f"s/{number}", tuple(answer), kinds, False, 0, tuple(answer[1:]),
                {sources[name]: Guess(tuple(own), (0.9,) * len(own)) for name, own in guesses.items()})  # fmt: skip


def test_kinds_by_the_text_that_a_token_adds() -> None:
    pieces = [
        "The",
        " theme",
        " of",
        " red",
        "dish",
        " dog",
        "'s",
        " 12",
        "b",
        " é",
        "!",
        "\n",
        "With",
        "out",
        " (",
        "a",
        "<e>",
    ]
    wanted = [FUNCTION, WORD, FUNCTION, WORD, CONTINUATION, WORD, CONTINUATION, DIGIT, CONTINUATION, WORD, PUNCTUATION,
              PUNCTUATION, FUNCTION, CONTINUATION, PUNCTUATION, FUNCTION, END]  # fmt: skip
    assert kinds_of(range(len(pieces)), lambda ids: "".join(pieces[i] for i in ids), {16}) == wanted
    assert kinds_of([], lambda ids: "", {2}) == []


def test_bytes_of_one_character_are_one_word() -> None:
    whole = " 日本".encode()

    def decode(ids: list[int]) -> str:
        return whole[: len(ids)].decode("utf-8", "replace")

    found = kinds_of(range(len(whole)), decode, set())
    assert found == [PUNCTUATION, WORD, WORD, WORD, *[CONTINUATION] * 3]


@pytest.mark.parametrize(
    "number, wanted", [(1, "1"), (2, "2"), (3, "3–4"), (4, "3–4"), (5, "5–8"), (16, "9–16"), (17, "17–32")]
)
def test_groups_double(number: int, wanted: str) -> None:
    assert span_of(number) == wanted


def test_shares_by_place_kind_and_length() -> None:
    texts = [
        text(1, [9, 2, 3, 4, 5], shallow=[2, 3, 0, 0]),
        text(2, [9, 2, 4], shallow=[2, 0]),
    ]
    found = {(rate.by, rate.group): (rate.share.value, rate.tokens, rate.images)
             for by in (OVERALL, POSITION, KIND, LENGTH) for rate in rates(texts, [SHALLOW], by)}  # fmt: skip
    assert found == {
        (OVERALL, OVERALL): (3 / 6, 6, 2),
        (POSITION, "2"): (1.0, 2, 2), (POSITION, "3–4"): (1 / 3, 3, 2), (POSITION, "5–8"): (0.0, 1, 1),
        (KIND, DIGIT): (2 / 4, 4, 2), (KIND, PUNCTUATION): (1 / 2, 2, 1),
        (LENGTH, "3–4"): (1 / 2, 2, 1), (LENGTH, "5–8"): (2 / 4, 4, 1),
    }  # fmt: skip


def test_intervals_are_of_images() -> None:
    """An image's second answer like its first tells nothing new, so the interval stays; 4 images give none."""
    texts = [text(number, [1, 2, 2], shallow=[2, 2 * (number % 3 > 0)]) for number in range(12)]
    (once,) = rates(texts, [SHALLOW], OVERALL)
    (twice,) = rates([*texts, *texts], [SHALLOW], OVERALL)
    assert once.share.low is not None and once.share.high is not None
    assert once.share.low < once.share.value < once.share.high
    assert (once.share.low, once.share.high) == (twice.share.low, twice.share.high)
    (few,) = rates(texts[:4], [SHALLOW], OVERALL)
    assert few.share.low is None


def test_the_matrix_counts_equal_guesses_right_or_wrong() -> None:
    texts = [text(1, [9, 2, 3, 4, 5], shallow=[2, 7, 7, 5], head=[2, 3, 4, 0], deep=[2, 7, 4, 0])]
    found = matrix(texts, [SHALLOW, HEAD, DEEP])
    assert found.shares == ((None, None, 2 / 4), (None, None, 3 / 4), (None, None, None))
    assert found.target == (2 / 4, 3 / 4, 2 / 4) and found.between(HEAD, DEEP) == 3 / 4


def test_a_head_that_recurs_gets_worse_within_a_round() -> None:
    """The first token of a round is guessed from the target's states, each further one from the head's own."""
    wrong = Guess((0, 0, 0, 0), (0.9,) * 4)
    own = Text("s/1", "s/1", (9, 2, 3, 4, 5), (WORD,) * 5, False, 0, (2, 3, 4, 5),
               {HEAD: Guess((2, 3, 4, 5), (0.9,) * 4, (wrong, wrong))})  # fmt: skip
    assert isinstance(own.checked(HEAD), Unrolled)
    found = simulate([own.checked(HEAD)], 3, 0.0)
    assert found.by_position[0] == [2, 2] and found.by_position[1][0] == 0
