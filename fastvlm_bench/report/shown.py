"""What `show` prints of a run: which samples and methods, and the same as a picture."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_bench.analysis.arms import whole_id
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.records.record import Run
from fastvlm_bench.records.storage import check_target_file, write_output
from fastvlm_bench.report.answers import print_answer, print_legend, shown_kinds
from fastvlm_bench.report.layout import say
from fastvlm_bench.report.one_screen import short_labels

if TYPE_CHECKING:
    from rich.console import Console

ALL = "all"
WIDTH = 100
"""Columns of a picture."""
FEW = 6
"""How many names an error message lists."""


def print_shown(
    run: Run, *, suite: str | None = None, samples: Sequence[str] = (), methods: Sequence[str] = (),
    console: "Console | None" = None, hint: bool = True,
) -> None:  # fmt: skip
    """Print answers of a run to a rich console (default: standard output).

    suite: of the samples; the first one by default. samples: ids, of which one of several turns stands for all of them;
    the first one that was measured by default. methods:
    labels, as they are or as the screen shortens them, or "all"; the first that drafts by default. hint: say at
    the end what else there is. UsageError for a name that the run does not have, and for a run without lines.
    """
    from rich.console import Console

    console = Console() if console is None else console
    lines = chosen(run, suite, samples, methods)
    print_legend(console, shown_kinds(lines))
    ends = (run.meta.get("generation") or {}).get("in_force", {}).get("eos_token_id")
    seen: set[tuple[str, str]] = set()
    for line in lines:
        console.print()
        if (key := (line["suite"], line["sample_id"])) not in seen:
            seen.add(key)
            entry = next(each for each in run.meta["suites"] if each["name"] == key[0])
            _print_sample(console, next(each for each in entry["samples"] if each["sample_id"] == key[1]))
        print_answer(console, line, _reference(run, line), [ends] if isinstance(ends, int) else ends or ())
    rest = [label for label in (method["label"] for method in run.meta["methods"])
            if label not in {line["method"] for line in lines}]  # fmt: skip
    if hint and rest and not methods:
        console.print()
        say(console, f"also measured: {', '.join(rest)}; --method NAME or --method all, --sample ID", "dim")


def _print_sample(console: "Console", sample: Mapping[str, Any]) -> None:
    prompt = sample.get("question") or sample.get("prompt")
    if prompt:
        which = f"turn {sample['turn']}" if "turn" in sample else "prompt"
        say(console, f"{which}: {' '.join(str(prompt).split())}", "dim")


def _reference(run: Run, line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The reference's line of the same sample and repeat, if that did not fail."""
    keys = ("suite", "sample_id", "repeat")
    return next((other for other in run.lines if other["method"] == run.meta["reference"] and other["error"] is None
                 and all(other[key] == line[key] for key in keys)), None)  # fmt: skip


# ------------------------------------------------------------------------------------------ what is shown


def chosen(
    run: Run, suite: str | None, samples: Sequence[str], methods: Sequence[str]
) -> list[Mapping[str, Any]]:  # fmt: skip
    """The lines to show, sample by sample, methods in the order of the run; of several repeats the first."""
    if not run.lines:
        raise UsageError(f"{run.folder} has no lines: nothing was measured; go on with run --resume {run.folder}")
    names = list(dict.fromkeys(line["suite"] for line in run.lines))
    suite = known(suite, names, "suite") if suite else None
    lines = [line for line in run.lines if suite is None or line["suite"] == suite]
    ids = list(dict.fromkeys(line["sample_id"] for line in lines))
    if not samples:
        lines = [line for line in lines if line["suite"] == lines[0]["suite"]]
    turns: dict[str, list[str]] = {}
    for line in lines:
        turns.setdefault(whole_id(line), []).append(line["sample_id"])
    named = [known(sample, ids, "sample") for sample in samples] or ids[:1]
    wanted = list(dict.fromkeys(one for name in named for one in turns.get(name, [name])))
    found: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for line in sorted(lines, key=lambda line: (bool(line["error"]), line["repeat"])):
        found.setdefault((line["suite"], line["sample_id"], line["method"]), line)
    labels = _labels(run, methods, [line for line in found.values() if line["sample_id"] in wanted])
    picked = [found[name, sample, label] for sample in wanted for name in names for label in labels
              if (name, sample, label) in found]  # fmt: skip
    if not picked:
        raise UsageError(f"sample {', '.join(wanted)} was not measured with {', '.join(labels)}; go on with run "
                         f"--resume {run.folder}")  # fmt: skip
    return picked


def _labels(run: Run, methods: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels of methods. Without names: the first method that drafts, else all."""
    labels = [method["label"] for method in run.meta["methods"]]
    if ALL in methods:
        return labels
    short = dict(zip(short_labels(labels), labels, strict=True))
    if methods:
        return [short.get(name) or known(name, labels, "method") for name in methods]
    drafting = {line["method"] for line in lines if any(round_[0] for round_ in line["rounds"])}
    return [label for label in labels if label in drafting][:1] or labels


def known(name: str, names: Sequence[str], kind: str) -> str:
    """The name; UsageError, with what there is, if the run has no such suite, sample or method."""
    if name in names:
        return name
    more = f" … {names[-1]}" if len(names) > FEW else ""
    raise UsageError(f"the run has no {kind} '{name}'{did_you_mean(name, names)}; it has {len(names)}: "
                     f"{', '.join(names[:FEW])}{more}")  # fmt: skip


# ------------------------------------------------------------------------------------------ as a picture


def save_picture(run: Run, path: Path, **shown: Any) -> None:
    """Write what `print_shown` prints, in colour, as an SVG. UsageError for another suffix or a path that cannot be."""
    from rich.console import Console

    if path.suffix != ".svg":
        raise UsageError(f"--svg {path} must end in .svg")
    check_target_file(path, "--svg")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor",
                      _environ={})  # fmt: skip
    print_shown(run, console=console, hint=False, **shown)
    svg = console.export_svg(title="fastvlm-bench show", unique_id="show")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)  # else it fetches its font from the network
    write_output(path, svg.encode("utf-8"))
