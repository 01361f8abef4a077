"""Training batches: images with per-patch labels for the tower, packed rows of conversation for the decoder.

Each batch is a pure function of (seed, stage, index), so a resumed training sees what an uninterrupted one sees.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fastvlm_bench.models.tiny import language
from fastvlm_bench.models.tiny.checkpoint import PATCH, PATCHES
from fastvlm_bench.models.tiny.scenes import (
    BACKGROUNDS,
    CELL,
    COLORS,
    GRID,
    IMAGE_SIZE,
    PATTERNS,
    SHAPES,
    SIZES,
    Scene,
    render,
    sample_scene,
)  # fmt: skip

LABELS = {
    "shape": len(SHAPES) + 1, "color": len(COLORS) + 1, "size": len(SIZES) + 1, "pattern": len(PATTERNS) + 1,
    "background": len(BACKGROUNDS), "cell": GRID * GRID,
}  # fmt: skip
# Two-step look-ups are learnt last, so they are asked most often.
WEIGHTS = {"color": 3, "size": 2, "pattern": 3, "where": 3, "relation": 4, "shape": 2, "exists": 3, "count-shape": 2,
           "count-color": 2, "what-at": 1, "count": 1, "background": 1}  # fmt: skip


def pixels(scenes: list[Scene]) -> Tensor:
    """What the processor makes of the rendered scenes: (images, 3, 96, 96), scaled to [-1, 1]."""
    array = np.stack([np.asarray(render(scene)) for scene in scenes])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def patch_labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """For every patch the attributes of the object in its cell (0 = none): name -> (images, patches)."""
    side = IMAGE_SIZE // PATCH
    cells = [(p // side) * PATCH // CELL * GRID + (p % side) * PATCH // CELL for p in range(side * side)]
    table = {name: torch.zeros(len(scenes), PATCHES, dtype=torch.long) for name in LABELS}
    for i, scene in enumerate(scenes):
        held = {o.cell: o for o in scene.objects}
        for patch, cell in enumerate(cells):
            table["background"][i, patch] = list(BACKGROUNDS).index(scene.background)
            table["cell"][i, patch] = cell
            if item := held.get(cell):
                table["shape"][i, patch] = 1 + SHAPES.index(item.shape)
                table["color"][i, patch] = 1 + list(COLORS).index(item.color)
                table["size"][i, patch] = 1 + list(SIZES).index(item.size)
                table["pattern"][i, patch] = 1 + PATTERNS.index(item.pattern)
    return table


@dataclass
class Rows:
    """Packed rows. ids, positions, targets, weights: (rows, tokens); target -100 where nothing is to be predicted.

    mask: (rows, 1, tokens, tokens), additive. Every conversation of a row sees the shared image and itself only,
    at the positions that it would have alone.
    """

    images: Tensor
    ids: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    mask: Tensor


class Packer:
    """Makes rows of one image and as many conversations as fit."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, row_tokens: int) -> None:
        self.tokenizer, self.row_tokens = tokenizer, row_tokens
        encode = self.encode
        self.prefix = encode("<s>USER: " + "<image>" * PATCHES)
        whole = encode(f"<s>USER: {'<image>' * PATCHES}\nWhat is it? ASSISTANT: red</s>")
        if whole != self.prefix + encode("\nWhat is it? ASSISTANT:") + encode(" red</s>"):
            raise RuntimeError("conversations do not tokenise piece by piece as they do whole")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def conversations(self, scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, float]]:
        """(prompt, answer, weight of an answer token) in the order in which they are packed."""
        out = []
        if rng.random() < 0.3:
            out.append((language.DESCRIBE_PROMPT, language.description(scene), 0.4))
        if rng.random() < 0.5:
            variant = 0 if rng.random() < 0.8 else int(rng.integers(1, language.CAPTION_VARIANTS))
            out.append((language.CAPTION_PROMPT, language.caption(scene, variant), 0.4))
        asked: list[language.Question] = []
        for _ in range(4):
            asked += [q for q in language.questions(scene, rng) if rng.random() < WEIGHTS[q.kind] / 4]
        for question in asked:
            ending = language.SHORT_ANSWER if rng.random() < 0.25 else ""
            out.append((question.text + ending, question.answer, 1.0))
        return out

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
