"""The text that heads learn on: the target's own greedy answers, written once and kept on disk, or references.

A drafted token can be accepted only while every token before it was the target's choice. So the prefixes on which a
head will have to draft are exactly those of the target's own text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.engine.stopping import output_end
from fastvlm_bench.models.load import Target
from fastvlm_bench.records.storage import seal, unseal, write_atomically
from fastvlm_bench.training.micro_batch import MicroBatch
from fastvlm_bench.training.samples import TrainingSample

ROOM = 64


@dataclass(frozen=True)
class Example:
    """A sample and the text to learn on: token ids, the final EOS included if it `ended` within the limit.

    limit: the token limit with which it was written; None where that is not known.
    """

    sample: TrainingSample
    answer: tuple[int, ...]
    ended: bool
    limit: int | None = None

    def inputs(self, target: Target) -> dict[str, Tensor]:
        """Processor outputs, batch of one."""
        return target.encode(self.sample.open(), self.sample.prompt)

    @property
    def most(self) -> int:
        """The token limit with which decoding would write this text; ROOM tokens above its length if not known."""
        return self.limit or len(self.answer) + (ROOM if self.ended else 0)

    @property
    def taught(self) -> int:
        """How many positions teach. Each predicts a token that can be drafted: every token but the first."""
        return max(len(self.answer) - 1, 0)


class AnswerFile:
    """Answers by sample id, one sealed line each, so that a resumed training does not generate them again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, tuple[tuple[int, ...], bool]] = {}
        if path.is_file():
            whole, raw = [], path.read_bytes()
            for line in raw.split(b"\n"):
                try:
                    found = unseal(line)
                except ValueError:
                    continue  # empty after the last newline, or a torn line, whose answer is generated again
                whole.append(line)
                self.known[found["sample_id"]] = (tuple(found["token_ids"]), found["ended"])
            if raw != (text := b"".join(line + b"\n" for line in whole)):
                write_atomically(path, text)

    def add(self, sample_id: str, answer: tuple[int, ...], ended: bool) -> None:
        self.known[sample_id] = (answer, ended)
        with self.path.open("ab") as file:
            file.write(seal({"sample_id": sample_id, "token_ids": list(answer), "ended": ended}))


def own_answers(
    target: Target, samples: Sequence[TrainingSample], most: int, path: Path, report: Callable[[int], None], size: int,
    say: Callable[[str], None] = lambda _: None,
) -> list[Example]:  # fmt: skip
    """The target's greedy answers of at most `most` tokens; those in the file at `path` are not generated again.

    size: how many prompts are decoded together. They are fewer where the model answers otherwise in a batch, or where
    memory runs out; `say` is told so. The groups depend only on the order of the samples, so that an answer does not
    depend on where an earlier attempt was stopped. report: called with the number of answers there are.
    """
    file = AnswerFile(path)
    if all(sample.sample_id in file.known for sample in samples):
        report(len(samples))
    elif size > 1 and len(samples) > 1 and not pads_well(target, samples[:2], most):
        say("answers are written one by one: two prompts decoded together do not get the answers that each gets alone")
        size = 1
    together = MicroBatch(size, say)
    for start in range(0, len(samples), size):
        group = samples[start : start + size]
        if any(sample.sample_id not in file.known for sample in group):
            answers = together.over(group, lambda part: greedy_answers(target, part, most), "writing answers")
            for sample, (answer, ended) in zip(group, answers, strict=True):
                if sample.sample_id not in file.known:
                    file.add(sample.sample_id, answer, ended)
        report(start + len(group))
    return [Example(sample, *file.known[sample.sample_id], most) for sample in samples]


def reference_answers(target: Target, samples: Sequence[TrainingSample], most: int) -> list[Example]:
    """The first reference of each sample that has one, tokenized as it follows the prompt: `most` tokens, EOS last."""
    tokenizer = target.processor.tokenizer
    (eos, *_) = ends(target)
    out = []
    for sample in samples:
        if sample.references:
            ids = tokenizer.encode(" " + sample.references[0].strip(), add_special_tokens=False)[: most - 1]
            out.append(Example(sample, (*ids, eos), True))
    return out


def ends(target: Target) -> list[int]:
    """The token ids at which the target stops."""
    eos = target.model.generation_config.eos_token_id
    return [eos] if isinstance(eos, int) else list(eos or [target.processor.tokenizer.eos_token_id])


def pads_well(target: Target, samples: Sequence[TrainingSample], most: int) -> bool:
    """Whether two prompts decoded together, padded on the left, get the answers that each gets alone."""
    if len(samples) < 2:
        return False
    try:
        return greedy_answers(target, samples, most) == [
            greedy_answers(target, [sample], most)[0] for sample in samples
        ]
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, MemoryError):
        return False  # for example, images of two sizes do not fit into one tensor, or two prompts not into memory


@torch.inference_mode()
def greedy_answers(target: Target, samples: Sequence[TrainingSample], most: int) -> list[tuple[tuple[int, ...], bool]]:
    """(token ids, whether they end with EOS) of each sample, decoded together in one batch padded on the left."""
    inputs = [target.encode(sample.open(), sample.prompt) for sample in samples]
    given = stack(inputs, pad_id(target), left=True)
    made = target.model.generate(
        **given, max_new_tokens=most, do_sample=False, num_beams=1, pad_token_id=pad_id(target)
    )
    # What an encoder-decoder returns starts with the decoder's start token, not with the prompt.
    made = made[:, 1 if target.model.config.is_encoder_decoder else given["input_ids"].shape[1] :]
    out = []
    for place, row in enumerate(made.tolist()):
        prompt = given["input_ids"][place : place + 1]
        end, stop = output_end(prompt, row, ends(target), most, target.criteria)
        out.append((tuple(row[:end]), stop == "eos"))
    return out


def stack(inputs: Sequence[dict[str, Tensor]], pad: int, *, left: bool = False) -> dict[str, Tensor]:
    """Join batches of one sample into one batch.

    Tensors with one value per token, (1, tokens), are padded to the longest: input_ids with `pad`, all others with 0.
    Other tensors are joined along their first axis as they are, and lists one after the other.
    left: pad on the left, as decoding needs it.
    """
    if len(inputs) == 1:
        return dict(inputs[0])
    lengths = [one["input_ids"].shape[1] for one in inputs]
    out: dict[str, Any] = {}
    for key, first in inputs[0].items():
        rows = [one[key] for one in inputs]
        if not isinstance(first, Tensor):
            out[key] = [item for row in rows for item in row] if isinstance(first, list) else first
            continue
        if first.ndim == 2 and all(row.shape == (1, n) for row, n in zip(rows, lengths, strict=True)):
            fill = pad if key == "input_ids" else 0
            gaps = [max(lengths) - n for n in lengths]
            rows = [
                nn.functional.pad(row, (gap, 0) if left else (0, gap), value=fill)
                for row, gap in zip(rows, gaps, strict=True)
            ]
        out[key] = torch.cat(rows)
    return out


def pad_id(target: Target) -> int:
    """A token id to pad with: any will do, since the attention mask hides it."""
    tokenizer = target.processor.tokenizer
    found = tokenizer.pad_token_id
    return int(found if found is not None else ends(target)[0])
