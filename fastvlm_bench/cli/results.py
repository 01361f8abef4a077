"""The commands that read results: those of earlier runs, and those that other tools have written."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastvlm_bench.cli.options import RESULTS, Details, Metric, Trackers
from fastvlm_bench.visible import note, visible

# fmt: off
RunFolders = Annotated[list[Path] | None, typer.Argument(help="Run folders, or folders of them; left out: the newest under results/.")]
Results = Annotated[Path, typer.Option(metavar="DIR", help="Where to look for runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RequireValid = Annotated[bool, typer.Option("--require-valid", help="Exit with 8 if a run is INVALID.")]
OutFile = Annotated[Path | None, typer.Option("--out", "--output", "-o", metavar="FILE", help="A file; default: standard output.")]
# fmt: on


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Folders of runs by run --shard i/N, or a folder that holds them.")],
    out: Annotated[Path, typer.Option("--out", "--output", "-o", metavar="DIR", help="Folder that gets the run's folder.")] = RESULTS,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Merge the shards that are there; the record and a warning say which are not.")] = False,
    json: Json = False,
    details: Details = False,
) -> None:  # fmt: skip
    """Join the runs of run --shard i/N into one run; refuses shards that are missing or measured otherwise."""
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.measuring.benchmark import show_results
    from fastvlm_bench.measuring.merge import merge as merge_shards

    if details and json:
        raise UsageError("--details prints every table, and --json prints none; leave one of them out")
    show_results(merge_shards(_named(folders), out, allow_missing), None, json, details)


def score(
    suite: Annotated[str, typer.Option("--suite", "-s", metavar="NAME", help="The suite whose metrics are used; see `suites`.")],
    annotations: Annotated[list[Path], typer.Option(metavar="PATH", help="The official annotation file, repeatable where there are several, the folder that holds them, parquet files, or hf:OWNER/NAME.")],
    predictions: Annotated[Path, typer.Option(metavar="FILE", help="Predictions of any tool, in the suite's official results format.")],
    reference: Annotated[Path | None, typer.Option(metavar="FILE", help="Other predictions: also give the paired difference to them.")] = None,
    margin: Annotated[float | None, typer.Option(metavar="POINTS", help="Points of 100 that count as no difference to --reference; default 0.5.")] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="The suite's split; default: told by the files.")] = None,
    allow_missing: Annotated[bool, typer.Option(help="Count a sample without prediction as an empty text.")] = False,
    subset: Annotated[bool, typer.Option("--subset", help="Score only the samples that have a prediction, and say how many.")] = False,
    variant: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="METRIC=VARIANT, as vqa_accuracy=official; repeatable.")] = None,
    metric: Metric = None,
    java: Annotated[bool, typer.Option("--java", help="METEOR and SPICE, too; needs Java and the extra coco-java.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Score a results file, [{"image_id", "caption"}], [{"question_id", "answer"}] or the suite's own format."""
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.metrics import parse_variants
    from fastvlm_bench.scoring.score import as_json, score_file, table

    if margin is not None and reference is None:
        raise UsageError("--margin judges the difference to --reference: name other predictions, or leave it out")
    found = score_file(suite, annotations, predictions, allow_missing=allow_missing, split=split, java=java, subset=subset,
                       variants=parse_variants(variant or []), reference_file=reference, margin=margin, more=metric or [])  # fmt: skip
    for text in found.notes:
        note(text)
    if json:
        typer.echo(as_json(found))
        return
    how = f", PTB-compatible tokenizer {found.how['tokenizer']}, CIDEr-D df full" if found.how else ""
    typer.echo(f"{suite}{', split ' + found.split if found.split else ''}, n = {found.n}{how}")
    print_rows(table(found))


def verify_metrics(
    annotations: Annotated[Path, typer.Option(metavar="PATH", help="A caption annotation file in the suite's official format.")],
    predictions: Annotated[Path | None, typer.Option(metavar="FILE", help="Captions to score; default: each image's first reference against its others.")] = None,
    suite: Annotated[str, typer.Option("--suite", "-s", metavar="NAME", help="A caption suite, for the formats.")] = "coco-caption",
    java: Annotated[bool, typer.Option("--java", help="Use the official Java tokenizer, and METEOR and SPICE.")] = False,
) -> None:  # fmt: skip
    """Compare the caption metrics with the official scorer on your own data; exit code 5 if they differ."""
    from fastvlm_bench.scoring.verify_metrics import report as lines
    from fastvlm_bench.scoring.verify_metrics import require_agreement, verify

    found = verify(annotations, predictions, suite=suite, java=java)
    for line in lines(found):
        typer.echo(line)
    require_agreement(found)


def compare(
    runs: RunFolders = None,
    force: Annotated[bool, typer.Option(help="Compare runs that differ in more than their methods; the table says so.")] = False,
    require_valid: RequireValid = False,
    results: Results = RESULTS,
) -> None:  # fmt: skip
    """Put runs side by side, with paired intervals; refuses runs that are not comparable.

    Of a folder of runs, the newest that can be compared are shown, and the others named.
    """
    from fastvlm_bench.analysis.comparable import compare_newest
    from fastvlm_bench.analysis.comparison import compare as compare_runs
    from fastvlm_bench.analysis.verdict import require_valid as all_valid
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.records.record import RUN_FILE
    from fastvlm_bench.report.compare import print_comparison

    if force and not runs:
        raise UsageError("--force is for runs that are named; without names, those that can be compared are compared")
    if not runs:
        found = compare_newest(results)
    elif force or all((folder / RUN_FILE).exists() or not folder.is_dir() for folder in runs):
        found = compare_runs(_runs(runs, results, lines=False), force=force)
    else:
        _ask_for_no_results(runs, results)
        found = compare_newest(runs[0] if len(runs) == 1 else Path(), _named(runs))
    print_comparison(found)
    if require_valid:
        all_valid(zip(found.runs, found.verdicts, strict=True))


def report(
    runs: RunFolders = None,
    margin: Annotated[float | None, typer.Option(metavar="POINTS", help="Points of 100 that count as no difference; default: the run's.")] = None,
    details: Details = False,
    require_valid: RequireValid = False,
    memory_picture: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw what each peak of memory is made of: FILE.png, .svg or .pdf.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one self-contained page of all these runs, and print nothing.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the figures for a paper and their data, and print nothing.")] = None,
    to: Annotated[str | None, typer.Option("--format", "-f", metavar="FORMAT", help="Of --plots: pdf, png or svg; default: pdf.")] = None,
    trackers: Trackers = None,
    results: Results = RESULTS,
) -> None:  # fmt: skip
    """Print what a run found, from its records alone: one screen, or every table with --details."""
    from fastvlm_bench.analysis.verdict import judged_rows
    from fastvlm_bench.analysis.verdict import require_valid as all_valid
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.records.storage import check_target_file
    from fastvlm_bench.report.memory_picture import check_memory_picture, draw_memory
    from fastvlm_bench.report.one_screen import print_screen
    from fastvlm_bench.report.plots import check_plots, write_plots
    from fastvlm_bench.report.terminal import print_report
    from fastvlm_bench.report.trackers import check_trackers, report_to

    if to is not None and plots is None:
        raise UsageError(f"--format {to} is for --plots; leave it out, or name a folder with --plots; tables as CSV, "
                         "LaTeX, Markdown or JSON are written by fastvlm-bench export")  # fmt: skip
    if details and (html or plots):
        raise UsageError(f"--details prints every table, and {'--html' if html else '--plots'} prints none; leave one "
                         "of them out")  # fmt: skip
    if html is not None:
        check_target_file(html, "--html")
    if plots is not None:
        check_plots(plots, to or "pdf")
    if memory_picture is not None:
        check_memory_picture(memory_picture)
    check_trackers(trackers or [])
    judged, printing = [], print_report if details else print_screen
    read = _runs(runs, results)
    if memory_picture is not None and len(read) > 1:
        raise UsageError(f"--memory-picture is of one run, not of {len(read)}: name its folder")
    told = []
    for found in read:
        rows, verdict = judged_rows(found, margin)
        told.append(rows)
        judged.append((found, verdict))
        if html is None and plots is None:
            printing(found, rows=rows, verdict=judged[-1][1])
        if memory_picture is not None:
            draw_memory(found, memory_picture)
    for tracker in trackers or []:
        for found, rows in zip(read, told, strict=True):
            report_to(tracker, found, rows)
    if html is not None:
        from fastvlm_bench.report.html import write_html

        typer.echo(f"{html}: {write_html(read, html, told) / 1e6:.1f} MB", err=str(html) == "-")
    if plots is not None:
        typer.echo(f"{len(write_plots(read, plots, to or 'pdf', told))} files in {plots}")
    if require_valid:
        all_valid(judged)


def show(
    run: Annotated[Path | None, typer.Argument(help="A run folder; left out: the newest under results/.")] = None,
    sample: Annotated[list[str] | None, typer.Option(metavar="ID", help="A sample, repeatable; default: the first.")] = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", metavar="METHOD", help="A label, repeatable, or all; default: the first that drafts.")] = None,
    suite: Annotated[str | None, typer.Option("--suite", "-s", metavar="NAME", help="The suite of the samples; default: the first.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a picture, FILE.svg, instead.")] = None,
    results: Results = RESULTS,
) -> None:  # fmt: skip
    """Show answers token by token: what was drafted and accepted, what was rejected, what the target said instead."""
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.report.shown import print_shown, save_picture

    found, *others = _runs([run] if run else None, results)
    if others:
        raise UsageError(f"{run} holds {1 + len(others)} runs, and show is of one: name its folder")
    asked: dict[str, Any] = {"suite": suite, "samples": sample or (), "methods": method or ()}
    if svg is not None:
        save_picture(found, svg, **asked)
    else:
        print_shown(found, **asked)


def batches(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of different batch sizes, or a folder of them.")],
    to: Annotated[str, typer.Option("--format", "-f", metavar="FORMAT", help="table, csv, markdown or json.")] = "table",
    out: OutFile = None,
) -> None:  # fmt: skip
    """Put runs of different batch sizes side by side: where does speculation's gain end?"""
    from fastvlm_bench.report.batch_table import print_table

    print_table(runs, to, out)


def export(
    runs: RunFolders = None,
    to: Annotated[str, typer.Option("--format", "-f", metavar="FORMAT", help="csv, samples-csv, contexts-csv, latex, markdown, json or eval-results.")] = "csv",
    out: OutFile = None,
    dataset: Annotated[str | None, typer.Option(metavar="ID", help="For eval-results: the benchmark's data set on the Hub, OWNER/NAME or OWNER/NAME@REVISION.")] = None,
    method: Annotated[str | None, typer.Option(metavar="LABEL", help="For eval-results: the method; default: the first beside the reference.")] = None,
    excel_safe: Annotated[bool, typer.Option("--excel-safe", help="For the csv formats: no text is run as a formula where a spreadsheet opens the file.")] = False,
    columns: Annotated[str | None, typer.Option(metavar="NAMES", help="For latex and markdown: column names, separated by commas.")] = None,
    results: Results = RESULTS,
) -> None:  # fmt: skip
    """Write runs as CSV (one row a suite and method), per-sample CSV, LaTeX (booktabs), Markdown, JSON or the Hub's YAML."""
    from fastvlm_bench.report.export import deliver, export_pieces

    names = [name.strip() for name in columns.split(",") if name.strip()] if columns else None
    deliver(
        lambda: export_pieces(_runs(runs, results), to, names, dataset=dataset, method=method, excel_safe=excel_safe),
        out,
    )


def audit(
    files: Annotated[list[Path], typer.Argument(help="Results files of other tools, one a method, over the same samples.")],
    reference: Annotated[Path | None, typer.Option(metavar="FILE", help="The file that the others are compared with; default: the one named baseline or so, else the first.")] = None,
    json: Json = False,
    to: Annotated[str, typer.Option("--format", "-f", metavar="FORMAT", help="table, csv, latex, markdown or json.")] = "table",
    out: OutFile = None,
) -> None:  # fmt: skip
    """Audit results of MMSpec, Spec-Bench, EAGLE, vLLM or lmms-eval: paired speed-ups, same answers, warnings."""
    from fastvlm_bench.analysis.audit import audit as compare_files
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.report.audit import check_format, exported, print_audit
    from fastvlm_bench.report.export import deliver

    if json and to not in ("table", "json"):
        raise UsageError(f"--json and --format {to} exclude each other; leave one out")
    form = "json" if json else to
    check_format(form)
    if form == "table" and out is not None:
        raise UsageError("--out is for csv, latex, markdown and json; the table goes to the terminal")
    found = compare_files(files, reference)
    if form == "table":
        print_audit(found)
    else:
        deliver(lambda: exported(found, form), out)


def _runs(folders: list[Path] | None, results: Path, lines: bool = True) -> list[Any]:
    """The runs that are meant. lines: else only their run.json is read."""
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.records.record import Run, list_runs, read_meta, read_run

    if folders:
        _ask_for_no_results(folders, results)
        found = _named(folders)
    else:
        found = list_runs(results)[:1]
    if not found:
        raise UsageError(f"no run under {results}; make one with fastvlm-bench run, or name a run folder")
    return [read_run(folder) if lines else Run(folder, read_meta(folder), []) for folder in found]


def _ask_for_no_results(folders: list[Path], results: Path) -> None:
    from fastvlm_bench.errors import UsageError

    if results != RESULTS:
        raise UsageError(f"--results {results} is where runs are looked for that are not named; leave it out, or leave "
                         f"out {folders[0]}")  # fmt: skip


def _named(folders: list[Path]) -> list[Path]:
    """The run folders that are meant; a note tells which of the folders hold none."""
    from fastvlm_bench.records.run_folders import run_folders

    found, empty = run_folders(folders)
    if empty:
        note(f"no run in {', '.join(map(str, empty))}")
    return found


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Names and texts in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        typer.echo(visible(f"{name:<{max(width, 18)}} {text}"))
