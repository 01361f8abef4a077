"""The parts of each method's memory peak as a stacked bar: `report --memory-picture FILE.png` (needs matplotlib)."""

from pathlib import Path

from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.breakdown import PARTS, memory_parts
from fastvlm_bench.report.layout import break_label
from fastvlm_bench.report.numbers import MIB

NAMES = dict(zip(PARTS, ("weights", "draft head", "KV cache", "activations", "all else"), strict=True))
COLOURS = {"weights": "#4C72B0", "head": "#DD8452", "cache": "#55A868", "activation": "#C44E52"}
"""The parts that are drawn. All else is Python and its libraries, which would dwarf a small model."""


def draw_memory(run: Run, path: Path) -> None:
    """Write a picture with one panel per suite.

    UsageError without matplotlib, for a file that is not .png, .svg or .pdf or cannot be written, and for a record
    without the parts of memory.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--memory-picture {path}: the name must end in .png, .svg or .pdf")
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise UsageError("--memory-picture needs matplotlib: pip install 'fastvlm-bench[plots]'") from None
    suites = [suite["name"] for suite in run.meta["suites"] if memory_parts(run, suite["name"])]
    if not suites:
        raise UsageError(f"{run.folder} does not say what its memory was made of; run it again with this version")
    figure, panels = plt.subplots(1, len(suites), figsize=(1.5 + 4.2 * len(suites), 4), squeeze=False, sharey=True)
    for panel, suite in zip(panels[0], suites, strict=True):
        parts = memory_parts(run, suite)
        labels, bottoms = [break_label(method, 18) for method in parts], [0.0] * len(parts)
        for name, colour in COLOURS.items():
            values = [(part[f"{name}_bytes"] or 0) / MIB for part in parts.values()]
            if any(values):
                panel.bar(labels, values, 0.6, bottoms, color=colour, label=NAMES[name])
            bottoms = [bottom + value for bottom, value in zip(bottoms, values, strict=True)]
        for place, top in enumerate(bottoms):
            panel.text(place, top, f"{top:.1f}", ha="center", va="bottom", fontsize=8)
        panel.set_title(f"{suite} ({run.meta['model']['id']}, {run.meta['model']['dtype']})", fontsize=10)
        panel.tick_params(axis="x", labelsize=8)
        panel.margins(y=0.12)
        kind = "tensors on the device" if next(iter(parts.values()))["kind"] == "allocated" else "resident memory"
        panel.set_ylabel(f"peak of one generation, MiB ({kind})", fontsize=9)
        rest = max((part["rest_bytes"] or 0) / MIB for part in parts.values())
        panel.set_xlabel(f"not drawn: {rest:.1f} MiB of {NAMES['rest']}", fontsize=9)
    panels[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    try:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    except OSError as error:
        raise UsageError(f"--memory-picture {path}: {error.strerror}; choose another file") from None
    finally:
        plt.close(figure)
