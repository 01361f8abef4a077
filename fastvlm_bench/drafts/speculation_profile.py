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
    by_place: Sequence[Sequence[int]], *, tokens: int, rounds: int, gamma: int, data: str, samples: int, tool: str,
    temperature: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """The profile of rounds without a stop in doubt.

    by_place: for each place of a draft, [how often its token stood, how often it was tested]: it is tested where those
    before it stood. data: the suites. tokens: emitted, in so many rounds. histogram[k]: rounds of which k drafts stood,
    by the counts of neighbouring places; rounds that the end of the text cut short count as what stood until then.
    """
    tested = [count for _, count in by_place if count]
    stood = [count for count, of in by_place if of]
    histogram = [max(have - stand, 0) for have, stand in zip(tested, stood, strict=True)]
    return {
        "version": VERSION, "tool": tool, "data": data, "samples": samples, "temperature": temperature,
        "speculative_tokens": gamma, "rounds": rounds, "tokens": tokens,
        "acceptance_length": round(tokens / rounds, 4) if rounds else None,
        "conditional_acceptance_rates": [round(a / b, 4) for a, b in zip(stood, tested, strict=True)],
        "tested_by_position": tested, "rejected_histogram": histogram,
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
