"""What the documentation claims is executed: commands exist, links lead somewhere, code runs, numbers are recorded."""

import ast
import io
import json
import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from fastvlm_bench.analysis.comparison import compare
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.cli.app import app
from fastvlm_bench.declared import declaration
from fastvlm_bench.method_spec import METHODS
from fastvlm_bench.metrics import METRICS
from fastvlm_bench.models.names import TINY, TINY_DRAFTS
from fastvlm_bench.models.smol_place import SIGHT
from fastvlm_bench.records.record import read_run
from fastvlm_bench.report.numbers import ratio
from fastvlm_bench.report.terminal import print_report

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "results" / "README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command_lines() -> list[tuple[str, str]]:
    """(page, command) for each use of the tool in a shell block or in backticks."""
    found = []
    for page in PAGES:
        text = re.sub(r"```(?:text|python)\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        text = text.replace("\\\n", " ")
        for match in re.finditer(r"(?<![\w/-])fastvlm-bench ([a-z-][^`\n]*)", text):
            for piece in match.group(1).split("#")[0].split(";"):
                found.append((page.name, piece.removeprefix(" fastvlm-bench ").strip()))
    return found


def test_there_are_commands_to_check() -> None:
    assert len(command_lines()) > 8


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_commands_and_options_exist(page: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = [w for w in shlex.split(line.split(" && ")[0]) if w]
    assert words[0] in command.commands or words[0].startswith("-"), f"{page}: {line}"
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {opt for p in command.params for opt in [*p.opts, *p.secondary_opts]} | {"-h", "--help"}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in known, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_first_two_blocks_are_one_command_each() -> None:
    blocks = re.findall(r"```(?:sh|bash|shell|console)\n(.*?)```", README, flags=re.S)[:2]
    assert blocks == ["make demo\n", "make test\n"]
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^demo:", targets, flags=re.M) and re.search(r"^test:", targets, flags=re.M)
    assert "not Apple's FastVLM" in README.splitlines()[0]


def test_tree_has_a_line_for_each_room() -> None:
    tree = re.search(r"## The tree\n.*?```text\n(.*?)```", README, flags=re.S)
    assert tree is not None
    rooms = {path.parent.name for path in (ROOT / "fastvlm_bench").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^  (\w+)/ +\S", tree.group(1), flags=re.M))


@pytest.mark.parametrize("room", sorted((ROOT / "fastvlm_bench").glob("*/__init__.py")), ids=lambda p: p.parent.name)
def test_each_room_names_its_files(room: Path) -> None:
    """The docstring of a room has a line for each file. One that declares a method or a metric says itself what it is.

    `metrics` needs no lines: a file is named after its metric.
    """
    if room.parent.name == "metrics":
        return
    text = ast.get_docstring(ast.parse(room.read_text(encoding="utf-8"))) or ""
    named = set(re.findall(r"^(\w+\.py) +\S", text, flags=re.M))
    files = {path.name: path for path in room.parent.glob("*.py") if path.name != "__init__.py"}
    declared = {name for name, path in files.items() if declaration(path, "METHOD") is not None}
    assert named <= set(files) and set(files) - declared <= named


def test_every_method_and_metric_is_described_and_those_of_the_page_exist() -> None:
    """The lists of `methods` and `metrics` come from the files; the page's own tables name nothing else."""
    for kind in (*METHODS.values(), *METRICS.values()):
        assert kind.description.strip() and len(kind.description) < 120
    for method in METHODS.values():
        assert all(option.help.strip() for option in method.options.values())
    page = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
    table = page.split("| metric | what it is |")[1].split("\n\n")[0]
    named = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert {"bleu4", "pope"} <= named <= set(METRICS)


def test_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(compile(code, "README.md", "exec"), {})
    assert "things to see" in capsys.readouterr().out


RESULTS = ROOT / "results"


def committed_runs() -> list[Path]:
    """The reference runs: those that are committed, not those that a reader has measured since."""
    listed = subprocess.run(["git", "ls-files", "results/*/run.json"], cwd=ROOT, capture_output=True, text=True)
    return sorted((ROOT / name).parent for name in listed.stdout.split() if name.count("/") == 2
                  and name != "results/demo/run.json")  # fmt: skip


def test_the_demo_block_is_what_report_prints_of_its_record() -> None:
    """Every line of README's example stands in the report of the committed record, in the same order."""
    shown = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert shown is not None
    stream = io.StringIO()
    print_report(read_run(RESULTS / "demo"), Console(width=90, file=stream, _environ={}))
    told = iter([line.rstrip() for line in stream.getvalue().splitlines()])
    lines = [line for line in shown.group(1).splitlines() if line and line != "[…]"]
    assert len(lines) > 10 and [line for line in lines if line not in told] == []


def test_the_picture_is_what_the_readmes_command_makes_of_its_record(tmp_path: Path) -> None:
    (words,) = re.findall(r"`fastvlm-bench (show [^`]*) --svg docs/show\.svg`", " ".join(README.split()))
    made = tmp_path / "show.svg"
    arguments = [str(ROOT / word) if word.startswith("docs/") else word for word in words.split()]
    CliRunner().invoke(app, [*arguments, "--svg", str(made)], catch_exceptions=False)
    assert made.read_bytes() == (ROOT / "docs" / "show.svg").read_bytes()


def committed_sweeps() -> list[Path]:
    """The runs over batch sizes: folders of runs."""
    listed = subprocess.run(["git", "ls-files", "results/*/*/run.json"], cwd=ROOT, capture_output=True, text=True)
    folders = {(ROOT / name).parents[1] for name in listed.stdout.split()}
    return sorted(folder for folder in folders if "-batches-" in folder.name)


def test_tables_over_batch_sizes_are_what_the_records_say() -> None:
    """Each committed sweep has its table in results/README.md, below the command that makes it."""
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    tables = dict(re.findall(r"`fastvlm-bench batches results/([^ /]*) --format markdown`:\n\n((?:\|.*\n)+)", page))
    assert sorted(tables) == [folder.name for folder in committed_sweeps()]
    for name, table in tables.items():
        arguments = ["batches", str(RESULTS / name), "--format", "markdown"]
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).stdout == table


def test_what_the_readme_says_of_the_embedded_target_is_what_was_measured() -> None:
    ways = json.loads((TINY / "depth.json").read_text())["ways"]
    out, learned = ways["every second layer left out"], ways["every second layer left out, then learned on"]
    lost = learned["descriptions"]
    alpha = json.loads((TINY / "easy_drafts.json").read_text())["describe"]["3-gram"]["alpha"]
    words = " ".join(README.split())
    for told in (
        f"it answers {100 * out['questions']['less']:.1f} % of the questions "
        f"for {100 * out['questions']['whole']:.1f} %",
        f"no long description is right for {100 * lost['whole']:.1f} %",
        f"get {100 * lost['less']:.1f} % of the descriptions "
        f"({100 * lost['low']:.1f} to {100 * lost['high']:.1f} points less, 95 %)",
        f"drafts with α {alpha:.2f} on `describe`",
    ):
        assert told in words
    assert out["descriptions"]["less"] == 0
    costs = json.loads((TINY_DRAFTS / "skip" / "skip.json").read_text())["search"]["costs"]
    assert f"a full pass took {1e3 * costs['standard_s']:.1f} ms, a layer {1e3 * costs['layer_s']:.2f}" in words


def test_what_the_card_of_smol_says_is_what_was_measured() -> None:
    folder = SIGHT.parent
    names = ("sight", "swapped", "exact_words")
    sight, swapped, exact = (json.loads((folder / f"{name}.json").read_text()) for name in names)
    card = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    rows = {
        "kinds of things that a free description names": lambda of: of["mentions"],
        "balance of two colours moves towards the picture's": lambda of: of["questions"]["colour"]["prefers"],
        "balance of yes and no does": lambda of: of["questions"]["yes/no"]["prefers"],
        "balance of two numbers does": lambda of: of["questions"]["number"]["prefers"],
    }
    for measure, row in rows.items():
        (own, other, *between), (perfect, _, *apart) = (
            [f"{100 * row(of)[key]:.0f}" for key in ("whole", "less", "low", "high")] for of in (swapped, exact)
        )
        assert (f"| {measure} | {own} % | {other} % | {' to '.join(between)} | {perfect} % | {' to '.join(apart)} |"
                in card)  # fmt: skip
    assert exact["scenes"] == swapped["scenes"] and exact["seed"] == swapped["seed"]
    for told in (
        f"On {sight['scenes']} scenes",
        f"right for {100 * sight['words']:.1f} % of the places, all {len(sight['by_slot'])} of a picture for "
        f"{100 * sight['pictures']:.1f} %",
        f"right embedding is {100 * sight['relative_squared_error']:.1f} % of its squared length",
        f"{swapped['scenes']} held-out scenes",
    ):
        assert told in card, told
    last = json.loads((folder / "training_log.jsonl").read_text().splitlines()[-1])
    assert f"{last['done']:,} updates" in card and f"right for {100 * last['right']:.1f} % of the places of" in card


@pytest.mark.slow
def test_reference_tables_are_what_the_records_say() -> None:
    """Each table in results/README.md is the output of the export command that stands above it, byte by byte."""
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"`(fastvlm-bench export [^`]*)`:\n\n(\|.*?)\n\n", page, flags=re.S)
    named = []
    for command, table in found:
        words = shlex.split(command)[1:]
        runs = [p for p in committed_runs() for word in words if fnmatch(f"results/{p.name}/", word)]
        arguments = [*(word for word in words if not word.startswith("results/")), *map(str, runs)]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.stdout.strip() == table.strip()
        named += runs
    assert sorted(named) == committed_runs(), "each reference run is in one table"


@pytest.mark.slow
def test_the_table_of_engines_is_what_the_two_runs_say() -> None:
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`fastvlm-bench compare --force ([^`]*)`", page)
    eager, graphs = (read_run(ROOT / folder) for folder in command.split())
    assert [run.meta["environment"]["engine"] for run in (eager, graphs)] == ["eager", "graphs"]
    rows = compare([eager, graphs], force=True).rows
    by_eager = {row.row.method: row.row.speedup.decode_speedup_geomean for row in rows if row.run == 0}

    def cell(found: Estimate | None) -> str:
        return "–" if found is None else ratio(found).replace("×", "")

    told = [f"| `{label}` | {cell(row.decode)} | {cell(by_eager[label])} | "
            f"{cell(row.row.speedup.decode_speedup_geomean)} |"
            for row in rows if row.run == 1 and (label := row.row.method) == row.against]  # fmt: skip
    table = page.split("| speed-up by `graphs` |\n")[1].split("\n\n")[0].splitlines()[1:]
    assert len(table) == len(by_eager) and table == told


@pytest.mark.slow
def test_reference_tables_of_the_readme_are_what_report_prints() -> None:
    """Each line of a table is one of the run that the command above it names, in the same order."""
    found = re.findall(r"`fastvlm-bench report (results/[^`]*)`:\n\n```text\n(.*?)```", README, flags=re.S)
    assert {read_run(ROOT / folder).meta["model"]["id"] for folder, _ in found} == {"tiny", "smol"}
    for folder, table in found:
        result = CliRunner().invoke(app, ["report", str(ROOT / folder)], env={"COLUMNS": "90"}, catch_exceptions=False)
        told = iter([line.rstrip() for line in result.stdout.splitlines()])
        lines = table.splitlines()
        assert len(lines) >= 9 and [line for line in lines if line not in told] == []


@pytest.mark.slow
def test_reference_sentences_are_what_the_records_say() -> None:
    """Each sentence of the README's results is one that `report` prints of a committed run."""
    blocks = re.findall(r"`report --details` says[^`]*```text\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 2  # of each target
    said = ""
    for folder in committed_runs():
        result = CliRunner().invoke(app, ["report", "--details", str(folder)], catch_exceptions=False)
        said += " ".join(result.stdout.split()) + " "
    sentences = [" ".join(line.split()) for line in re.split(r"\n(?=\S)", "\n".join(blocks).strip())]
    assert len(sentences) >= 6
    for sentence in sentences:
        suite, _, claim = sentence.partition(": ")
        assert suite in said and claim in said, sentence


def test_what_is_said_of_the_predictions_is_what_the_tables_say() -> None:
    errors, prices = list[float](), list[float]()
    for folder in committed_runs():
        run = read_run(folder)
        for suite in run.meta["suites"]:
            suite["metrics"] = []  # the bounds of quality take long, and no prediction is of them
        for row in summarise(run):
            totals, predicted = row.speedup.decode_speedup_totals, row.costs.predicted_decode_speedup
            errors += [abs(predicted / totals.value - 1)] if predicted and totals else []
        standard = [entry["standard_s"] for entry in run.meta["costs"]]
        prices += [max(standard) / min(standard) - 1] if standard else []
    within = [sum(error <= limit for error in errors) for limit in (0.05, 0.1)]
    told = (f"Of these {len(errors)} predictions {within[0]} lie within 5 % of it, {within[1]} within 10 %, "
            f"the furthest is {100 * max(errors):.0f} % off")  # fmt: skip
    page = " ".join((RESULTS / "README.md").read_text(encoding="utf-8").split())
    assert told in page and f"differs between methods of one run by up to {100 * max(prices):.0f} %" in page


def test_no_record_names_a_place_of_the_machine_that_made_it() -> None:
    listed = subprocess.run(["git", "ls-files", "results/*.json"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.split()]
    assert len(files) > 20
    assert [path.name for path in files if re.search(r'"/(?!/)[^"\s]+/', path.read_text(encoding="utf-8"))] == []


def test_reference_runs_are_whole_and_valid() -> None:
    folders = committed_runs()
    assert len(folders) >= 3
    for folder in folders:
        run = read_run(folder)
        assert run.meta["status"] == "success" and run.meta["verdict"]["status"] == "VALID", folder
        assert not run.meta["environment"]["dirty"], f"{folder}: no commit names the code that ran"
        assert {s["split"] for s in run.meta["suites"]} == {"embedded"}
