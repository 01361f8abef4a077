"""What a data set or a model says is printed; it never gives orders to the terminal, to LaTeX or to a spreadsheet."""

import csv
import io
import unicodedata
from itertools import product
from types import SimpleNamespace

import pytest
from covering import covering
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.records.run_folders import new_folder_name
from fastvlm_bench.report.csv_text import to_csv
from fastvlm_bench.visible import note, visible

pytestmark = pytest.mark.usefixtures("quick_bounds")

ORDERS = {
    "colour": "\x1b[31mred", "title": "\x1b]0;mine\x07", "clipboard": "\x1b]52;c;aGk=\x07", "C1": "\x9b2J",
    "backspace": "ab\x08\x08cd", "right to left": "\u202etxt.exe", "isolate": "\u2067x", "return": "a\rb",
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_no_control_character_is_left(order: str) -> None:
    shown = visible(ORDERS[order] + "\n\tété γ 日本")
    assert shown.endswith("\n\tété γ 日本")
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]
    assert visible(shown) == shown


SHOWN = [("report",), ("report", "--details"), ("show",), ("export", "-f", "latex"), ("export", "-f", "markdown")]


@pytest.mark.parametrize(("arguments", "order"), covering(
    product(SHOWN, ORDERS), [*product(SHOWN[2:3], ORDERS), *product(SHOWN, list(ORDERS)[:1])]
))  # fmt: skip
def test_reports_of_a_hostile_record(fake: SimpleNamespace, arguments: tuple[str, ...], order: str) -> None:
    def change(line: dict[str, object]) -> dict[str, object]:
        return line | {"text": f"{ORDERS[order]} [red]x[/p3] {line['text']}"}

    run = fake.write(suites=[fake.suite(n=4)], change=change, meta={
        "run_id": f"run{ORDERS[order]}", "model": {"id": f"scan[/p3]{ORDERS[order]}"}, "status": "interrupted",
    })  # fmt: skip
    result = CliRunner().invoke(app, [arguments[0], str(run.folder), *arguments[1:]], catch_exceptions=False)
    assert result.exit_code == 0 and "scan" in result.stdout or arguments[0] == "show"
    assert not [c for c in result.output if unicodedata.category(c) == "Cc" and c != "\n" or c in "\u202e\u2067"]


@pytest.mark.parametrize("order", ORDERS)
def test_a_folders_name_has_no_order(order: str) -> None:
    name = new_folder_name(f"/models/scan{ORDERS[order]}", "vqav2", "sweep")
    assert visible(name) == name and "-scan" in name and "-vqav2-sweep-" in name
    assert not set(name) & {"/", "\t", "\n"}


def test_errors_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(app, ["suites", "show", "\x1b]0;x\x07coco"])
    assert result.exit_code == 2 and "\\x1b]0;x\\x07coco" in result.stderr and "\x1b" not in result.stderr
    note("of \x1b[2Jall")
    assert capsys.readouterr().err == "fastvlm-bench: note: of \\x1b[2Jall\n"


@pytest.mark.parametrize(
    "text", ["=1+2", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20A"]
)
def test_a_text_is_no_formula_where_that_is_asked_for(text: str) -> None:
    rows, header = [[text, -1.5, "plain", None, [text, "b"], [-1, 2]]], ["a", "b", "c", "d", "e", "f"]
    (safe,) = list(csv.reader(io.StringIO(to_csv(header, rows, excel_safe=True), newline="")))[1:]
    (bare,) = list(csv.reader(io.StringIO(to_csv(header, rows), newline="")))[1:]
    assert bare == [text, "-1.5", "plain", "", f"{text};b", "-1;2"]
    assert safe == [f"'{text}", "-1.5", "plain", "", f"'{text};b", "-1;2"]


def test_excel_safe_is_for_csv(fake: SimpleNamespace) -> None:
    run = fake.write(suites=[fake.suite(n=4)], change=lambda line: line | {"text": f"=cmd {line['text']}"})
    safe, bare = (CliRunner().invoke(app, ["export", str(run.folder), "-f", "samples-csv", *more]).stdout
                  for more in (("--excel-safe",), ()))  # fmt: skip
    assert ",'=cmd" in safe and ",=cmd" not in safe and ",=cmd" in bare
    refused = CliRunner().invoke(app, ["export", str(run.folder), "-f", "json", "--excel-safe"])
    assert refused.exit_code == 2 and "--excel-safe is for csv and samples-csv" in refused.stderr
