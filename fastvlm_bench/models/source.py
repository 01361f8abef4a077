"""Where a model's checkpoint is: of the tool's own models their folder, else the hub id or folder as it was given."""

from fastvlm_bench.models.names import TINY, split_revision
from fastvlm_bench.models.smol import smol_folder


def source_of(name: str) -> tuple[str, str | None]:
    """(a folder or a hub id, its revision). UsageError where `smol` cannot be made; its first use takes seconds."""
    if name == "tiny":
        return str(TINY), None
    return (str(smol_folder()), None) if name == "smol" else split_revision(name)
