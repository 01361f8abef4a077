"""Training batches: images with per-patch labels for the tower, packed rows of conversation for the decoder.

Each batch is a pure function of (seed, stage, index), so a resumed training sees what an uninterrupted one sees.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fastvlm_bench.embedded.parts import PATCH, PATCHES
from fastvlm_bench.world import language, questions
from fastvlm_bench.world.pictures import CELL, IMAGE_SIZE, render
from fastvlm_bench.world.scenes import COLORS, GRID, KINDS, PLACES, SIZES, TIMES, Scene, sample_scene

LABELS = {
    "kind": len(KINDS) + 1, "color": len(COLORS) + 1, "size": len(SIZES) + 1, "place": len(PLACES),
    "time": len(TIMES), "cell": GRID * GRID,
}  # fmt: skip
# Two-step look-ups are learnt last, so they are asked most often.
WEIGHTS = {"color": 3, "size": 2, "where": 2, "relation": 6, "side": 4, "which": 2, "exists": 3, "count-kind": 2,
           "count-color": 2, "what-at": 2, "count": 1, "place": 1, "time": 1, "knowledge": 3}  # fmt: skip
DIALOGS = 0.12  # share of the rows with a dialog
TEXT_WEIGHT = 0.8  # of a caption's or description's token. An answer's has 1: such tokens are fewer and less alike


def pixels(scenes: list[Scene]) -> Tensor:
    """The pictures of the scenes as the processor returns them: (images, 3, 120, 120), scaled to [-1, 1]."""
    array = np.stack([np.asarray(render(scene)) for scene in scenes])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def patch_labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """For every patch the attributes of the object in its cell (0 = none): name -> (images, patches)."""
    side = IMAGE_SIZE // PATCH
    cells = [(p // side) * PATCH // CELL * GRID + (p % side) * PATCH // CELL for p in range(side * side)]
    table = {name: torch.zeros(len(scenes), PATCHES, dtype=torch.long) for name in LABELS}
    table["cell"][:] = torch.tensor(cells)
    kinds = list(KINDS)
    for i, scene in enumerate(scenes):
        table["place"][i] = PLACES.index(scene.place)
        table["time"][i] = TIMES.index(scene.time)
        for item in scene.objects:
            own = [patch for patch, cell in enumerate(cells) if cell == item.cell]
            table["kind"][i, own] = 1 + kinds.index(item.kind)
            table["color"][i, own] = 1 + COLORS.index(item.color)
            table["size"][i, own] = 1 + SIZES.index(item.size)
    return table


@dataclass
class Rows:
    """Packed rows: one image and several conversations about it in each.

    images: (rows, 3, 120, 120). ids, positions, targets, weights: (rows, tokens); a target of -100 is not predicted.
    mask: (rows, 1, tokens, tokens), additive. Each conversation of a row sees only the shared image and itself, and has
    the positions that it would have alone.
    """

    images: Tensor
    ids: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    mask: Tensor


class Packer:
    """Makes rows of one image and as many conversations as fit. described: the share of rows with a description."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, row_tokens: int, described: float = 0.5) -> None:
        self.tokenizer, self.row_tokens, self.described = tokenizer, row_tokens, described
        self.encode = encode = lru_cache(maxsize=50_000)(self._encode)  # most questions come again and again
        self.prefix = encode("<s>USER: " + "<image>" * PATCHES)
        whole = encode(f"<s>USER: {'<image>' * PATCHES}\nWhat is it? ASSISTANT: red</s>")
        if whole != self.prefix + encode("\nWhat is it? ASSISTANT:") + encode(" red</s>"):
            raise RuntimeError("conversations do not tokenise piece by piece as they do whole")

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def conversations(self, scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, float]]:
        """(prompt, answer, weight of an answer token) in the order in which they are packed."""
        out, drawn = [], rng.random()
        if drawn < self.described:
            asked_for = language.DESCRIBE_PROMPT if rng.random() < 0.9 else language.LONG_PROMPT
            out.append((asked_for, language.description(scene), TEXT_WEIGHT))
        elif drawn < self.described + DIALOGS:
            *told, last = questions.dialog(scene, rng, int(rng.integers(2, 11)))
            history = " ".join(f"q: {q.text} a: {q.answer}" for q in told)
            out.append((f"Dialog history: {history}\n Question: {last.text} Short answer:", last.answer, 1.0))
        if rng.random() < 0.5:
            variant = 0 if rng.random() < 0.8 else int(rng.integers(1, language.CAPTION_VARIANTS))
            asked_for = language.CAPTION_PROMPT if rng.random() < 0.9 else language.PHOTO_PROMPT
            out.append((asked_for, language.caption(scene, variant), TEXT_WEIGHT))
        asked: list[questions.Question] = []
        for _ in range(3):
            asked += [q for q in questions.questions(scene, rng) if rng.random() < WEIGHTS[q.kind] / 4]
        return out + [(questions.prompt(q, rng), q.answer, 1.0) for q in asked]

    def rows(self, count: int, rng: np.random.Generator) -> Rows:
        scenes = [sample_scene(rng, held_out=False) for _ in range(count)]
        shape = (count, self.row_tokens)
        ids = np.full(shape, self.tokenizer.pad_token_id)
        positions, targets = np.zeros(shape, dtype=np.int64), np.full(shape, -100)
        weights, owner = np.zeros(shape, dtype=np.float32), np.full(shape, -1)
        start = len(self.prefix)
        for i, scene in enumerate(scenes):
            ids[i, :start], owner[i, :start], positions[i, :start] = self.prefix, 0, np.arange(start)
            at = start
            for number, (prompt, answer, weight) in enumerate(self.conversations(scene, rng), 1):
                asked, told = self.encode(f"\n{prompt} ASSISTANT:"), self.encode(f" {answer}</s>")
                end = at + len(asked) + len(told)
                if end > self.row_tokens:
                    continue
                ids[i, at:end], owner[i, at:end] = asked + told, number
                positions[i, at:end] = np.arange(start, start + end - at)
                targets[i, end - len(told) - 1 : end - 1] = told
                weights[i, end - len(told) - 1 : end - 1] = weight
                at = end
        own = torch.from_numpy(owner)
        seen = (own[:, :, None] == own[:, None, :]) | (own[:, None, :] == 0)
        seen &= torch.ones(self.row_tokens, self.row_tokens, dtype=torch.bool).tril()
        seen |= torch.eye(self.row_tokens, dtype=torch.bool)  # padding sees itself, else its softmax is NaN
        mask = torch.zeros(count, 1, *seen.shape[1:]).masked_fill_(~seen[:, None], torch.finfo(torch.float32).min)
        return Rows(pixels(scenes), torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(targets),
                    torch.from_numpy(weights), mask)  # fmt: skip
