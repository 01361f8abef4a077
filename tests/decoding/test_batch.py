"""In a batch each row has the output that it has alone: ragged acceptance, padding, EOS, limits, processors, heads."""

from itertools import product
from typing import Any

import pytest
import torch
from covering import covering
from targets import LAYERS, PROMPT, RECORDED, OracleHead, RecordableOracle, generate, random_llava
from torch import Tensor
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TextStreamer

from fastvlm_bench.checks.batch_check import batch_self_check
from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine import session as session_module
from fastvlm_bench.engine.batch_cache import Move
from fastvlm_bench.engine.batch_inputs import collate, unevenness
from fastvlm_bench.errors import UsageError

COUNT = 22
PROMPTS = (PROMPT, "\nWhat is it? ASSISTANT:", PROMPT.replace("image", "large and very colourful image"), PROMPT)


class RaggedOracle(OracleHead):
    """Spoils the states of each row independently, so that the rows of a batch accept different numbers of tokens."""

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for layer in self.layers:
            states = layer(states, *args, **kwargs)
        spoil = torch.rand(len(states), 1, 1, generator=self.generator) < self.spoiled
        return torch.where(spoil, torch.randn(states.shape, generator=self.generator) * states.std(), states)


def ragged_draft(model: Any, exit_layer: int, spoiled: float = 0.25) -> Draft:
    kind = RecordableOracle if RECORDED else RaggedOracle
    return Draft(exit_layer, kind(model, exit_layer, spoiled))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def singles() -> list[dict[str, Tensor]]:
    _, tokenizer = random_llava(2)
    made = []
    for seed, prompt in enumerate(PROMPTS):
        ids = torch.tensor([tokenizer.encode("<s>USER: " + "<image>" * 36 + prompt, add_special_tokens=False)])
        pixels = torch.randn(1, 3, 120, 120, generator=torch.Generator().manual_seed(seed))
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels})
    return made


@pytest.fixture(scope="module")
def expected(llava: Any, singles: list[dict[str, Tensor]]) -> list[list[int]]:
    tokens = [generate(llava, single, count=COUNT) for single in singles]
    assert len({tuple(row) for row in tokens}) == len(tokens), "the rows must differ"
    return tokens


@pytest.fixture(scope="module")
def batch(singles: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    made = collate(singles, 0)
    assert not bool(made["attention_mask"].all()), "lengths must differ"
    return made


def decode(model: Any, batch: dict[str, Tensor], method: Any, count: int = COUNT, **options: Any) -> list[list[int]]:
    with torch.inference_mode():
        model.generate(**batch, max_new_tokens=count, do_sample=False, custom_generate=method, **options)
    return [row.token_ids for row in method.trace.rows]


RAGGED = [(1, 3), (2, 1), (2, 7), (3, 4), (LAYERS - 1, 5)]


@pytest.mark.parametrize(("exit_layer", "gamma"), covering(RAGGED, RAGGED[:1]))
def test_ragged_acceptance(llava: Any, batch: Any, expected: Any, exit_layer: int, gamma: int) -> None:
    method = FastVLM(ragged_draft(llava, exit_layer), gamma=gamma)
    assert decode(llava, batch, method) == expected
    rows = method.trace.rows
    rounds = [r for row in rows for r in row.rounds]
    assert len({tuple(r.accepted for r in row.rounds) for row in rows}) > 1, "acceptance must be ragged"
    assert sum(r.accepted for r in rounds) > 20 and sum(r.tested - r.accepted for r in rounds) > 5
    assert all(r.accepted <= r.tested <= r.drafted <= gamma for r in rounds)
    assert all(1 + sum(r.emitted for r in row.rounds) == len(row.token_ids) for row in rows)


@pytest.mark.parametrize(
    ("head", "exit_layer"),
    covering(
        product(("mlp", "attention", "twig", "eagle", None), (1, 3)),
        [("attention", 1)],
    ),
)
def test_heads(llava: Any, batch: Any, expected: Any, head: str | None, exit_layer: int) -> None:
    draft = Draft(exit_layer, new_head(head, llava, exit_layer) if head else None)
    assert decode(llava, batch, FastVLM(draft, gamma=4)) == expected


@pytest.mark.parametrize("head", covering(["attention", "twig", "eagle"], ["eagle"]))
def test_a_heads_own_cache_follows_the_rows(llava: Any, singles: Any, batch: Any, head: str) -> None:
    """Each row's drafts are those of the row alone, so the head's KV was moved as the target's was."""
    draft = Draft(2, new_head(head, llava, 2))
    wanted = []
    for single in singles:
        method = EarlyExit(draft)
        generate(llava, single, method, count=COUNT)
        assert method.last is not None
        wanted.append(method.last.token_ids)
    eos = wanted[0][4]
    cut = [row[: row.index(eos) + 1] if eos in row else row for row in wanted]
    assert decode(llava, batch, EarlyExit(draft)) == wanted
    assert decode(llava, batch, EarlyExit(draft), eos_token_id=eos) == cut
    assert len({len(row) for row in cut}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("head", ["mlp", "twig", "eagle"])
def test_rows_draft_what_they_draft_alone(llava: Any, singles: Any, batch: Any, expected: Any, head: str) -> None:
    """The drafts are the same in every round, so whatever a head remembers, KV or a last state, moved with its row."""

    class Watched(FastVLM):
        def _draft(self, session: Any, kwargs: Any) -> Any:
            drafts, seconds = super()._draft(session, kwargs)
            for row, own in zip(session.rows, drafts.tokens, strict=True):
                rows[row.place].append(list(own))
            return drafts, seconds

    torch.manual_seed(0)
    draft = Draft(LAYERS - 2, new_head(head, llava, LAYERS - 2))
    rows: list[list[list[int]]] = [[] for _ in singles]
    assert decode(llava, batch, Watched(draft, gamma=3), 12) == [row[:12] for row in expected]
    together = rows
    for single, own in zip(singles, together, strict=True):
        rows = [[]]
        generate(llava, single, Watched(draft, gamma=3), count=12)
        assert [own] == rows


def test_image_placeholders_are_never_drafted(
    llava: Any, batch: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = expected[0][5]
    monkeypatch.setattr(session_module, "PLACEHOLDERS", ("pretended_id",))
    monkeypatch.setattr(llava.config, "pretended_id", token, raising=False)
    drafted: list[int] = []

    class Watched(FastVLM):
        def _draft(self, *given: Any) -> Any:
            found = super()._draft(*given)
            drafted.extend(one for row in found[0].tokens for one in row)
            return found

    assert decode(llava, batch, Watched(ragged_draft(llava, 2, 0.0), gamma=6)) == expected
    assert len(drafted) > 20 and token not in drafted


def test_a_perfect_draft_stays_perfect(llava: Any, batch: Any, expected: Any) -> None:
    method = FastVLM(ragged_draft(llava, 2, 0.0), gamma=5)
    assert decode(llava, batch, method) == expected
    assert all(r.accepted == r.drafted for row in method.trace.rows for r in row.rounds)


def test_acceptance_of_a_row_does_not_depend_on_the_others(llava: Any, batch: Any, expected: Any) -> None:
    """The drafts of one row are always rejected. The others accept all of theirs, so no rollback touched their KV."""

    class SpoilsRow0(RaggedOracle):
        def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            for layer in self.layers:
                states = layer(states, *args, **kwargs)
            if len(states) == len(PROMPTS):
                states = torch.cat([torch.randn(states[:1].shape, generator=self.generator), states[1:]])
            return states

    method = FastVLM(Draft(2, SpoilsRow0(llava, 2, 0.0)), gamma=5)  # type: ignore[arg-type]
    assert decode(llava, batch, method) == expected
    assert sum(r.accepted for r in method.trace.rows[0].rounds[:4]) < 2
    assert all(r.accepted == r.drafted for row in method.trace.rows[1:] for r in row.rounds)


@pytest.mark.parametrize("place", covering([0, 1, 3, 8, 15], [0]))
def test_rows_end_at_different_times(llava: Any, batch: Any, expected: Any, place: int) -> None:
    eos = [expected[0][place], expected[1][(place * 7 + 2) % COUNT], expected[3][20]]
    ends = [next((i + 1 for i, t in enumerate(row) if t in eos), COUNT) for row in expected]
    cut = [row[:end] for row, end in zip(expected, ends, strict=True)]
    assert len(set(ends)) > 1
    for method in (Standard(), *(FastVLM(ragged_draft(llava, 2, s), gamma=6) for s in (0.0, 0.3))):
        assert decode(llava, batch, method, eos_token_id=eos) == cut
        assert [row.stop for row in method.trace.rows] == [("eos" if t[-1] in eos else "length") for t in cut]


@pytest.mark.parametrize("gamma", covering([0, 1, 4], [4]))
def test_the_control_arm_decodes_batches(llava: Any, batch: Any, expected: Any, gamma: int) -> None:
    """The same method object, one row and several: every draft is the target's own, so every draft stands."""
    method = Control(gamma=gamma)
    eos = [expected[0][8], expected[2][17]]
    ends = [next((i + 1 for i, token in enumerate(row) if token in eos), COUNT) for row in expected]
    for options, wanted in (
        ({}, expected),
        ({"eos_token_id": eos}, [r[:e] for r, e in zip(expected, ends, strict=True)]),
    ):
        assert decode(llava, batch, method, **options) == wanted
        assert all(r.accepted == r.drafted <= gamma for row in method.trace.rows for r in row.rounds)


def test_the_loop_of_transformers_is_cut_into_rows(llava: Any, batch: Any, expected: Any) -> None:
    eos = [expected[0][8], expected[2][17]]
    cut = [row[: next((i + 1 for i, token in enumerate(row) if token in eos), COUNT)] for row in expected]
    method = HfGenerate()
    assert decode(llava, batch, method, eos_token_id=eos, pad_token_id=0) == cut
    trace = method.trace
    assert trace is not None and [row.stop for row in trace.rows] == [
        "eos" if row[-1] in eos else "length" for row in cut
    ]
    assert [len(row.rounds) for row in trace.rows] == [len(row) - 1 for row in cut]
    assert sum(row.decode_s for row in trace.rows) == pytest.approx(trace.decode_s)


def test_the_trace_of_a_batch_is_not_taken_for_that_of_one_sequence(llava: Any, batch: Any, singles: Any) -> None:
    method = Standard()
    assert method.last is None
    decode(llava, batch, method, 4)
    with pytest.raises(ValueError, match="4 sequences were decoded together: their traces are in trace.rows"):
        _ = method.last
    decode(llava, singles[0], method, 4)
    assert method.last is not None and len(method.last.token_ids) == 4


def test_no_pass_is_spent_on_finished_rows(llava: Any, batch: Any, expected: Any) -> None:
    eos = expected[0][2]
    rows: list[int] = []
    layer = llava.model.language_model.layers[-1]
    handle = layer.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[0]))
    try:
        tokens = decode(llava, batch, Standard(), eos_token_id=eos)
    finally:
        handle.remove()
    lengths = [len(row) for row in tokens]
    assert rows == [len(lengths), *(sum(n > place for n in lengths) for place in range(1, max(lengths)))]


@pytest.mark.parametrize("count", covering([1, 2, 3, 8], [1, 3]))
def test_token_limit(llava: Any, batch: Any, expected: Any, count: int) -> None:
    for method in (FastVLM(ragged_draft(llava, 2), gamma=5), Standard()):
        assert decode(llava, batch, method, count) == [row[:count] for row in expected]
        assert {row.stop for row in method.trace.rows} == {"length"}


@pytest.mark.parametrize("stop_below", covering([0.05, 0.5, 0.99], [0.5]))
def test_confidence_stop(llava: Any, batch: Any, expected: Any, stop_below: float) -> None:
    method = FastVLM(ragged_draft(llava, 3), gamma=8, stop_below=stop_below)
    assert decode(llava, batch, method) == expected


@pytest.mark.slow  # in the default run, four rows are of two lengths
def test_one_row_and_equal_rows(llava: Any, singles: Any, expected: Any) -> None:
    assert decode(llava, singles[0], FastVLM(ragged_draft(llava, 2), gamma=4)) == expected[:1]
    alike = collate([singles[0], singles[3]], 0)  # equally long: no mask at first, one after the first ragged round
    method = FastVLM(ragged_draft(llava, 2), gamma=4)
    assert decode(llava, alike, method) == [expected[0], expected[3]]


def test_processors_see_the_row_without_padding(llava: Any, batch: Any, singles: Any) -> None:
    def processors() -> LogitsProcessorList:
        return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])

    wanted = [generate(llava, single, count=12, logits_processor=processors()) for single in singles]
    for method in (Standard(), FastVLM(ragged_draft(llava, 2), gamma=5)):
        assert decode(llava, batch, method, 12, logits_processor=processors()) == wanted
    few = [generate(llava, s, count=12, eos_token_id=wanted[0][1], min_new_tokens=6) for s in singles]
    assert decode(llava, batch, Standard(), 12, eos_token_id=wanted[0][1], min_new_tokens=6) == few


def test_seconds_of_rows_add_up_to_the_batchs(llava: Any, batch: Any, expected: Any) -> None:
    for method in (Standard(), FastVLM(ragged_draft(llava, 2), gamma=4)):
        decode(llava, batch, method, eos_token_id=expected[0][5])
        last = method.trace
        assert last is not None
        assert sum(row.ttft_s for row in last.rows) == pytest.approx(last.ttft_s)
        assert sum(row.decode_s for row in last.rows) == pytest.approx(last.decode_s, rel=0.2)
        assert all(sum(r.draft_s + r.verify_s for r in row.rounds) <= row.decode_s for row in last.rows)


def test_what_generate_returns(llava: Any, batch: Any, expected: Any) -> None:
    eos = expected[0][3]
    with torch.inference_mode():
        ours = llava.generate(**batch, max_new_tokens=COUNT, do_sample=False, custom_generate=Standard(),
                              eos_token_id=eos, pad_token_id=0)  # fmt: skip
        theirs = llava.generate(**batch, max_new_tokens=COUNT, do_sample=False, eos_token_id=eos, pad_token_id=0)
    assert ours.tolist() == theirs.tolist()


def test_wrong_padding_and_streamers_are_refused(llava: Any, batch: Any) -> None:
    right = {**batch, "attention_mask": batch["attention_mask"].flip(1)}
    with pytest.raises(ValueError, match="padded on the left"):
        decode(llava, right, Standard())
    streamer = TextStreamer(random_llava(2)[1])
    method = Standard()
    with pytest.raises((UsageError, ValueError)):
        decode(llava, batch, method, streamer=streamer)


@pytest.mark.slow  # test_gate_mutants.py has it in the default run
def test_the_self_check_passes_and_catches_a_wrong_move(
    llava: Any, singles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert batch_self_check(llava, singles[:3], Draft(2, new_head("attention", llava, 2))) < 1e-4
    real = Move.columns
    monkeypatch.setattr(Move, "columns", lambda self, *given: (real(self, *given) - 1).clamp_min(0))
    with pytest.raises(
        UsageError, match="logits differ from those of the plain model's batch by .*; use --batch-size 1"
    ) as caught:
        batch_self_check(llava, singles[:3], Draft(2, None))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_self_check_passes_without_a_head_and_without_a_draft(llava: Any, singles: Any) -> None:
    assert all(batch_self_check(llava, singles[:3], draft) < 1e-4 for draft in (None, Draft(2, None)))


def test_collate_pads_and_fills() -> None:
    def one(length: int, tiles: int) -> dict[str, Tensor]:
        return {"input_ids": torch.ones(1, length, dtype=torch.long), "pixel_values": torch.ones(1, tiles, 3)}

    made = collate([one(2, 1), one(4, 3)], 9)
    assert made["input_ids"].tolist() == [[9, 9, 1, 1], [1, 1, 1, 1]]
    assert made["pixel_values"][:, :, 0].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert unevenness([one(2, 1), one(4, 1)]) == {"input_ids"} and unevenness([one(2, 1), one(2, 3)]) == {
        "pixel_values"
    }
    assert unevenness([one(2, 3), one(2, 3)]) == set()
    with pytest.raises(UsageError, match="different inputs .pixel_values.; use --batch-size 1"):
        collate([one(2, 1), {"input_ids": torch.ones(1, 2)}], 0)
