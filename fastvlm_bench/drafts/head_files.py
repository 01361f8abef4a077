"""Reads weights of a checkpoint folder by name: safetensors or PyTorch's own files, single or in shards."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastvlm_bench.drafts.manifest import first_line
from fastvlm_bench.errors import UsageError

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"


def weight_files(folder: Path) -> list[Path]:
    """The files with a folder's weights: those that its index names, else the one file. UsageError if there is none."""
    for name in (SAFE, PICKLED):
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{index} cannot be read ({first_line(error)}); download it again") from None
            if lacking := [each for each in names if not (folder / each).is_file()]:
                raise UsageError(f"{folder} lacks {', '.join(lacking[:3])}, which its index names; download it again")
            return [folder / each for each in names]
        if (folder / name).is_file():
            return [folder / name]
    loose = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not loose:
        raise UsageError(f"{folder} has no weights ({SAFE} or {PICKLED}, single or with an index); download it again")
    return loose


def read_weights(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU, of the weights whose name is wanted. UsageError where a file is damaged.

    Pickled files are read with `weights_only`, so that no code in them runs.
    """
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            found.update(_tensors(path, wanted))
        except Exception as error:  # a damaged pickle raises whatever it likes
            if isinstance(error, SafetensorError | OSError | EOFError | ValueError | RuntimeError | KeyError) or (
                path.suffix == ".bin"
            ):
                raise UsageError(f"{path} cannot be read ({first_line(error)}); download it again") from None
            raise
    return found


def _tensors(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a handle, not a dictionary
                if wanted(name):
                    yield name, file.get_tensor(name)
        return
    for name, value in torch.load(path, map_location="cpu", weights_only=True).items():
        if isinstance(value, Tensor) and wanted(name):
            yield name, value
