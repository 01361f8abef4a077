"""The commands below `fastvlm-bench suites`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastvlm_bench.cli.help import Command, Group
from fastvlm_bench.cli.options import MaxImagePixels
from fastvlm_bench.visible import visible

suites_app = typer.Typer(cls=Group, help="List the suites; show one, check its files, or fetch them.")
Name = Annotated[str, typer.Argument(help="A suite.")]
Data = Annotated[
    Path,
    typer.Option(
        metavar="PATH",
        help="The folder with the official files or their parquet form (for jsonl: the file), or hf:OWNER/NAME.",
    ),
]
OneSplit = Annotated[str | None, typer.Option(metavar="NAME", help="Only this split.")]


@suites_app.callback(invoke_without_command=True)
def listing(context: typer.Context) -> None:
    """List the suites."""
    if context.invoked_subcommand is None:
        from fastvlm_bench.suites.show import listed
        from fastvlm_bench.suites.suite import describe_suites

        for suite in describe_suites():
            typer.echo(visible(listed(suite)))


@suites_app.command(cls=Command)
def show(
    name: Name,
    data: Annotated[Path | None, typer.Option(metavar="PATH", help="Show a sample of these files (a folder, or hf:OWNER/NAME), not an embedded one.")] = None,
    split: OneSplit = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Also show the exact text that this model reads, its template around the prompt.")] = None,
) -> None:  # fmt: skip
    """Say what a suite is, which files it reads, its prompts, and a sample: of its embedded split, or of --data."""
    from fastvlm_bench.suites.definition import read_definition
    from fastvlm_bench.suites.show import answers, described
    from fastvlm_bench.suites.suite import load_suite

    suite = read_definition(name)
    for paragraph in described(suite):
        typer.echo(visible(paragraph))
    if data is not None or any(split.root for split in suite.splits.values()):
        chosen = split if data is not None else suite.default_split
        loaded = load_suite(name, split=chosen, data=data, limit=1, ranking=True)
        sample = loaded.samples[0]
        images = ", ".join(map(str, sample.image_paths))
        typer.echo(visible(f"\nsample {sample.sample_id} of the {loaded.split} split: {images}"))
        typer.echo(visible(sample.prompt))
        for later in loaded.samples[1:]:
            typer.echo(visible(f"turn {later.turn}, after the model's own answers: {later.prompt}"))
        if model is not None:
            from fastvlm_bench.models.prompt_text import prompt_text

            typer.echo(f"\nas {model} reads it:\n{prompt_text(model, sample.prompt, len(sample.image_paths))!r}\n")
        for line in answers(sample):
            typer.echo(visible(f"  {line}"))


@suites_app.command(cls=Command)
def sheet(
    names: Annotated[list[str], typer.Argument(help="Suites.")],
    out: Annotated[Path, typer.Option("--out", "--output", "-o", metavar="FILE", help="The PNG to write.")],
    data: Annotated[Path | None, typer.Option(metavar="PATH", help="The folder with the files, or hf:OWNER/NAME; default: the embedded splits.")] = None,
    split: OneSplit = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Samples of each suite.")] = 4,
    max_image_pixels: MaxImagePixels = None,
) -> None:  # fmt: skip
    """Draw some samples of suites as one picture: images, questions, references."""
    from fastvlm_bench.suites.contact_sheet import draw_sheet, one_an_image
    from fastvlm_bench.suites.suite import load_suite

    suites = [one_an_image(load_suite(name, split=split, data=data, limit=limit * 10), limit) for name in names]
    size = draw_sheet(suites, out)
    typer.echo(f"{out}: {size} bytes", err=str(out) == "-")


@suites_app.command(cls=Command)
def check(name: Name, data: Data, split: OneSplit = None, max_image_pixels: MaxImagePixels = None) -> None:
    """Read a suite's files and decode every image; list each problem once. Exit code 2 if there is any."""
    from fastvlm_bench.suites.check import check_data

    findings = check_data(name, data, split)
    for line in findings.checked:
        typer.echo(visible(line))
    for line in findings.warnings:
        typer.echo(visible(f"warning: {line}"))
    for line in findings.problems:
        typer.echo(visible(f"problem: {line}"))
    if findings.problems:
        count = f"{len(findings.problems)} problem{'s' if len(findings.problems) > 1 else ''}"
        typer.echo(f"fastvlm-bench: {count} with the files of '{name}' in {data}", err=True)
        raise typer.Exit(2)


@suites_app.command(cls=Command)
def prepare(
    name: Name,
    data: Data,
    split: OneSplit = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the images of the first so many samples, out of the archive, where the server allows it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and how large it is; fetch nothing.")] = False,
) -> None:  # fmt: skip
    """Download a suite's files from their official places, resumably; say what must be put there by hand."""
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.option_checks import check_writable
    from fastvlm_bench.suites.definition import read_definition
    from fastvlm_bench.suites.files import layout
    from fastvlm_bench.suites.hub_data import is_hub, spelled
    from fastvlm_bench.suites.prepare import in_words, planned, sizes

    if limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}; it must be at least 1, or left out for all images")
    suite = read_definition(name)
    if is_hub(data):
        raise UsageError(
            f"nothing to prepare: run --data {spelled(data)} fetches what it needs; give a folder to prepare one"
        )
    real = [s for s in suite.splits.values() if not s.root and split in (None, s.name)]
    downloads = planned(name, data, split)
    remotes = list(sizes(downloads))
    for download, remote in zip(downloads, remotes, strict=True):
        typer.echo(
            f"{'would get' if dry_run else 'get'} {download.url} ({in_words(remote.size)}) -> {data / download.makes}"
        )
    if not dry_run and downloads:
        check_writable(data)
        _fetch_all(downloads, remotes, data, real, limit)
    if suite.manual:
        typer.echo(f"by hand: {suite.manual}")
    if not suite.downloads and not suite.manual:
        typer.echo(f"nothing to download for '{name}'")
    for item in real:
        typer.echo(f"split {item.name}: {data} then holds {layout(item)}")
    typer.echo(f"then: fastvlm-bench suites check {name} --data {data}")


def _fetch_all(downloads: list[Any], remotes: list[Any], data: Path, splits: list[Any], limit: int | None) -> None:
    """Fetch the files, annotations first, with bars: single members of an archive where they are enough."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from fastvlm_bench.suites.prepare import fetch, fetch_members, first_images, splits_of_images, whole_archive
    from fastvlm_bench.suites.remote_zip import probe_part

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    pairs = []
    for download, remote in zip(downloads, remotes, strict=True):
        own = splits_of_images(download, splits)
        if own and limit is not None or download.members:
            remote = probe_part(download.url, remote)
            if told := whole_archive(download, remote):
                typer.echo(told)
        pairs.append((own, download, remote))
    pairs.sort(key=lambda pair: bool(pair[0]))
    with Progress(*columns, console=Console(stderr=True)) as bar:

        def step(file: str, have: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file)
            bar.update(tasks[file], completed=have, total=total)

        for own, download, remote in pairs:
            names = first_images(own, data, limit) if own and limit is not None else []
            if not fetch_members(download, data, step, remote, names):
                fetch(download, data, step)
