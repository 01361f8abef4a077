"""`report --memory-picture` of many methods: no label over another, and nothing outside the picture."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering

from fastvlm_bench.report import memory_picture
from fastvlm_bench.report.memory_picture import draw_memory

pytest.importorskip("matplotlib")
MIB = 2**20


def part(suite: str, label: str, head: int) -> dict[str, Any]:
    return {"suite": suite, "sample_id": "005", "method": label, "kind": "rss", "how": "kernel",
            "weights_bytes": 35 * MIB, "head_bytes": head, "cache_bytes": MIB, "activation_bytes": 3 * MIB,
            "rest_bytes": 400 * MIB, "peak_bytes": 439 * MIB + head, "reserved_bytes": None,
            "device_used_bytes": None}  # fmt: skip


SUITES = (("coco-caption",), ("coco-caption", "vqa-v2"))


@pytest.mark.parametrize(("count", "suites"), covering(product((1, 12), SUITES), [(12, SUITES[1])]))
def test_labels_and_legend_have_their_own_place(
    fake: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suites: tuple[str, ...], count: int
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    labels = ["standard", *(f"fastvlm:head=attention,exit_layer={n},gamma=4,stop_below=0.25" for n in range(1, count))]
    parts = [part(s, label, i * MIB) for s in suites for i, label in enumerate(labels)]
    run = fake.run(suites=[fake.suite(name, n=6) for name in suites], methods=[fake.method(label) for label in labels],
                   meta={"memory": parts})  # fmt: skip
    figures: list[Any] = []
    monkeypatch.setattr(memory_picture, "save_picture", lambda figure, *_: figures.append(figure))
    draw_memory(run, tmp_path / "memory.png")
    (figure,) = figures
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (legend,) = figure.legends
    inside = figure.bbox.padded(1)
    for text in legend.get_texts():
        box = text.get_window_extent()
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1, text.get_text()
    for axis in figure.axes:
        names = [label.get_window_extent() for label in axis.get_yticklabels()]
        assert len(names) == count and all(inside.x0 <= box.x0 for box in names)
        names.sort(key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 1 for low, high in zip(names, names[1:], strict=False))
