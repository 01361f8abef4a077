"""The command line: parse, call, exit code. No logic, and nothing heavy is imported before a command needs it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fastvlm_bench import __version__
from fastvlm_bench.cli.models import Attn, Device, DeviceMap, Dtype, Model, Offline, Quantize, TrustRemoteCode, models
from fastvlm_bench.cli.suites import suites_app
from fastvlm_bench.cli.train import ablate, train
from fastvlm_bench.errors import BenchError


class _Group(TyperGroup):
    """Turns a BenchError into its one line and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BenchError as error:
            typer.echo(f"fastvlm-bench: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # `fastvlm-bench … | head`
            sys.stderr.close()
            raise typer.Exit(0) from None
        except SystemExit as stop:  # rich meets the closed pipe first, and makes 1 of it
            if isinstance(stop.__context__, BrokenPipeError):
                raise typer.Exit(0) from None
            raise


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Benchmarks FastVLM's self-speculative decoding (arXiv 2510.22641; not Apple's FastVLM) against standard "
    "decoding of the same vision-language model: speed, acceptance, memory and quality on the same samples.",
)

app.add_typer(suites_app, name="suites")
app.command()(train)
app.command()(ablate)
app.command()(models)

RESULTS = Path("results")
Names = Annotated[list[str] | None, typer.Option("--suite", "-s", help="A suite, repeatable; see `suites`.")]
Variants = Annotated[list[str] | None, typer.Option(help="METRIC=VARIANT, as vqa_accuracy=official; repeatable.")]
RunFolders = Annotated[list[Path] | None, typer.Argument(help="Run folders; left out: the newest under results/.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(f"fastvlm-bench {__version__}")
        raise typer.Exit


@app.command()
def run(
    suite: Names = None,
    model: Model = "tiny",
    draft: Annotated[str | None, typer.Option(help="A draft folder, a folder of them, or a hub repository; default: the model's.")] = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="name or name:key=value,…; repeatable; see `methods`.")] = None,
    gamma: Annotated[int | None, typer.Option(help="Most tokens drafted per round, for methods that do not name their own.")] = None,
    exit_layer: Annotated[int | None, typer.Option(help="Layers run while drafting, likewise.")] = None,
    split: Annotated[str | None, typer.Option(help="The suite's split; default: embedded, or what --data holds.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the real data set in its official layout.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples of each suite.")] = None,
    repeats: Annotated[int, typer.Option(help="Repetitions of each sample; their median counts.")] = 1,
    warmup: Annotated[int, typer.Option(help="Samples decoded by each method before anything counts.")] = 3,
    max_new_tokens: Annotated[int | None, typer.Option(help="Token limit; default: the suite's.")] = None,
    prompt_set: Annotated[str | None, typer.Option(help="Whose prompts: lmms, llava or blip2, as the suite has them; default lmms.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A prompt of your own, with {question} where the question belongs.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of torch's generator, recorded.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    quantize: Quantize = None,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: the count at which `standard` is fastest.")] = None,
    batch_size: Annotated[str, typer.Option(help="Samples decoded at a time, for throughput: N, or a list as 1,2,4,8 for a table over sizes. 1 is the honest setting for latency.")] = "1",
    refine: Annotated[bool, typer.Option(help="Between samples, outside the clock, let drafts learn from their rejections; the report says how acceptance moves.")] = False,
    temperature: Annotated[float | None, typer.Option(help="Sample at this temperature, exactly as the target would; default: greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the likeliest tokens that make up this probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from so many likeliest tokens.")] = None,
    ignore_eos: Annotated[bool, typer.Option(help="Decode to the token limit, whatever the model says: equal lengths for pure speed.")] = False,
    phases: Annotated[bool, typer.Option(help="Time vision, prefill, draft and verify inside the model, by events on a GPU.")] = False,
    invocations: Annotated[int, typer.Option(help="Processes that measure all of it, one after the other: restarts vary, too.")] = 1,
    until_width: Annotated[float | None, typer.Option(help="End a suite when every decode speed-up is known to this share, such as 0.02.")] = None,
    budget: Annotated[float | None, typer.Option(help="End a suite after so many seconds of measuring.")] = None,
    energy: Annotated[float | None, typer.Option(help="Then measure energy, too, in blocks of so many seconds of each method, 5 for example.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that gets the run's folder.")] = RESULTS,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run's folder.")] = None,
    require_lossless: Annotated[bool, typer.Option(help="Exit with 5 if an output has a token that the target would not have chosen.")] = False,
    margin: Annotated[float, typer.Option(help="Points of 100 that count as no difference in quality: equivalent within ±margin.")] = 0.5,
    variant: Variants = None,
    java: Annotated[bool, typer.Option("--java", help="METEOR and SPICE of captions, too; needs Java and the extra coco-java.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write the table as CSV, and FILE-samples.csv beside it.")] = None,
    predictions_out: Annotated[Path | None, typer.Option(help="Also write FILE-suite-method.json in the official results format.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:  # fmt: skip
    """Decode each sample with each method in turn and report speed, acceptance, memory and quality."""
    from fastvlm_bench.config import RunConfig
    from fastvlm_bench.measuring.batch_sweep import parse_sizes, run_sizes

    sizes = parse_sizes(batch_size)
    chosen: dict[str, Any] = {"suites": tuple(suite)} if suite else {}
    chosen |= {"methods": tuple(method)} if method else {}
    config = RunConfig(
        **chosen, model=model, draft=draft, gamma=gamma, exit_layer=exit_layer, split=split,
        data=str(data) if data else None, limit=limit, repeats=repeats, warmup=warmup, max_new_tokens=max_new_tokens,
        prompt_set=prompt_set, prompt=prompt,
        seed=seed, device=device, dtype=dtype, device_map=device_map, attn=attn, quantize=quantize,
        trust_remote_code=trust_remote_code, offline=offline, threads=threads, out=str(out),
        require_lossless=require_lossless, refine=refine, margin=margin, variants=tuple(variant or ()), java=java,
        temperature=temperature, top_p=top_p, top_k=top_k, ignore_eos=ignore_eos, phases=phases,
        invocations=invocations, until_width=until_width, budget=budget, energy=energy, batch_size=sizes[0],
    )  # fmt: skip
    from fastvlm_bench.measuring.benchmark import run_benchmark

    if len(sizes) > 1:
        raise typer.Exit(run_sizes(config, sizes, resume=resume, csv=csv, predictions=predictions_out, as_json=json))
    raise typer.Exit(run_benchmark(config, resume=resume, csv=csv, predictions=predictions_out, as_json=json))


@app.command()
def score(
    suite: Annotated[str, typer.Option("--suite", "-s", help="The suite whose metrics are used; see `suites`.")],
    annotations: Annotated[list[Path], typer.Option(help="The official annotation file, repeatable where there are several, or the folder that holds them.")],
    predictions: Annotated[Path, typer.Option(help="Predictions of any tool, in the suite's official results format.")],
    reference: Annotated[Path | None, typer.Option(help="Other predictions: also give the paired difference to them.")] = None,
    margin: Annotated[float | None, typer.Option(help="Points of 100 that count as no difference to --reference; default 0.5.")] = None,
    split: Annotated[str | None, typer.Option(help="The suite's split; default: told by the files.")] = None,
    allow_missing: Annotated[bool, typer.Option(help="Count a sample without prediction as an empty text.")] = False,
    variant: Variants = None,
    java: Annotated[bool, typer.Option("--java", help="METEOR and SPICE, too; needs Java and the extra coco-java.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:  # fmt: skip
    """Score a results file, [{"image_id", "caption"}], [{"question_id", "answer"}] or the suite's own format."""
    from fastvlm_bench.metrics import parse_variants
    from fastvlm_bench.scoring.score import as_json, score_file, table

    found = score_file(suite, annotations, predictions, allow_missing=allow_missing, split=split, java=java,
                       variants=parse_variants(variant or []), reference_file=reference, margin=margin)  # fmt: skip
    for note in found.notes:
        typer.echo(f"fastvlm-bench: note: {note}", err=True)
    if json:
        typer.echo(as_json(found))
        return
    how = f", PTB-compatible tokenizer {found.how['tokenizer']}, CIDEr-D df full" if found.how else ""
    typer.echo(f"{suite}{', split ' + found.split if found.split else ''}, n = {found.n}{how}")
    _list(table(found))


@app.command("verify-metrics")
def verify_metrics(
    annotations: Annotated[Path, typer.Option(help="A caption annotation file in the suite's official format.")],
    predictions: Annotated[Path | None, typer.Option(help="Captions to score; default: each image's first reference against its others.")] = None,
    suite: Annotated[str, typer.Option("--suite", "-s", help="A caption suite, for the formats.")] = "coco-caption",
    java: Annotated[bool, typer.Option("--java", help="Use the official Java tokenizer, and METEOR and SPICE.")] = False,
) -> None:  # fmt: skip
    """Compare the caption metrics with the official scorer on your own data; exit code 5 if they differ."""
    from fastvlm_bench.scoring.verify_metrics import report as lines
    from fastvlm_bench.scoring.verify_metrics import require_agreement, verify

    found = verify(annotations, predictions, suite=suite, java=java)
    for line in lines(found):
        typer.echo(line)
    require_agreement(found)


@app.command()
def compare(
    runs: RunFolders = None,
    force: Annotated[bool, typer.Option(help="Compare runs that differ in more than their methods; the table says so.")] = False,
    results: Annotated[Path, typer.Option(help="Where to look for runs.")] = RESULTS,
) -> None:  # fmt: skip
    """Put runs side by side, with paired intervals; refuses runs that are not comparable."""
    from fastvlm_bench.analysis.comparable import compare_newest
    from fastvlm_bench.analysis.comparison import compare as compare_runs
    from fastvlm_bench.records.record import read_run
    from fastvlm_bench.report.compare import print_comparison

    named = [read_run(folder) for folder in runs or []]
    print_comparison(compare_runs(named, force=force) if named else compare_newest(results))


@app.command()
def report(
    runs: RunFolders = None,
    margin: Annotated[float | None, typer.Option(help="Points of 100 that count as no difference; default: the run's.")] = None,
    memory_picture: Annotated[Path | None, typer.Option(help="Also draw what each peak of memory is made of: FILE.png, .svg or .pdf.")] = None,
    results: Annotated[Path, typer.Option(help="Where to look for runs.")] = RESULTS,
) -> None:  # fmt: skip
    """Print a run's tables again, from its records alone."""
    from fastvlm_bench.analysis.summary import summarise
    from fastvlm_bench.report.memory_picture import draw_memory
    from fastvlm_bench.report.terminal import print_report

    for found in _runs(runs, results):
        print_report(found, rows=summarise(found, margin))
        if memory_picture is not None:
            draw_memory(found, memory_picture)


@app.command()
def batches(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of different batch sizes, or a folder of them.")],
    to: Annotated[str, typer.Option("--format", "-f", help="table, csv, markdown or json.")] = "table",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file; default: standard output.")] = None,
) -> None:
    """Put runs of different batch sizes side by side: where does speculation's gain end?"""
    from fastvlm_bench.report.batch_table import print_table

    print_table(runs, to, out)


@app.command()
def export(
    runs: RunFolders = None,
    to: Annotated[str, typer.Option("--format", "-f", help="csv, samples-csv, latex, markdown or json.")] = "csv",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file; default: standard output.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="For latex and markdown: column names, separated by commas.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Where to look for runs.")] = RESULTS,
) -> None:
    """Write runs as CSV (one row a suite and method), per-sample CSV, LaTeX (booktabs), Markdown or JSON."""
    from fastvlm_bench.report.export import export_runs, save

    text = export_runs(_runs(runs, results), to, columns.split(",") if columns else None)
    if out is None:
        sys.stdout.write(text)
    else:
        save(out, text)


@app.command()
def methods() -> None:
    """List the decoding methods and their options."""
    from fastvlm_bench.method_spec import METHODS

    for name, kind in METHODS.items():
        _list([(name, kind.description)])
        _list([(f"  {key}", f"{option.help} (default {option.default})") for key, option in kind.options.items()])


@app.command()
def doctor(
    results: Annotated[Path, typer.Option("--out", help="The folder that would get results: is there room?")] = RESULTS,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:  # fmt: skip
    """Describe this machine and advise on what would spoil a measurement; paste it into a bug report."""
    from fastvlm_bench.machine.doctor import examine

    typer.echo(examine(results, as_json=json))


def _runs(folders: list[Path] | None, results: Path) -> list[Any]:
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.records.record import list_runs, read_run

    if not folders:
        folders = list_runs(results)[:1]
    if not folders:
        raise UsageError(f"no run under {results}; make one with fastvlm-bench run, or name a run folder")
    return [read_run(folder) for folder in folders]


def _list(rows: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        typer.echo(f"{name:<{max(width, 18)}} {text}")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
