"""Prints a prediction as one page of at most 100 columns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastvlm_bench.report.layout import NOTHING, Cells, draw, say
from fastvlm_bench.report.numbers import number

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100


def print_page(found: Mapping[str, Any], console: "Console | None" = None) -> None:
    """The page. found: of `predict`."""
    from rich.console import Console

    console = Console(width=WIDTH, soft_wrap=False) if console is None else console
    device, at = found["device"], found["acceptance"]
    packed = f", layers in {found['quantize']}" if found["quantize"] else ""
    draft = "the raw exit" if found["head"] == "none" else f"head {found['head']}"
    name = device["title"] or device["name"]
    say(console, f"{found['model']} ({found['parameters'] / 1e9:.2f} billion parameters, {found['layers']} layers) on "
                 f"{name}, {found['dtype']}{packed}", "bold")  # fmt: skip
    say(console, f"{device['bandwidth'] / 1e9:,.4g} GB/s, {device['flops'] / 1e12:.3g} TFLOP/s ({device['source']}). "
                 "Roofline: what passes take at the least. Nothing was run.")  # fmt: skip
    say(console, "")
    best = found["best"]
    say(console, f"Drafting by exit {found['exit_layer']}, {draft}, at {_alpha(at)}, batch {found['batch']}, "
                 f"context {found['context']}: {best['speedup']:.2f}× decode speed-up at γ {best['gamma']}.",
        "bold")  # fmt: skip
    say(console, "")
    _passes(console, found)
    say(console, "\nDecode speed-up by α and γ", "bold")
    _surface(console, found["surface"])
    say(console, f"\nWhich exit: the α that a draft needs for a speed-up, and what it gives at {_alpha(at)}", "bold")
    _exits(console, found["exits"])
    say(console, f"\nBatch sizes and contexts, exit {found['exit_layer']} at {_alpha(at)}", "bold")
    _loads(console, found["loads"])
    _memory(console, found)
    say(console, f"Left out: {found['left_out']}.")


def _alpha(at: Mapping[str, Any]) -> str:
    return "the draft's α by position" if at["by_place"] else f"α {at['alpha']:.3g}"


def _passes(console: "Console", found: Mapping[str, Any]) -> None:
    own = found["passes"]
    shown = {"standard: 1 token": own["standard"], "draft: 1 token": own["draft"]}
    for gamma, cost in own["verify"].items():
        if gamma in (found["best"]["gamma"], *list(own["verify"])[:: max(1, len(own["verify"]) - 1)]):
            shown[f"verify: γ {gamma}"] = cost
    standard = own["standard"]["seconds"]
    draw(console, Cells("pass", tuple(shown)), (
        Cells("GB moved", tuple(f"{cost['bytes'] / 1e9:.3g}" for cost in shown.values())),
        Cells("GFLOP", tuple(f"{cost['flops'] / 1e9:.3g}" for cost in shown.values())),
        Cells("ms", tuple(_ms(cost["seconds"]) for cost in shown.values())),
        Cells("of standard", tuple(f"{cost['seconds'] / standard:.2f}" for cost in shown.values())),
    ))  # fmt: skip


def _surface(console: "Console", surface: Mapping[Any, Mapping[Any, Any]]) -> None:
    gammas = [gamma for gamma in next(iter(surface.values())) if gamma != "best"]
    columns = [Cells(f"γ {gamma}", tuple(f"{row[gamma]:.2f}" for row in surface.values())) for gamma in gammas]
    best = tuple(f"{row['best']['speedup']:.2f}× at γ {row['best']['gamma']}" for row in surface.values())
    draw(console, Cells("α", tuple(f"{alpha:g}" for alpha in surface)), [*columns, Cells("best", best)])


def _exits(console: "Console", exits: Sequence[Mapping[str, Any]]) -> None:
    needs = [
        Cells(f"α for\n{wanted:g}×", tuple(number(row["least_alpha"][wanted]) for row in exits))
        for wanted in exits[0]["least_alpha"]
    ]
    draw(console, Cells("exit", tuple(str(row["exit_layer"]) for row in exits)), (
        Cells("draft\nms", tuple(_ms(row["draft_s"]) for row in exits)),
        Cells("of\nstandard", tuple(f"{row['draft_share']:.2f}" for row in exits)),
        *needs,
        Cells("speed-up", tuple(f"{row['best']['speedup']:.2f}× at γ {row['best']['gamma']}" for row in exits)),
        Cells("gain ends\nat batch", tuple(_batch(row) for row in exits)),
    ))  # fmt: skip


def _loads(console: "Console", loads: Sequence[Mapping[str, Any]]) -> None:
    draw(console, Cells("batch", tuple(str(row["batch"]) for row in loads)), (
        Cells("context", tuple(str(row["context"]) for row in loads)),
        *(Cells(f"{name}\nms", tuple(_ms(row[name]["seconds"]) for row in loads))
          for name in ("standard", "draft", "verify")),
        Cells("γ", tuple(str(row["best"]["gamma"]) for row in loads)),
        Cells("speed-up", tuple(f"{row['best']['speedup']:.2f}×" for row in loads)),
        Cells("tokens/s\nstandard", tuple(f"{row['batch'] / row['standard']['seconds']:,.0f}" for row in loads)),
        Cells("memory\nGB", tuple(f"{row['memory_bytes'] / 1e9:.1f}" + ("" if row["fits"] is not False else " full")
                                  for row in loads)),
    ))  # fmt: skip


def _memory(console: "Console", found: Mapping[str, Any]) -> None:
    held, room = found["memory"], found["device"]["memory_bytes"]
    fits = "" if held["batch"] is None else f": {held['batch']} such sequences fit in {room / 1e9:.0f} GB"
    if held["batch"] == 0:
        fits = f": not one fits in {room / 1e9:.0f} GB"
    say(console, f"\nMemory: weights {_size(held['weights'])}, draft {_size(held['draft'])}; KV of {found['context']} "
                 f"positions {_size(held['kv'])}, of the draft {_size(held['draft_kv'])}{fits}.")  # fmt: skip


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g}"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB" if count else NOTHING


def _batch(row: Mapping[str, Any]) -> str:
    """Where the gain ends; it may last until the memory is full."""
    ends = row["gain_ends_at_batch"]
    return f"lasts to {row['batches_looked_at']}" if ends is None else "no gain" if ends == 1 else str(ends)
