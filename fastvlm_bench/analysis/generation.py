"""The generation settings of a run in words: for the head of its report, and to tell two runs apart."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastvlm_bench.records.record import Run

FOUND = ("do_sample", "num_beams", "eos_token_id")
"""Settings that every run has."""


def in_force(run: Run) -> str | None:
    """All settings that were in force, as one text that is the same for the same settings; None if not recorded."""
    recorded = run.meta.get("generation")
    return None if recorded is None else _listed(recorded["in_force"])


def generation_line(run: Run) -> str:
    """One line for the head of a report: what was in force, and what the checkpoint asked for in vain.

    "" for a record that does not know.
    """
    recorded = run.meta.get("generation")
    if recorded is None:
        return ""
    settings, asked = recorded["in_force"], recorded["overridden"]
    ends = settings.get("eos_token_id") or []
    parts = [
        "generation: " + ("tokens drawn" if settings.get("do_sample") else "greedy"),
        f"end token{'s' * (len(ends) != 1)} {', '.join(map(str, ends)) or 'none'}",
    ]
    if own := {name: value for name, value in settings.items() if name not in FOUND}:
        parts.append(_listed(own))
    if asked:
        parts.append(f"not as the checkpoint asks: {_listed(asked)}")
    return " · ".join(parts)


def unusual_generation(run: Run) -> str:
    """`generation_line` where a setting may change tokens, or the checkpoint asked for one in vain; else ""."""
    recorded = run.meta.get("generation") or {}
    usual = set(recorded.get("in_force", {})) <= set(FOUND) and not recorded.get("overridden")
    return "" if usual else generation_line(run)


def generation_notes(runs: Sequence[Run]) -> list[str]:
    """A note where some runs recorded their settings and others, of an older version, did not: nobody can tell."""
    known = [run.run_id for run in runs if in_force(run) is not None]
    unknown = [run.run_id for run in runs if in_force(run) is None]
    if not known or not unknown:
        return []
    return [f"{', '.join(unknown)} did not record the generation settings: whether they are those of "
            f"{', '.join(known)} cannot be told"]  # fmt: skip


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_short(settings[name])}" for name in sorted(settings))


def _short(value: Any) -> str:
    """A value as JSON; of a long one its beginning and a digest of it all, so that two different ones differ."""
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 40 else f"{text[:24]}... (sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"
