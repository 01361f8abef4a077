"""What is read off one teacher-forced pass is what decoding does: round by round, on a small random target."""

from functools import partial
from typing import Any

import pytest
import torch
from covering import covering
from PIL import Image
from targets import LAYERS, generate, random_llava

from fastvlm_bench.agreement.guesses import Guesser, Text, read_all
from fastvlm_bench.agreement.kinds import KINDS
from fastvlm_bench.agreement.rates import OVERALL, matrix, rates
from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.embedded.parts import build_processor
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.prediction import simulate
from fastvlm_bench.training.samples import TrainingSample

MOST = 14
EXITS = [Source(layer, "raw") for layer in range(1, LAYERS)]
Made = tuple[Target, list[TrainingSample], list[Text], Guesser, Example]


def shown(number: int) -> Image.Image:
    return (
        Image.radial_gradient("L")
        .resize((120, 120))
        .rotate(7 * number)
        .point(lambda v: v * number % 256)
        .convert("RGB")
    )


@pytest.fixture(scope="module")
def made() -> Made:
    model, tokenizer = random_llava(LAYERS)
    with torch.no_grad():  # it never writes the image's placeholder
        model.get_output_embeddings().weight[model.config.image_token_index] = 0
        for layer in model.model.language_model.layers[1:]:  # the deeper ones say little, so that exits often agree
            layer.self_attn.o_proj.weight *= 0.1
            layer.mlp.down_proj.weight *= 0.1
    target = Target("random", model, build_processor(tokenizer), torch.device("cpu"), None)
    samples = [TrainingSample(f"s/{n}", f"s/{n}", "What is it?", partial(shown, n)) for n in range(1, 5)]
    return target, samples, *read_all(target, EXITS, samples, MOST)


def rounds_of(made: Made, method: Any) -> tuple[int, ...]:
    """(rounds, tested, accepted, emitted) of decoding the same samples."""
    target, samples, texts, _, _ = made
    rounds = []
    for sample, text in zip(samples, texts, strict=True):
        inputs = target.encode(sample.open(), sample.prompt)
        assert generate(target.model, inputs, method, MOST) == list(text.answer)
        rounds += method.last.rounds
    return (len(rounds), *(sum(getattr(r, name) for r in rounds) for name in ("tested", "accepted", "emitted")))


@pytest.mark.parametrize("gamma", covering([1, 4], [4]))
def test_the_raw_exits_are_layerskips(made: Made, gamma: int) -> None:
    texts, accepted = made[2], 0
    for source in EXITS:
        found = simulate([text.checked(source) for text in texts], gamma, 0.0)
        told = rounds_of(made, LayerSkip(source.exit_layer, gamma=gamma))
        assert (found.rounds, found.tested, found.accepted, found.tokens) == told, source
        accepted += told[2]
    assert accepted, "nothing was accepted, so nothing was compared"


@pytest.mark.slow  # in the default run, rounds of γ 4 are those that are read off
def test_the_share_over_tested_places_is_alpha(made: Made) -> None:
    """With γ 1, α is the matrix's share, but of the places that are drafted: after one that stands comes a bonus."""
    texts = made[2]
    for source in EXITS:
        right = tested = 0
        for text in texts:
            own, at = text.right(source), 0
            while at < len(own) - 1:  # the limit's last token is never drafted
                right, tested, at = right + own[at], tested + 1, at + 1 + own[at]
        _, of, accepted, _ = rounds_of(made, LayerSkip(source.exit_layer, gamma=1))
        assert (accepted, of) == (right, tested)
    shares = {rate.source: rate.share.value for rate in rates(texts, EXITS, OVERALL)}
    assert list(shares.values()) == pytest.approx(list(matrix(texts, EXITS).target))


@pytest.mark.parametrize(
    ("head", "gamma"), covering(
        [("mlp", 1), ("mlp", 3), ("attention", 1), ("attention", 3), ("eagle", 1)], [("attention", 3), ("eagle", 1)]
    ),
)  # fmt: skip
def test_trained_heads_are_fastvlms(made: Made, head: str, gamma: int) -> None:
    target, _, texts, guesser, _ = made
    torch.manual_seed(0)
    draft = Draft(3, new_head(head, target.model, 3).eval())
    source = Source(3, head)
    guesser.drafts = {source: draft}
    guesser.observer.exits = [3]
    examples = [Example(sample, text.answer, text.ended, MOST) for sample, text in zip(made[1], texts, strict=True)]
    with torch.inference_mode():
        read = [guesser.read(example).checked(source) for example in examples]
    found = simulate(read, gamma, 0.0)
    assert (found.rounds, found.tested, found.accepted, found.tokens) == rounds_of(made, FastVLM(draft, gamma=gamma))


def test_the_forced_pass_chooses_what_decoding_did(made: Made) -> None:
    for text in made[2]:
        assert text.forced == text.answer[1:] and len(text.kinds) == len(text.answer)
        assert set(text.kinds) <= set(KINDS) and text.sample_id.startswith("s/")
