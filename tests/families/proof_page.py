"""Keeps what was proven in results/families.json, and makes the page of it. Each proof names its packages."""

import importlib.metadata
import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from families.builders import FAMILIES
from families.half import Half
from families.proof import COUNT, GAMMAS, Proof

from fastvlm_bench.checks.losslessness import IDENTICAL, NEAR_TIE, UNSTEADY, VIOLATION

COMMAND = "PYTHONPATH=.:tests python -m families.proof --out results/families.md"
OPTIONAL = ("torchvision", "num2words", "timm")
"""Packages that some processors and image encoders need."""


def environment() -> dict[str, str]:
    """What a proof was made with: versions of packages, and the commit ("+": with changes)."""
    found = {"torch": str(torch.__version__), "transformers": transformers.__version__}
    found["tokenizers"] = tokenizers.__version__
    for package in OPTIONAL:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["commit"] = _git("rev-parse", "--short", "HEAD") + ("+" if _changed() else "")
    return found


def _changed() -> bool:
    """Whether the code differs from the commit. Results do not count: a first run's page must not mark the second."""
    return any(not path.startswith("results/") for path in _git("diff", "--name-only", "HEAD").splitlines())


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive has no commits
        return "unknown"


def keep(page: Path, proofs: list[Proof], made_with: dict[str, str], trained: Half | None = None) -> None:
    """Add proofs to the file beside `page`, in the place of older ones of the same families, and write the page.

    trained: the embedded model in bfloat16. A proof of the model alone does not take the place of one that went through
    the family's own processor.
    """
    path = page.with_suffix(".json")
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for proof in proofs:
        if proof.source == "folder" or known.get(proof.name, {}).get("source") != "folder":
            known[proof.name] = {**asdict(proof), "made_with": made_with}
    if trained is not None:
        known["tiny"] = {"half": asdict(trained), "made_with": made_with}
    known = {name: known[name] for name in (*FAMILIES, "tiny") if name in known}
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(render(known), encoding="utf-8")


def render(known: dict[str, Any]) -> str:
    """The page. known: of each family, the fields of its Proof and what it was made with."""
    made: list[dict[str, str]] = []
    for row in known.values():
        if row["made_with"] not in made:
            made.append(row["made_with"])
    lines = [
        "# What was proven of each family", "",
        f"Written by `{COMMAND}`; not by hand. Float32, CPU.", "",
        *(f"* {_letter(i)}: {', '.join(f'{name} {version}' for name, version in packages.items())}"
          for i, packages in enumerate(made)), "",
        "Small random-weight instances of each family's own configuration. Source `folder`: weights and the family's "
        "own processor saved, loaded by `load_target(FOLDER)` and asked the first sample of `coco-caption`; `tensors`: "
        "the model alone, because its processor needs a package that was not installed.", "",
        f"Identical: outputs of {COUNT} tokens equal to plain `generate`'s, over all configurations: standard; every "
        f"exit layer at γ {', '.join(map(str, GAMMAS))} with drafts that are right about 7 times in 10; the raw exit; "
        "EOS at three places; each untrained head at each exit where the self-check takes it (listed). Accepted and "
        "rejected count draft tokens. Several images in one prompt, where template and processor take them: two, and "
        "three with words between; every exit at every γ, and the raw exit. Largest difference: verification against "
        "full passes, relative to the largest logit.", "",
        "| family | source | made with | caches | prompt | distinct tokens | identical | accepted | rejected "
        "| 2 images | 3 images | heads at exits | largest difference |", "|" + "---|" * 13,
    ]  # fmt: skip
    for name, row in known.items():
        if name == "tiny":
            continue
        same = row["configurations"] - len(row["differing"])
        lines.append(
            f"| {name} | {row['source']} | {_letter(made.index(row['made_with']))} | {row['caches'] or '-'} "
            f"| {row['prompting']} | {row['distinct']} of {row['tokens']} | {same} of {row['configurations']} "
            f"| {row['accepted']} | {row['rejected']} | {row['images'].get('2', '-')} "
            f"| {row['images'].get('3', '-')} | {'; '.join(row['heads'])} "
            f"| {row['worst']:.0e} |"
        )
        if row["differing"]:
            lines.append(f"| | differs: {', '.join(row['differing'])} |" + " |" * 11)
    return "\n".join([*lines, "", *_half(known, made)]) + "\n"


def _half(known: dict[str, Any], made: list[dict[str, str]]) -> list[str]:
    """The second table: bfloat16."""
    rows = {name: row["half"] for name, row in known.items() if row["half"]}
    tiny = rows.pop("tiny", asdict(Half({}, {})))
    label = f"tiny, trained ({_letter(made.index(known['tiny']['made_with']))})" if "tiny" in known else "tiny"
    lines = [
        "## In bfloat16, beside standard decoding's own noise", "",
        "The same instances in bfloat16, two samples (one where the source is `tensors`), outputs of at most "
        f"{COUNT} tokens. An output is judged against standard decoding's as in a run (docs/measuring.md): identical, "
        "near-tie or violation. Self-speculation: every exit that the self-check takes in bfloat16, at γ "
        f"{', '.join(map(str, GAMMAS))}, with drafts that are right about 7 times in 10. Control: drafts of the whole "
        "target at the same γ, where rounding alone can make a difference: what any method that verifies in blocks is "
        "to be expected to show here. Turned: autoregressive decoding against itself, the same answer read one token "
        "at a time and as one block, and how often the likeliest token is another one. Block, exit: the largest "
        "differences of logits, of that block and of verification in the self-check, relative to the largest logit.",
        "",
        f"Random weights exaggerate: logits of a small vocabulary lie close together. {_close(rows.values())} have a "
        "second token within two units in the last place of the first, where a token may turn; once one has, the rest "
        f"of the output is another text. Of the trained embedded model's, in the last row, it is {_close([tiny])} "
        "(two captions and two descriptions, exits 1, 2, 4, 8 and 16). What carries over to other models is the "
        "comparison of the columns. A violation in the control's would have no draft to blame; a near-tie may be an "
        "expert's choice that fell otherwise in a block, which the target's own reading in blocks shows.", "",
        "| family | self-speculation: identical, near-tie, violation | control: identical, near-tie, violation "
        "| close positions | turned | block | exit |", "|" + "---|" * 7,
    ]  # fmt: skip
    for name, row in {**rows, label: tiny}.items():
        refused = f" ({row['refused']} exits refused)" if row["refused"] else ""
        lines.append(
            f"| {name} | {_counts(row['speculative'])}{refused} | {_counts(row['control'])} "
            f"| {row['close']} of {row['positions']} | {row['turned']} of {row['positions']} "
            f"| {row['block_difference']:.0e} | {row['exit_difference']:.0e} |"
        )
    return lines


def _close(rows: Iterable[dict[str, Any]]) -> str:
    """In words, at how many of all positions rounding may choose another token."""
    counts = [(row["close"], row["positions"]) for row in rows]
    return f"{sum(close for close, _ in counts)} of {sum(positions for _, positions in counts)} positions"


def _counts(outcomes: dict[str, int]) -> str:
    unsteady = f" ({outcomes[UNSTEADY]} unsteady)" if outcomes.get(UNSTEADY) else ""
    return ", ".join(str(outcomes.get(word, 0)) for word in (IDENTICAL, NEAR_TIE, VIOLATION)) + unsteady


def _letter(index: int) -> str:
    return chr(ord("a") + index)
