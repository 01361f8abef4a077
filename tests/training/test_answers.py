"""The target's own answers: the same however often their writing was stopped, and whatever else lies in the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from targets import generate

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.training import answers as module
from fastvlm_bench.training.answers import AnswerFile, Example, own_answers, pads_well, reference_answers, stack
from fastvlm_bench.training.samples import TrainingSample, folder_samples, hold_out

MOST = 14


def again(target: Target, examples: list[Example], path: Path, count: int = 8, size: int = 4) -> list[Example]:
    return own_answers(target, [e.sample for e in examples[:count]], MOST, path, lambda _: None, size)


def test_answers_are_what_the_target_says(target: Target, examples: list[Example]) -> None:
    for example in examples[:3]:
        assert tuple(generate(target.model, example.inputs(target), count=MOST)) == example.answer
        assert example.taught == len(example.answer) - 1
        assert example.ended == (example.answer[-1] == target.model.generation_config.eos_token_id)


def test_file_survives_a_torn_last_line(
    target: Target, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answers.jsonl"
    file = AnswerFile(path)
    for example in examples:
        file.add(example.sample.sample_id, example.answer, example.ended)
    whole = path.read_bytes()
    asked: list[str] = []
    greedy = module.greedy_answers

    def counted(target: Target, samples: list[TrainingSample], most: int) -> Any:
        asked.extend(s.sample_id for s in samples)
        return greedy(target, samples, most)

    monkeypatch.setattr(module, "greedy_answers", counted)
    monkeypatch.setattr(module, "pads_well", lambda *_: True)
    ends = [len(b"".join(whole.splitlines(keepends=True)[:n])) for n in range(9)]
    for cut in (ends[6] + 1, ends[7] - 1, ends[5]):
        path.write_bytes(whole[:cut])
        asked.clear()
        assert again(target, examples, path) == examples
        assert asked == [f"noise/{n}" for n in range(4, 8)], "only the group that is not whole"
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    asked.clear()
    assert again(target, examples, path) == examples and not asked


def test_a_damaged_line_is_written_again(target: Target, examples: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    file = AnswerFile(path)
    for example in examples[:4]:
        file.add(example.sample.sample_id, example.answer, example.ended)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"[", b"[9", 1)
    path.write_bytes(b"".join(lines))
    assert set(AnswerFile(path).known) == {"noise/0", "noise/2", "noise/3"}
    assert again(target, examples, path, count=4) == examples[:4]


def test_stopped_generation_goes_on_to_the_same(
    target: Target, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within the second group; groups do not move, so the texts are those of an uninterrupted run."""
    path, groups, greedy = tmp_path / "answers.jsonl", list[list[str]](), module.greedy_answers

    def stopping(target: Target, samples: list[TrainingSample], most: int) -> Any:
        groups.append([s.sample_id for s in samples])
        if len(groups) == 2:
            raise KeyboardInterrupt
        return greedy(target, samples, most)

    monkeypatch.setattr(module, "pads_well", lambda *_: True)
    monkeypatch.setattr(module, "greedy_answers", stopping)
    with pytest.raises(KeyboardInterrupt):
        again(target, examples, path, count=6)
    assert again(target, examples, path, count=6) == examples[:6]
    assert groups == [[f"noise/{n}" for n in part] for part in (range(4), (4, 5), (4, 5))]


def test_one_by_one_where_padding_does_not_do(
    target: Target, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pads_well(target, [e.sample for e in examples[:2]], 4)
    assert not pads_well(target, [examples[0].sample], 4), "nothing to compare"
    greedy, sizes = module.greedy_answers, list[int]()

    def single(target: Target, samples: list[TrainingSample], most: int) -> Any:
        sizes.append(len(samples))
        if len(samples) > 1:
            raise RuntimeError("images of two sizes")
        return greedy(target, samples, most)

    monkeypatch.setattr(module, "greedy_answers", single)
    said: list[str] = []
    samples = [e.sample for e in examples[:3]]
    assert own_answers(target, samples, MOST, tmp_path / "a.jsonl", lambda _: None, 4, said.append) == examples[:3]
    assert sizes == [2, 1, 1, 1] and said == [
        "answers are written one by one: two prompts decoded together do not get the answers that each gets alone"
    ]


def test_memory_that_runs_out(
    target: Target, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups are halved for good, with a message; what was written stays, and the texts are the same."""
    greedy, sizes, said = module.greedy_answers, list[int](), list[str]()

    def tight(target: Target, samples: list[TrainingSample], most: int) -> Any:
        sizes.append(len(samples))
        if len(samples) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return greedy(target, samples, most)

    monkeypatch.setattr(module, "pads_well", lambda *_: True)
    monkeypatch.setattr(module, "greedy_answers", tight)
    samples = [e.sample for e in examples[:7]]
    made = own_answers(target, samples, MOST, tmp_path / "answers.jsonl", lambda _: None, 5, said.append)
    assert made == examples[:7]
    assert sizes == [5, 2, 2, 1, 2] and said == ["out of memory writing answers: micro-batch halved to 2"]


def test_references_end_and_keep_the_limit(target: Target, examples: list[Example]) -> None:
    made = reference_answers(target, [examples[0].sample], 6)[0]
    tokenizer = target.processor.tokenizer
    assert made.ended and made.answer[-1] == tokenizer.eos_token_id and len(made.answer) <= 6
    assert " a dot of 0".startswith(tokenizer.decode(made.answer[:-1]))
    assert reference_answers(target, [TrainingSample("s/1", "1", "p", examples[0].sample.open)], 6) == []


def test_stack_pads_what_has_one_value_a_token() -> None:
    def one(n: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.full((1, n), 7), "attention_mask": torch.ones(1, n, dtype=torch.long),
                "pixel_values": torch.zeros(2, 4)}  # fmt: skip

    right, left = stack([one(2), one(3)], 9), stack([one(2), one(3)], 9, left=True)
    assert right["input_ids"].tolist() == [[7, 7, 9], [7, 7, 7]] and left["input_ids"][0].tolist() == [9, 7, 7]
    assert right["attention_mask"][0].tolist() == [1, 1, 0] and left["attention_mask"][0].tolist() == [0, 1, 1]
    assert right["pixel_values"].shape == (4, 4)


def test_folder_of_images(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    images, prompts = pictures
    found = folder_samples(images, prompts)
    assert [s.sample_id for s in found] == [f"{images.name}/{n}.png" for n in range(8)]
    assert found[1].prompt == "What is it?" == found[4].prompt
    assert isinstance(found[0].open(), Image.Image)
    rest, held = hold_out(found, 3, seed=0)
    assert len(held) == 3 and len(rest) == 5 and not {s.image_id for s in held} & {s.image_id for s in rest}
    assert (rest, held) == hold_out(found, 3, seed=0) and held != hold_out(found, 3, seed=1)[1]
    with pytest.raises(UsageError, match="8 samples on 8 images leave nothing to train on after 8 are held out"):
        hold_out(found, 8, seed=0)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xff")
    for given, said in (
        ((tmp_path / "no", prompts), "is not a folder"),
        ((tmp_path, prompts), "no image .* under .*; there is nothing to train on"),
        ((images, tmp_path / "empty.txt"), "no prompt in"),
        ((images, tmp_path / "no.txt"), "cannot be read"),
        ((images, tmp_path / "latin.txt"), "cannot be read .*; give a UTF-8 text"),
    ):
        with pytest.raises(UsageError, match=said):
            folder_samples(*given)
