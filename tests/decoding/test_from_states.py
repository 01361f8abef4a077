"""Heads that draft from the target's states: the output is the target's own, and a head's state is that of its text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families.builders import FAMILIES, build, plain
from families.proof import COUNT, decode
from families.shapes import IMAGE
from state_heads import Text, Watched, check_told, head_config, head_weights, new_eagle, new_mtp, save_head, train
from torch import Tensor

from fastvlm_bench.decoding.eagle import Eagle1Method
from fastvlm_bench.decoding.eagle3 import Eagle3Method
from fastvlm_bench.decoding.mtp import MtpMethod
from fastvlm_bench.errors import UsageError

CASES = [
    ("llava", "eagle3"), ("qwen2_5_vl", "eagle3"), ("qwen3_vl", "eagle"), ("mistral3", "eagle3"), ("gemma3", "eagle"),
    ("qwen3_5", "mtp"),
]  # fmt: skip
KINDS: dict[str, Any] = {"eagle3": Eagle3Method, "eagle": Eagle1Method, "mtp": MtpMethod}


class Case:
    """A family's model, inputs and own greedy output, with a head that was taught most of that output."""

    def __init__(self, family: str, kind: str, folder: Path) -> None:
        self.family, self.kind = family, kind
        self.model, self.inputs, _ = build(family)
        self.options: dict[str, Any] = {}
        self.expected = self.plain()
        if IMAGE in self.expected:  # a placeholder in an answer cannot be read again as a part of a prompt
            self.options = {"suppress_tokens": [IMAGE]}
            self.expected = self.plain()
        self.head = new_mtp(self.model) if kind == "mtp" else new_eagle(
            self.model, folder, kind, 120 if kind == "eagle3" else None)  # fmt: skip
        train(self.head, self.model, self.inputs, self.expected)

    def plain(self, **options: Any) -> list[int]:
        return plain(self.model, self.inputs, COUNT, **self.options, **options)

    def method(self, watched: bool = False, **options: Any) -> Any:
        kind = KINDS[self.kind]
        if watched:
            kind = type("Watching", (Watched, kind), {})
        return kind(draft=self.head, **options)

    def decode(self, method: Any, **options: Any) -> list[int]:
        with torch.inference_mode():
            return decode(self.model, self.inputs, method, **self.options, **options)


QUICK = [("qwen2_5_vl", "eagle3")]
"""`eagle` is what the quick tests of batches take, and `mtp` those of its checkpoints."""
EACH = [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow, id="-".join(case)) for case in CASES]


@pytest.fixture(scope="module", params=EACH)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield Case(*request.param, tmp_path_factory.mktemp("head") / "head")


def test_the_output_is_the_targets_and_the_state_is_that_of_the_text(case: Case) -> None:
    compared = 0
    for gamma in (1, 4):
        method = case.method(watched=True, gamma=gamma)
        assert case.decode(method) == case.expected
        rounds = method.last.rounds
        assert sum(r.accepted for r in rounds) > 4 and sum(r.tested > r.accepted for r in rounds) > 1
        compared += check_told(method, case.model, [case.inputs], [case.expected])
    assert compared > 30


@pytest.mark.slow
def test_it_ends_where_the_target_ends(case: Case) -> None:
    for place in (0, 7):
        eos = case.expected[place]
        assert case.decode(case.method(gamma=4), eos_token_id=eos) == case.plain(eos_token_id=eos)
    for count in (1, 2):
        assert case.decode(case.method(gamma=4), count=count) == case.expected[:count]


@pytest.mark.slow
def test_processors_and_doubt(case: Case) -> None:
    options = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
    assert case.decode(case.method(gamma=3), **options) == case.plain(**options)
    method = case.method(gamma=6, stop_below=0.9)
    assert case.decode(method) == case.expected
    sure = case.method(gamma=6)
    case.decode(sure)
    assert sum(r.drafted for r in method.last.rounds) < sum(r.drafted for r in sure.last.rounds)


def test_trees(case: Case) -> None:
    if case.kind == "mtp":
        return
    if case.family == "gemma3":
        with pytest.raises(UsageError, match="cannot verify a tree of drafts .*sliding_attention.*leave topk out"):
            case.decode(case.method(topk=2))
        return
    for topk, depth, nodes in ((2, 4, 7), (4, 3, 40)):
        method = case.method(watched=True, topk=topk, depth=depth, nodes=nodes)
        assert case.decode(method) == case.expected
        rounds = method.last.rounds
        assert max(r.accepted for r in rounds) >= min(depth, 2) and all(0 < r.drafted <= nodes for r in rounds[:-1])
        assert case.kind == "eagle" or any(r.tested > r.accepted for r in rounds)
        assert check_told(method, case.model, [case.inputs], [case.expected]) >= len(rounds) - 1 > 3
    options = {"eos_token_id": case.expected[6], "repetition_penalty": 1.1}
    assert case.decode(case.method(topk=3, depth=2), **options) == case.plain(**options)
    assert case.decode(case.method(topk=3, depth=1, nodes=2), count=4) == case.expected[:4]


def test_the_model_is_left_as_it_was(case: Case) -> None:
    def changes() -> list[tuple[int, int, bool]]:
        modules = case.model.modules()
        return [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in modules]

    before = changes()
    assert case.decode(case.method(gamma=3)) == case.expected
    assert changes() == before


def test_the_prompt_is_read_within_the_prefill(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it counts as time to first token; what the head reads afterwards is what was emitted."""
    seen: list[tuple[int, bool]] = []
    own = type(case.head).forward

    def forward(self: Any, embeds: Tensor, *given: Any, **options: Any) -> Any:
        seen.append((embeds.shape[1], bool(options.get("fill"))))
        return own(self, embeds, *given, **options)

    monkeypatch.setattr(type(case.head), "forward", forward)
    case.decode(case.method(gamma=2), count=6)
    assert seen[0] == (case.inputs["input_ids"].shape[1] - 1, True)
    assert seen[1] == (1, False) and all(count <= 3 and not fill for count, fill in seen[1:])


@pytest.mark.slow  # a corner: one family has such a token
def test_a_placeholder_beyond_the_lm_head(tmp_path: Path) -> None:
    """Mllama's image token has an embedding, but no logit."""
    model, inputs, expected = build("mllama")
    head = new_eagle(model, tmp_path / "head")
    for options in ({"gamma": 3}, {"topk": 2, "depth": 3}):
        assert decode(model, inputs, Eagle3Method(head, **options)) == expected
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=True, custom_generate=Eagle3Method(head, gamma=2))
    assert ids.shape[1] <= inputs["input_ids"].shape[1] + 4


def test_a_model_with_several_streams_is_refused(tmp_path: Path) -> None:
    model, inputs = FAMILIES["glm5_next"]()
    method = Eagle3Method(new_eagle(model, tmp_path / "head"))
    with pytest.raises(UsageError, match="several states of each token .* use another method") as caught:
        decode(model, inputs, method)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # an option of heads with embeddings of their own
def test_what_a_head_reads_of_an_image_can_be_chosen(tmp_path: Path) -> None:
    """Where the head has embeddings of its own, text is read from them, and an image from the target or as a word."""
    model, inputs, expected = build("llava")
    config = head_config(model)
    own = {"embed_tokens.weight": torch.randn(160, 48)}
    folder = save_head(tmp_path / "head", config, {**head_weights(config), **own})
    first: dict[str, Tensor] = {}
    for images in ("merged", "placeholder"):
        method = Eagle3Method(folder, images=images)
        head = method.head_for(model)

        def keep(_: Any, given: Any, images: str = images) -> None:
            first.setdefault(images, given[0])

        head.register_forward_pre_hook(keep)
        assert decode(model, inputs, method) == expected
    ids = inputs["input_ids"][0, 1:]
    merged, words = first["merged"][0], first["placeholder"][0]
    assert torch.equal(words, own["embed_tokens.weight"][ids])
    assert torch.equal(merged[ids != IMAGE], words[ids != IMAGE])
    of_image = Text(model, inputs, [], (0,)).embeds[0, 1:][ids == IMAGE]
    torch.testing.assert_close(merged[ids == IMAGE], of_image)
