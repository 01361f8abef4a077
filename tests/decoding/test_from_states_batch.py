"""Heads that draft from the target's states, in a batch and under sampling."""

from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering
from decoding.test_sampling import distance, outputs, products
from decoding.test_sampling import options as sampling_options
from families.builders import build
from families.shapes import IMAGE
from state_heads import Watched, check_told, head_config, head_weights, new_eagle, save_head, train
from targets import generate
from torch import Tensor
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from fastvlm_bench.decoding.eagle import Eagle1Method
from fastvlm_bench.decoding.eagle3 import Eagle3Method
from fastvlm_bench.drafts.load_eagle import load_eagle
from fastvlm_bench.engine import choosing, tree
from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.errors import UsageError

COUNT = 16
WORDS = ([23, 45, 67], [89], [101, 33, 12, 13, 14])


@pytest.fixture(scope="module")
def small() -> Any:
    model = build("llava")[0]
    with torch.no_grad():
        model.get_output_embeddings().weight[IMAGE] = 0  # no answer holds a placeholder, which could not be read again
    return model


@pytest.fixture(scope="module")
def singles() -> list[dict[str, Tensor]]:
    made = []
    for seed, words in enumerate(WORDS):
        ids = torch.tensor([[1, 11, *[IMAGE] * 16, *words]])
        pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels})
    return made


@pytest.fixture(scope="module")
def expected(small: Any, singles: Any) -> list[list[int]]:
    return [generate(small, single, count=COUNT) for single in singles]


@pytest.fixture(scope="module", params=covering(["eagle3 of two layers", "eagle"], ["eagle"]))
def method(request: pytest.FixtureRequest, small: Any, singles: Any, expected: Any, tmp_path_factory: Any) -> Any:
    """A kind of method, and a head that was taught the answer of one row, so that acceptance is ragged."""
    folder, kind = tmp_path_factory.mktemp("head") / "head", request.param.split()[0]
    if request.param.endswith("layers"):
        config = head_config(small, kind, num_hidden_layers=2)
        weights = head_weights(config)
        more = {k.replace("midlayer", "layers.1"): v for k, v in weights.items() if k.startswith("midlayer")}
        more = {k: v[:, : v.shape[1] // 2].clone() if "_proj" in k and "self" in k and "o_proj" not in k else v.clone()
                for k, v in more.items() if "hidden_norm" not in k}  # fmt: skip
        head = load_eagle(kind, save_head(folder, config, {**weights, **more}), small, "target")
    else:
        head = new_eagle(small, folder, kind)
    train(head, small, singles[0], expected[0], steps=30)
    owned = Eagle3Method if kind == "eagle3" else Eagle1Method
    return lambda **options: type("Watching", (Watched, owned), {})(draft=head, **options)


def decode(model: Any, batch: dict[str, Tensor], method: Any, count: int = COUNT, **options: Any) -> list[list[int]]:
    with torch.inference_mode():
        model.generate(**batch, max_new_tokens=count, do_sample=False, custom_generate=method, **options)
    return [row.token_ids for row in method.trace.rows]


def test_rows_accept_on_their_own_and_read_their_own_text(small: Any, singles: Any, expected: Any, method: Any) -> None:
    batch = collate(singles, 0)
    for gamma in (1, 4):
        made = method(gamma=gamma)
        assert decode(small, batch, made) == expected
        rows = made.trace.rows
        assert len({tuple(r.accepted for r in row.rounds) for row in rows}) > 1, "acceptance must be ragged"
        assert sum(r.accepted for row in rows for r in row.rounds) > 4
        assert check_told(made, small, singles, expected) > 25


@pytest.mark.slow
def test_rows_end_at_different_times(small: Any, singles: Any, expected: Any, method: Any) -> None:
    for place in (0, 3):
        eos = [expected[0][place], expected[1][(5 * place + 1) % COUNT]]
        ends = [next((i + 1 for i, t in enumerate(row) if t in eos), COUNT) for row in expected]
        cut = [row[:end] for row, end in zip(expected, ends, strict=True)]
        made = method(gamma=3)
        assert decode(small, collate(singles, 0), made, eos_token_id=eos) == cut
        assert len(set(ends)) > 1
        check_told(made, small, singles, expected)


def test_equally_long_rows_and_one(small: Any, singles: Any, expected: Any, method: Any) -> None:
    alike = collate([singles[0], singles[0]], 0)
    assert decode(small, alike, method(gamma=3)) == [expected[0], expected[0]]
    assert decode(small, singles[1], method(gamma=3), 5) == [expected[1][:5]]


@pytest.mark.slow
def test_processors_see_each_row(small: Any, singles: Any, method: Any) -> None:
    def options() -> dict[str, Any]:
        return {"logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.4)])}

    wanted = [generate(small, single, count=COUNT, **options()) for single in singles]
    assert decode(small, collate(singles, 0), method(gamma=3), **options()) == wanted


def test_a_tree_takes_one_sequence(small: Any, singles: Any, method: Any) -> None:
    with pytest.raises(UsageError, match="one sequence at a time: topk=1, or --batch-size 1"):
        decode(small, collate(singles, 0), method(topk=2))


@pytest.mark.slow
@pytest.mark.parametrize("topk", [1, 2])
def test_sampling_keeps_the_distribution(tmp_path: Path, small: Any, singles: Any, topk: int) -> None:
    """By enumeration of every draw. Of the three tokens that may be said, the head does not know one."""
    model, prompt, length = small, singles[1], 3
    with torch.inference_mode():
        said = model(**prompt).logits[0, -1].topk(3).indices.tolist()
    config = head_config(model, "eagle3", drafted=2)
    weights = head_weights(config)
    weights["d2t"] = torch.tensor(sorted(said[:2])) - torch.arange(2)
    head = load_eagle("eagle3", save_head(tmp_path / "head", config, weights), model, "target", "0-1-2")
    method = Eagle3Method(head, gamma=2, topk=topk, depth=2)
    accepted = 0

    class Counting:
        last = None

        def __call__(self, *given: Any, **options: Any) -> Any:
            nonlocal accepted
            found = method(*given, **options)
            accepted += sum(r.accepted for r in method.last.rounds)  # type: ignore[union-attr]
            return found

    with pytest.MonkeyPatch.context() as patch:
        # The enumeration replaces the draws of the session; a tree's go through the same function.
        patch.setattr(tree, "draw", lambda weights, generator=None: choosing.draw(weights, generator))
        found = outputs(model, prompt, Counting(), **sampling_options(model, said, max_new_tokens=length))
    assert distance(found, products(model, prompt, said, length)) < 1e-5 and accepted > 3
