"""How each figure is drawn from its data (`figure_data`) on matplotlib's axes: nothing is computed here but places."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fastvlm_bench.analysis.speedup import DECODE, E2E
from fastvlm_bench.report.figure_data import Data
from fastvlm_bench.report.layout import break_label
from fastvlm_bench.report.numbers import MIB
from fastvlm_bench.report.picture_style import GRID, INK, colour, marker

Places = Mapping[str, int]
"""Series -> its place among the colours and markers."""
PHASE_COLOURS = {"vision": "#56b4e9", "prefill": "#0072b2", "draft": "#e69f00", "verify": "#009e73", "other": "#999999"}
PART_COLOURS = {"weights": "#0072b2", "head": "#e69f00", "cache": "#009e73", "activation": "#cc79a7"}
"""The parts that are drawn. All else is Python and its libraries, which would dwarf a small model."""
PART_NAMES = {"weights": "weights", "head": "draft head", "cache": "KV cache", "activation": "activations"}
MANY_POINTS = 2000
"""From here on points become one image inside the figure: as shapes they would take megabytes."""
MOST_GROUPED = 4
"""Most methods whose bars stand side by side; more become lines."""
POINTS = "points-"
"""Begins the id of a method's points in an SVG, followed by its place, so that a page knows which sample each is."""
LABEL_WIDTH = 20
SPEEDUPS = {DECODE: "decode speed-up", E2E: "end-to-end speed-up"}
MEMORY_KINDS = {"allocated": "tensors on the device", "rss": "resident memory", "parts": "weights, cache, activations"}


def by_series(data: Data) -> dict[str, Data]:
    """The rows of each series, in order of appearance."""
    found: dict[str, Data] = {}
    for row in data:
        found.setdefault(row["series"], []).append(row)
    return found


def _key(data: Sequence[Mapping[str, Any]]) -> str:
    """The column of the speed-up by which a figure compares."""
    return f"{data[0]['speedup_of']}_speedup"


def _speedup(data: Data) -> str:
    return SPEEDUPS[data[0]["speedup_of"]]


def _units(data: Data) -> str:
    """What the points are: "sample", "batch", or of several runs "sample or batch"."""
    return " or ".join(sorted({row["observation"] for row in data}, reverse=True))


def name_of(row: Mapping[str, Any]) -> str:
    """The name of a row's series in a picture: with "lossy", and with the number of samples where some failed."""
    own, planned = row["samples"], row["samples_planned"]
    told = [] if row["lossless"] else ["lossy"]
    told += [] if own == planned else [f"n = {own}/{planned}"]
    return str(row["series"]) + (f" ({', '.join(told)})" if told else "")


def _names(grouped: Mapping[str, Data]) -> list[str]:
    return [name_of(rows[0]) for rows in grouped.values()]


def _one(axis: Any, vertical: bool = False) -> None:
    """The line of "as fast as the reference"."""
    (axis.axvline if vertical else axis.axhline)(1, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)


def speedup_by_length(axis: Any, data: Data, places: Places) -> None:
    drawn, key = len(data), _key(data)
    for name, rows in by_series(data).items():
        own = [row for row in rows if row[key] is not None]
        place = places[name]
        axis.scatter([row["tokens"] for row in own], [row[key] for row in own], s=14, marker=marker(place),
                     c=colour(place), linewidths=0, label=name_of(rows[0]), gid=f"{POINTS}{place}", alpha=0.6,
                     rasterized=drawn > MANY_POINTS)  # fmt: skip
    _one(axis)
    units = _units(data)
    axis.set(xlabel=f"new tokens of {'the answer' if units == 'sample' else f'a {units}'}",
             ylabel=f"{_speedup(data)} of a {units}, ×")  # fmt: skip


def speedup_distribution(axis: Any, data: Data, places: Places) -> None:
    grouped = by_series(data)
    key = _key(data)
    for place, (name, rows) in enumerate(grouped.items()):
        values = [row[key] for row in rows if row[key] is not None]
        ink = colour(places[name])
        line = {f"{part}props": {"color": ink, "linewidth": 0.8} for part in ("box", "whisker", "cap", "median")}
        axis.boxplot([values], positions=[place], widths=0.5, orientation="horizontal", whis=(5, 95), showfliers=False,
                     **line)  # fmt: skip
        offsets = [place + 0.3 * ((index * 0.618034) % 1 - 0.5) for index in range(len(values))]  # spread, not random
        axis.scatter(values, offsets, s=4, c=ink, alpha=0.3, linewidths=0, rasterized=len(data) > MANY_POINTS)
        value, low, high = (rows[0][f"{key}_geomean{end}"] for end in ("", "_low", "_high"))
        if value is not None:
            reach = None if low is None else [[value - low], [high - value]]
            axis.errorbar([value], [place], xerr=reach, fmt="D", color=ink, markersize=5, capsize=3, elinewidth=2,
                          markeredgecolor="white", markeredgewidth=0.6, zorder=5)  # fmt: skip
    _one(axis, vertical=True)
    _categories(axis, _names(grouped))
    axis.set(xlabel=f"{_speedup(data)} of a {_units(data)}, ×")


def acceptance_by_position(axis: Any, data: Data, places: Places) -> None:
    for name, rows in by_series(data).items():
        place = places[name]
        axis.plot([row["position"] for row in rows], [row["accepted_share"] * 100 for row in rows], color=colour(place),
                  marker=marker(place), label=name_of(rows[0]))  # fmt: skip
    _whole_numbers(axis)
    axis.set(xlabel="place in the draft", ylabel="accepted of tested, %", ylim=(0, 103))


def accepted_per_round(axis: Any, data: Data, places: Places) -> None:
    grouped = by_series(data)
    for index, (name, rows) in enumerate(grouped.items()):
        place, width = places[name], 0.8 / len(grouped)
        x, y = [row["accepted"] for row in rows], [row["rounds_share"] * 100 for row in rows]
        if len(grouped) <= MOST_GROUPED:
            shifted = [value + (index - (len(grouped) - 1) / 2) * width for value in x]
            axis.bar(shifted, y, width * 0.92, color=colour(place), label=name_of(rows[0]))
        else:
            axis.plot(x, y, color=colour(place), marker=marker(place), label=name_of(rows[0]))
    _whole_numbers(axis)
    axis.set(xlabel="drafted tokens accepted in a round", ylabel="rounds, %")
    axis.set_ylim(bottom=0)


def speedup_quality(axis: Any, data: Data, places: Places) -> None:
    own = [row for row in data if row["quality_delta"] is not None and row[_key(data)] is not None]
    reach = 0.5
    for row in own:
        low, high = row["quality_delta_low"], row["quality_delta_high"]
        _with_bars(axis, row, row["quality_delta"], low, high, places)
        reach = max(reach, *(1.15 * abs(value) for value in (row["quality_delta"], low, high) if value is not None))
    axis.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    _one(axis)
    axis.set(xlim=(-reach, reach), xlabel=f"Δ {data[0]['metric_title']}", ylabel=f"{_speedup(data)}, ×")


def speedup_memory(axis: Any, data: Data, places: Places) -> None:
    key = _key(data)
    own = [row for row in data if row["peak_delta_bytes"] is not None and row[key] is not None]
    for row in own:
        _with_bars(axis, row, row["peak_delta_bytes"] / MIB, None, None, places)
    front: list[tuple[float, float]] = []
    for more, speed in sorted((row["peak_delta_bytes"] / MIB, -row[key]) for row in own):
        if not front or -speed > front[-1][1]:
            front.append((more, -speed))
    axis.step([x for x, _ in front], [y for _, y in front], where="post", color=GRID, linewidth=1.2, zorder=1)
    _one(axis)
    axis.set(xlabel=f"Δ peak, MiB ({MEMORY_KINDS[data[0]['memory_kind']]})", ylabel=f"{_speedup(data)}, ×")
    axis.margins(x=0.1)


def _with_bars(
    axis: Any, row: Mapping[str, Any], x: float, low: float | None, high: float | None, places: Places
) -> None:
    """One method as a point, with the intervals that it has."""
    key = _key([row])
    place, y = places[row["series"]], row[key]
    ends = row[f"{key}_low"], row[f"{key}_high"]
    axis.errorbar(
        [x], [y], xerr=None if low is None or high is None else [[max(x - low, 0)], [max(high - x, 0)]],
        yerr=None if None in ends else [[y - ends[0]], [ends[1] - y]], fmt=marker(place), color=colour(place),
        markersize=5.5, capsize=2, elinewidth=0.8, label=name_of(row), zorder=3,
    )  # fmt: skip


def phases(axis: Any, data: Data, places: Places) -> None:
    _stacked(axis, data, "phase", "mean_s", 1000.0, PHASE_COLOURS, {})
    axis.set(xlabel="mean milliseconds of a request")


def memory_peak(axis: Any, data: Data, places: Places) -> None:
    _stacked(axis, data, "part", "part_bytes", 1 / MIB, PART_COLOURS, PART_NAMES)
    rest = max((row["part_bytes"] or 0) / MIB for row in data if row["part"] == "rest")
    kind = "tensors" if data[0]["memory_kind"] == "allocated" else "RSS"
    axis.set(xlabel=f"peak of one generation, MiB ({kind})\nwithout {rest:.0f} MiB of all else")


def energy(axis: Any, data: Data, places: Places) -> None:
    for place, row in enumerate(data):
        axis.barh([place], [row["joules_per_token"]], 0.6, color=colour(places[row["series"]]))
        axis.text(row["joules_per_token"], place, f" {row['joules_per_token']:.3g}", va="center", fontsize=7)
    _categories(axis, _names(by_series(data)))
    axis.margins(x=0.12)
    axis.set(xlabel="joules per token")


def _stacked(
    axis: Any, data: Data, key: str, value: str, scale: float, colours: Mapping[str, str], names: Mapping[str, str]
) -> None:
    """A horizontal bar for each series, in parts; the sum stands at its end."""
    grouped = by_series(data)
    ends = [0.0] * len(grouped)
    for part, shade in colours.items():
        sizes = [sum((row[value] or 0.0) * scale for row in rows if row[key] == part) for rows in grouped.values()]
        if any(sizes):
            axis.barh(range(len(grouped)), sizes, 0.62, ends, color=shade, label=names.get(part, part))
        ends = [end + size for end, size in zip(ends, sizes, strict=True)]
    for place, end in enumerate(ends):
        axis.text(end, place, f" {end:.3g}" if end < 100 else f" {end:.0f}", va="center", fontsize=7)
    _categories(axis, _names(grouped))
    axis.margins(x=0.12)


def _categories(axis: Any, names: Sequence[str]) -> None:
    """Names on the y axis, the first on top."""
    axis.set_yticks(range(len(names)), [_broken(name) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def _broken(name: str) -> str:
    if " " in name:
        return "\n".join(textwrap.wrap(name, LABEL_WIDTH))
    return break_label(name, LABEL_WIDTH).replace("\n  ", "\n")


def label_lines(data: Data) -> int:
    """The lines of all names on the axis of such a figure, each taking at least two and as many as the longest."""
    names = _names(by_series(data))
    return len(names) * max([2, *(_broken(name).count("\n") + 1 for name in names)])


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def heat_map(axis: Any, data: Data, places: Places) -> None:
    """γ across, exits and heads down. The colours have one scale over all panels, `scale` of each row."""
    gammas = sorted({row["gamma"] for row in data})
    names = list(dict.fromkeys(row["place"] for row in data))
    values = [[float("nan")] * len(gammas) for _ in names]
    low, high = data[0]["scale_low"], data[0]["scale_high"]
    size = min(7.0, 42 / len(gammas))
    for row in data:
        if row["shown"] is None:
            continue
        x, y = gammas.index(row["gamma"]), names.index(row["place"])
        values[y][x] = row["shown"]
        dark = row["shown"] < (low + high) / 2
        axis.text(x, y, f"{row['shown']:.2f}{row['mark']}", ha="center", va="center", fontsize=size,
                  color="white" if dark else INK, fontweight="bold" if row["mark"] == "*" else "normal")  # fmt: skip
    axis.pcolormesh(range(len(gammas)), range(len(names)), values, cmap="cividis", vmin=low, vmax=high,
                    shading="nearest", edgecolors="white", linewidth=0.6)  # fmt: skip
    axis.set_xticks(range(len(gammas)), [str(gamma) for gamma in gammas])
    _categories(axis, names)
    axis.set(ylim=(len(names) - 0.5, -0.5), xlabel="γ, most tokens drafted per round", title=data[0]["panel"])
    axis.grid(visible=False)
