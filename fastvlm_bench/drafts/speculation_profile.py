"""`speculation_profile.json` beside a draft: how many of its tokens stand, measured on text it was not trained on.

A prediction needs no more of a draft than this. Without torch.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError

PROFILE, VERSION = "speculation_profile.json", 1


def profile(
    by_position: Sequence[Sequence[int]], *, tokens: int, rounds: int, gamma: int, data: Sequence[str], tool: str,
) -> dict[str, Any]:  # fmt: skip
    """The profile of greedy rounds that do not stop in doubt.

    by_position: (accepted, tested) for each place of a draft; a place is tested where the drafts before it stood. So
    tested - accepted rounds were rejected there. tokens: emitted by all rounds. data: the suites.
    """
    tested = [(stood, of) for stood, of in by_position if of]
    return {
        "version": VERSION, "tool": tool, "data": list(data), "temperature": 0.0, "speculative_tokens": gamma,
        "rounds": rounds, "tokens": tokens, "acceptance_length": round(tokens / rounds, 4) if rounds else None,
        "conditional_acceptance_rates": [round(stood / of, 4) for stood, of in tested],
        "tested_by_position": [of for _, of in tested], "rejected_by_position": [of - stood for stood, of in tested],
    }  # fmt: skip


def read_profile(folder: Path) -> Mapping[str, Any] | None:
    """The profile of a draft folder; None where there is none. UsageError where it cannot be read."""
    path = folder / PROFILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rates = [float(rate) for rate in found["conditional_acceptance_rates"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: not a speculation profile; train the draft again, or delete the file") from None
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise UsageError(f"{path}: conditional_acceptance_rates must be shares from 0 to 1; train the draft again")
    return {**found, "conditional_acceptance_rates": rates}
