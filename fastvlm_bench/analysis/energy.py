"""The group `energy` of a row: what `--energy` measured of a method."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.analysis.statistics import divide


@dataclass(frozen=True)
class Energy:
    """joules_per_token, and watts as the mean over a method's blocks; None where it was not measured."""

    joules_per_token: float | None = None
    watts: float | None = None


def energy_of(meta: Mapping[str, Any], suite: str, method: str) -> Energy:
    """The energy of a method's blocks on a suite. meta: `run.json`. It is unknown unless every block has a reading."""
    entry = (meta.get("energy") or {}).get(suite) or {}
    own = [block for block in entry.get("blocks") or [] if block["method"] == method]
    if not own or any(block["joules"] is None for block in own):
        return Energy()
    joules = sum(block["joules"] for block in own)
    return Energy(divide(joules, sum(b["tokens"] for b in own)), divide(joules, sum(b["seconds"] for b in own)))
