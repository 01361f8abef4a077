"""Devices that a user describes: whatever is in a file or an option, it is a device or one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.predicting.devices import DEVICES, LEAST, MOST, UNCHECKED, find_device

ROOT = Path(__file__).parents[2]
GOOD = {"device": "mine", "threads": 1, "bandwidth_bytes_per_s": 1e10, "flops_per_s": {"float32": 1e11},
        "memory_bytes": 10**10, "tries": 5}  # fmt: skip
NO_NUMBERS: list[Any] = [float("nan"), float("inf"), -1.0, 0, 10**400, "1e10", True, [1e10], {}]


def written(folder: Path, **changes: Any) -> str:
    (folder / "machine.json").write_text(json.dumps({"roofline": {**GOOD, **changes}}))
    return f"measured:{folder / 'machine.json'}"


def test_a_good_file(tmp_path: Path) -> None:
    for memory in (10**10, None):
        found = find_device(written(tmp_path, memory_bytes=memory))
        assert (found.name, found.bandwidth, found.memory_bytes) == ("mine", 1e10, memory)
        assert found.flops == GOOD["flops_per_s"]


@pytest.mark.parametrize("value", [*NO_NUMBERS, None], ids=lambda value: repr(value)[:12])
def test_what_is_no_number(refused: Callable[..., str], tmp_path: Path, value: object) -> None:
    keys = ["bandwidth_bytes_per_s", "flops_per_s", *(["memory_bytes"] if value is not None else [])]
    for key in keys:
        device = written(tmp_path, **{key: {"float32": value, "float16": 1e12} if key == "flops_per_s" else value})
        line = refused("predict", "--device", device)
        assert "machine.json" in line and key in line and "doctor --roofline --json" in line


@pytest.mark.parametrize(
    "changes",
    [{"device": 3}, {"device": None}, {"flops_per_s": [1e12]}, {"flops_per_s": "float32"}, {"flops_per_s": None},
     {"flops_per_s": {}}, {"flops_per_s": {"int8": 1e12}}],
    ids=str,
)  # fmt: skip
def test_what_has_another_shape(refused: Callable[..., str], tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "no measurement of a machine" in refused("predict", "--device", written(tmp_path, **changes))


@pytest.mark.parametrize(
    "text", ["", "3", "[]", "null", '{"roofline": 3}', '{"roofline": []}', "[" * 100000, '{"roofline": {}}', "\udcff"],
    ids=lambda text: ascii(text)[:20],
)  # fmt: skip
def test_what_is_another_file(refused: Callable[..., str], tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "no measurement of a machine" in refused("predict", "--device", f"measured:{tmp_path / 'machine.json'}")


@pytest.mark.parametrize("name", ["measured:", "measured:~nobody-of-this-name/x", "measured:a\0b", ""])
def test_names_that_name_nothing(refused: Callable[..., str], name: str) -> None:
    assert "roofline" in refused("predict", "--device", name) or not name
    assert refused("predict", "--device", name, "--bandwidth", "1", "--tflops", "1")


@pytest.mark.parametrize("option", ["--bandwidth", "--tflops", "--memory"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e-300", "1e300", str(MOST), str(LEAST)])
def test_bounds_are_named(refused: Callable[..., str], option: str, value: str) -> None:
    line = refused("predict", option, value)
    assert f"{option} is" in line and "above 0.000001 and below 1e+09" in line


@pytest.mark.parametrize(
    "option", ["--exit-layer", "--alpha", "--gamma", "--batch-size", "--context", "--head", "--dtype", "--quantize"]
)
def test_an_empty_option_is_refused(refused: Callable[..., str], option: str) -> None:
    assert option.removeprefix("--") in refused("predict", option, "")
    if option not in ("--head", "--dtype", "--quantize"):
        assert option in refused("predict", option, "9" * 5000)


def test_the_page_of_docs_says_which_rows_were_not_checked() -> None:
    page = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    unchecked = [device for device in DEVICES.values() if device.source.endswith(UNCHECKED)]
    assert unchecked and len(unchecked) < len(DEVICES)
    assert UNCHECKED.removeprefix("; ") in page.partition("| name |")[0]
