"""`token-timing`: a model of another vocabulary drafts; what it says is encoded anew and never changes the output."""

import copy
import itertools
import random
from typing import Any

import pytest
import torch
import transformers as hf
from covering import covering
from decoding.test_sampling import TEMPERATURE, distance, options, outputs, products
from families.builders import FAMILIES, randomise
from second_models import continuation, given, show, stood
from targets import PROMPT, generate, random_llava
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from fastvlm_bench.decoding.token_timing import TokenTiming
from fastvlm_bench.drafters.following import Follower
from fastvlm_bench.drafters.time_warping import align, mapped
from fastvlm_bench.drafters.time_warping import distance as levenshtein
from fastvlm_bench.drafters.wording import Wording
from fastvlm_bench.embedded import parts
from fastvlm_bench.embedded.train import tokenizer_texts
from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.models.load import load_target
from fastvlm_bench.suites.suite import load_suite, open_image

COUNT = 24
SPOKEN = "There are two red boats below a café – naïve, isn't it? 🙂 Yes: 日本, and then "


@pytest.fixture(scope="module")
def few() -> Any:
    """A tokenizer like the embedded model's, of half as many entries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "VOCABULARY", 420)
        return parts.build_tokenizer(tokenizer_texts(3, scenes=60))


@pytest.fixture(scope="module")
def pieces() -> Any:
    """A tokenizer as SentencePiece makes them: a space before the first word, bytes for rare letters, no merging."""
    words = ["<pad>", "<s>", "</s>", "<image>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    letters = "abcdefghijklmnopqrstuvwxyzTYCAR:,?.'\n"
    merges = [("▁", "t"), ("h", "e"), ("▁", "a"), ("r", "e"), ("▁t", "he"), ("▁", "r"), ("▁r", "e"), ("▁re", "d")]
    vocabulary = [*words, *letters, *("".join(pair) for pair in merges)]
    ids = {word: index for index, word in enumerate(vocabulary)}
    inner = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in words[:4]])
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_target("tiny", device="cpu")


@pytest.fixture(scope="module")
def asked(tiny: Any) -> Any:
    """Image, prompt, inputs and answer of a sample whose answer is long."""
    sample = load_suite("describe", limit=1).samples[0]
    image = open_image(sample)
    inputs = tiny.encode(image, sample.prompt)
    return image, sample.prompt, inputs, generate(tiny.model, inputs, count=COUNT)


def small(words: Any, seed: int = 0) -> Any:
    """A small model of random weights in the vocabulary of `words`."""
    torch.manual_seed(seed)
    return hf.LlavaForConditionalGeneration(parts.build_config(words, 2)).eval()


def seen_by(words: Any, prompt: str = PROMPT) -> dict[str, Any]:
    ids = torch.tensor([words.encode("<s>" + "<image>" * 36 + prompt, add_special_tokens=False)])
    pixels = torch.randn(1, 3, 120, 120, generator=torch.Generator().manual_seed(5))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


class Knowing:
    """Lets the draft model say what continues `texts`, or noise at a share of the places. It reads all the same."""

    def __init__(self, patch: pytest.MonkeyPatch, words: Any, *texts: str, spoiled: float = 0.0) -> None:
        self.words, self.texts, self.random, self.spoiled = words, texts, random.Random(0), spoiled
        real = Follower.read

        def read(follower: Follower, ahead: Any) -> Any:
            logits = real(follower, ahead)
            (row,) = follower.session.rows
            word = self.next([*row.tokens, *ahead[0]])
            return torch.full_like(logits, -8.0).index_fill(-1, torch.tensor(word), 8.0)

        patch.setattr(Follower, "read", read)

    def next(self, said: list[int]) -> int:
        text = self.words.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False).lstrip(" ")
        if self.random.random() < self.spoiled:
            return 40
        for known in self.texts:
            whole = self.words.encode(known.lstrip(" "), add_special_tokens=False)
            if known.lstrip(" ").startswith(text):
                if whole[: len(said)] == said:
                    return (whole + [self.words.eos_token_id])[len(said)]
                rest = self.words.encode(known.lstrip(" ")[len(text) :], add_special_tokens=False)
                return (rest + [self.words.eos_token_id])[0]
        return 40


@pytest.mark.parametrize(("spoiled", "stop_below"), covering([(0.0, 0.0), (0.25, 0.0), (0.0, 0.5)], [(0.25, 0.0)]))
def test_what_the_target_would_say_stands(
    tiny: Any, asked: Any, few: Any, monkeypatch: pytest.MonkeyPatch, spoiled: float, stop_below: float
) -> None:
    image, prompt, inputs, known = asked
    Knowing(monkeypatch, few, tiny.processor.decode(known), spoiled=spoiled)
    method = show(TokenTiming(given(small(few), few, seen_by(few)), target=tiny, gamma=6, stop_below=stop_below))
    assert generate(tiny.model, inputs, method, COUNT) == known
    accepted, rejected = stood(method)
    assert accepted > 12 if not spoiled else accepted > 3 and rejected > 2


def test_in_the_vocabulary_of_sentencepiece(
    tiny: Any, asked: Any, pieces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the draft's, and as the target's: spaces belong to words, and the answer's first has none."""
    image, prompt, inputs, known = asked
    Knowing(monkeypatch, pieces, tiny.processor.decode(known))
    method = show(TokenTiming(given(small(pieces), pieces, seen_by(pieces)), target=tiny, gamma=12))
    assert generate(tiny.model, inputs, method, COUNT) == known
    assert stood(method)[0] > 8


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1, 5, 9])
def test_eos_and_limits(tiny: Any, asked: Any, few: Any, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    _, _, inputs, known = asked
    Knowing(monkeypatch, few, tiny.processor.decode(known[: place + 3]), spoiled=0.1)
    method = show(TokenTiming(given(small(few), few, seen_by(few)), target=tiny, gamma=5))
    cut = known[: known.index(known[place]) + 1]
    assert generate(tiny.model, inputs, method, COUNT, eos_token_id=known[place]) == cut
    assert generate(tiny.model, inputs, method, place + 1) == known[: place + 1]


def test_the_end_of_an_answer_is_drafted(tiny: Any, asked: Any, few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft model ends its answer with a token of its own vocabulary; the target's is drafted, and stands."""
    _, _, inputs, known = asked
    stop = known[12]
    assert stop not in known[:12]
    Knowing(monkeypatch, few, tiny.processor.decode(known[:12]))
    method = show(TokenTiming(given(small(few), few, seen_by(few)), target=tiny, gamma=8))
    own = copy.deepcopy(tiny.processor.tokenizer)
    own.eos_token = own.convert_ids_to_tokens(stop)
    method.own = Wording(own)
    assert generate(tiny.model, inputs, method, COUNT, eos_token_id=[stop, 0]) == known[:13]
    last = method.last.rounds[-1]  # type: ignore[union-attr]
    assert last.accepted == last.drafted == last.emitted


OPTIONS = ({}, {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2})


@pytest.mark.parametrize("options", covering(OPTIONS, OPTIONS[1:]))
def test_any_bytes_may_be_said(llava: Any, inputs: Any, few: Any, options: dict[str, Any]) -> None:
    """A target of random weights says broken characters and tokens that are no text; the draft model must follow."""
    _, words = random_llava(2)
    known = generate(llava, inputs, count=20, **options)
    assert "\N{REPLACEMENT CHARACTER}" in words.decode(known)
    method = show(TokenTiming(given(small(few), few, seen_by(few)), target=given(llava, words), gamma=3))
    assert generate(llava, inputs, method, 20, **options) == known
    assert sum(r.drafted for r in method.last.rounds) > 10  # type: ignore[union-attr]


def test_the_draft_model_is_told_the_answer_whatever_was_drafted(
    tiny: Any, asked: Any, few: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each pass its tokens say the target's text, and its cache holds what its model reads in one pass."""
    _, _, inputs, known = asked
    Knowing(monkeypatch, few, tiny.processor.decode(known), spoiled=0.2)
    method = show(TokenTiming(given(second := small(few), few, seen := seen_by(few)), target=tiny, gamma=5))
    real, checked = method.propose, list[int]()

    def propose(session: Any, drafts: Any) -> None:
        (teller,) = method.tellers.values()
        text = tiny.processor.decode(session.new_tokens)
        assert few.decode(teller.tokens).strip() == text.strip()
        follower = teller.follower.session
        read = len(teller.tokens) - follower.unread
        ids = torch.cat([seen["input_ids"], torch.tensor([teller.tokens[:read]], dtype=torch.long)], dim=1)
        own = second(**{**seen, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).past_key_values
        for layer, its in zip(own.layers, follower.cache.layers, strict=True):
            assert torch.allclose(layer.keys, its.keys[:, :, : layer.keys.shape[2]], atol=1e-4)
        checked.append(follower.unread)
        real(session, drafts)

    monkeypatch.setattr(method, "propose", propose)
    assert generate(tiny.model, inputs, method, COUNT) == known
    assert len(checked) > 4 and max(checked) > 1


@pytest.mark.slow
def test_rows_draft_alone(tiny: Any, few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = load_suite("describe", limit=2).samples
    singles = [tiny.encode(open_image(sample), sample.prompt + " Please." * i) for i, sample in enumerate(samples)]
    wanted, batch = [generate(tiny.model, single, count=COUNT) for single in singles], collate(singles, 0)
    eos = wanted[1][9]
    ends = [next((i + 1 for i, token in enumerate(row) if token in (2, eos)), len(row)) for row in wanted]
    cut = [row[:end] for row, end in zip(wanted, ends, strict=True)]
    Knowing(monkeypatch, few, *map(tiny.processor.decode, wanted), spoiled=0.15)
    method = TokenTiming(given(small(few), few, *[seen_by(few)] * 2), target=tiny, gamma=5)
    for chosen, given_options in ((wanted, {}), (cut, {"eos_token_id": [2, eos]})):
        show(method, 2)
        tiny.model.generate(**batch, max_new_tokens=COUNT, do_sample=False, custom_generate=method, **given_options)
        assert [row.token_ids for row in method.trace.rows] == chosen  # type: ignore[union-attr]
        assert stood(method)[0] > 8 and stood(method)[1] > 2
    assert not method.tellers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "qwen3_5"])
def test_families_draft_in_another_vocabulary(name: str, tiny: Any, asked: Any) -> None:
    """Sliding windows and recurrent states are told what replaced the drafts, and are rolled back for it."""
    from families.spelling import tokenizer as spelling

    _, _, inputs, known = asked
    torch.manual_seed(0)
    second, seen = FAMILIES[name]()
    randomise(second, 1)
    words = spelling("<image>")
    method = show(TokenTiming(given(second, words, seen), target=tiny, gamma=5))
    checked = list[int]()

    def propose(session: Any, drafts: Any) -> None:
        (teller,) = method.tellers.values()
        own = teller.tokens
        room, (drafted, _, _) = drafts.room(0), teller.draft(drafts.room(0), 0.0)
        if room:
            fresh = continuation(second, seen, own, room)
            assert drafted == fresh[: len(drafted)]
            silent = teller.mute and not tiny.processor.decode(known[: session.length - session.prompt_length]).strip()
            assert len(drafted) == room or silent or fresh[len(drafted)] in teller.wording.special
        checked.append(len(drafted))
        session.propose([[drafted[0] % 400 + 50] if drafted else []], drafts)

    method.propose = propose  # type: ignore[method-assign]
    assert generate(tiny.model, inputs, method, 12) == known[:12]
    assert sum(checked) > 8


# ------------------------------------------------------------------------------------------ sampling


@pytest.mark.slow
@pytest.mark.parametrize("text", [" a the a", " the", " zebra"])
def test_every_sampled_sequence_has_the_targets_probability(
    inputs: Any, few: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """By enumeration of all draws and coins; the draft model drafts what can be said, and what cannot."""
    model, words = random_llava(2)
    said = [*(words.encode(text, add_special_tokens=False)[0] for text in (" a", " the")), words.eos_token_id]
    target = given(model, words)
    with monkeypatch.context() as patch:
        Knowing(patch, few, text, *(" a the"[:n] for n in (2, 6)))
        method = show(TokenTiming(given(small(few), few, seen_by(few)), target=target, gamma=2))
        drafted, real = list[tuple[int, ...]](), method.drafted
        patch.setattr(method, "drafted", lambda *told: _kept(real(*told), drafted))
        found = outputs(model, inputs, method, **options(model, said, max_new_tokens=3))
    assert distance(found, products(model, inputs, said, 3)) < 1e-5
    assert any(drafted)
    if "zebra" not in text:
        assert any(set(own) <= set(said) for own in drafted if own), "some drafts can stand"


def _kept(found: list[int], drafted: list[tuple[int, ...]]) -> list[int]:
    drafted.append(tuple(found))
    return found


@pytest.mark.slow
def test_drafts_that_were_drawn_would_be_exact_too() -> None:
    """Chi-square of the rule itself: proposals drawn from any q, each verified as if it were certain, leave p."""
    from scipy.stats import chisquare

    from fastvlm_bench.engine.accept import accept_sampled

    torch.manual_seed(0)
    p = torch.softmax(torch.randn(2, 6) * 2 / TEMPERATURE, dim=-1)
    q, size = torch.softmax(torch.randn(6) * 2, dim=-1), 6000
    counts = [0] * 6
    for word in torch.multinomial(q, size, replacement=True).tolist():
        certain = torch.nn.functional.one_hot(torch.tensor([word]), 6).float()
        accepted, following = accept_sampled([word], certain, p)
        counts[word if accepted else following] += 1  # type: ignore[index]
    assert chisquare(counts, (p[0].double() / p[0].double().sum() * size).tolist()).pvalue > 1e-3


# ------------------------------------------------------------------------------------------ words


@pytest.fixture(scope="module")
def wordings(few: Any, pieces: Any) -> list[Wording]:
    return [Wording(few), Wording(random_llava(2)[1]), Wording(pieces)]


def test_text_is_continued_in_the_tokens_of_its_vocabulary(wordings: list[Wording]) -> None:
    """Cut anywhere, also within a word or a character: tokens stay, and what follows completes the text."""
    for wording in wordings:
        whole = wording.encode(SPOKEN)
        for cut in range(1, len(whole)):
            before, text = whole[:cut], SPOKEN[len(wording.complete(whole[:cut])) :]
            assert wording.complete(whole[:cut]) + text == SPOKEN
            assert wording.continued(before, text) == whole[cut:], (cut, wording.decode(before))
        assert wording.continued([], SPOKEN) == whole


def test_the_last_token_is_not_merged_with_what_follows(wordings: list[Wording]) -> None:
    for wording in wordings:
        for first, rest in (("a r", "ed boat"), ("th", "e"), (" the", "re are")):
            before = wording.encode(first)
            if wording.encode(first + rest)[: len(before)] == before:
                continue
            found = wording.continued(before, rest)
            assert found and wording.decode([*before, *found]).strip() == (first + rest).strip()


def test_what_cannot_be_continued_is_not(wordings: list[Wording]) -> None:
    for wording in wordings:
        assert wording.continued(wording.encode("two"), "") == []
        whole = wording.encode("日")
        assert len(whole) > 2
        assert wording.continued(whole[:-1], "x") == []  # a character has begun; another one cannot follow
        assert wording.continued(whole[:-1], "日") == whole[-1:]
        special = [wording.tokenizer.eos_token_id]
        assert wording.decode(special) == "" and wording.complete(whole[:-1]).strip() == ""
        assert wording.decode([*special, *wording.continued(special, " the")]).strip() == "the"


def test_a_broken_end_is_no_text(wordings: list[Wording]) -> None:
    for wording in wordings:
        before, more = wording.encode("see"), wording.encode("see 日")
        assert wording.added(before, more[len(before) :]) == " 日"
        assert wording.added(before, more[len(before) : -1]) in (" ", "")
        assert wording.added(before, []) == ""


# ------------------------------------------------------------------------------------------ alignment


def test_levenshtein() -> None:
    known = {("", ""): 0, ("", "abc"): 3, ("kitten", "sitting"): 3, ("flaw", "lawn"): 2, ("abc", "abc"): 0}
    for (one, other), cost in known.items():
        assert levenshtein(one, other) == levenshtein(other, one) == cost


def best(first: list[str], second: list[str]) -> int:
    """The cheapest path's cost, by trying all of them."""
    if len(first) == len(second) == 1:
        return levenshtein(first[0], second[0])
    ways = [(first[:-1], second[:-1]), (first[:-1], second), (first, second[:-1])]
    return levenshtein(first[-1], second[-1]) + min(best(*way) for way in ways if all(way))


def test_the_path_is_the_cheapest_and_leads_from_end_to_end() -> None:
    made = random.Random(0)
    for _ in range(30):
        first, second = (["".join(made.choices("ab", k=made.randint(0, 3))) for _ in range(made.randint(1, 5))]
                         for _ in range(2))  # fmt: skip
        path = align(first, second)
        assert path[0] == (0, 0) and path[-1] == (len(first) - 1, len(second) - 1)
        assert all((c - a, d - b) in ((1, 1), (1, 0), (0, 1)) for (a, b), (c, d) in itertools.pairwise(path))
        assert sum(levenshtein(first[i], second[j]) for i, j in path) == best(first, second)


def test_alignment_of_two_vocabularies() -> None:
    assert align(["▁two", "▁boa", "ts"], ["Ġtwo", "Ġboats"]) == [(0, 0), (1, 1), (2, 1)]
    assert align([], ["a"]) == align(["a"], []) == []
    assert align(["ab", "cd"], ["ab", "cd"]) == [(0, 0), (1, 1)]
    assert mapped([0.5, 0.4, 0.5], [(0, 0), (1, 1), (2, 1)], 2) == [0.5, 0.2]
    assert mapped([0.5, 0.4], [(0, 0), (0, 1), (1, 2)], 3) == [0.5, 1.0, 0.4]
    long = [str(i) for i in range(200)]
    assert align(long, long) == [(i, i) for i in range(200)]
    assert align(long, long[:1])[-1] == (199, 0)  # the window grows with the difference of the lengths


def test_an_improbable_word_of_several_tokens_ends_the_drafts(
    tiny: Any, asked: Any, few: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each drafted token is sure enough, but not their product, which the target's one token is mapped to."""
    method = TokenTiming(given(small(few), few, seen_by(few)), target=tiny, gamma=6, stop_below=0.5)
    target = Wording(tiny.processor.tokenizer)
    word = next(w for w in tokenizer_texts(0, scenes=20)[0].split() if len(target.encode(" a " + w)) == 2 < len(
        few.encode(" a " + w)))  # fmt: skip
    said, words = target.encode(" a"), few.encode(" a " + word)[len(few.encode(" a")) :]

    class Told:
        tokens = few.encode(" a")

        def draft(self, room: int, stop_below: float) -> Any:
            return words, [0.6] * len(words), False

    method.tellers[0] = Told()  # type: ignore[assignment]
    session: Any = type("Session", (), {"end_tokens": {2}})
    assert method.drafted(session, 0, said, 6) == []
    method.stop_below = 0.0
    assert method.drafted(session, 0, said, 6) == target.encode(" a " + word)[1:]


def test_trained_words_are_not_needed() -> None:
    """A vocabulary of letters alone: every draft is spelt, none is lost."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        ["a"], trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    wording = Wording(hf.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<e>"))
    whole = wording.encode(SPOKEN)
    assert wording.decode(whole) == SPOKEN
    assert all(wording.continued(whole[:n], SPOKEN[len(wording.complete(whole[:n])) :]) == whole[n:]
               for n in range(1, len(whole)))  # fmt: skip
