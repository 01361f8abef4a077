"""`run`, from configuration to exit code: check, load, build, warm up, measure, record, judge, report."""

import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fastvlm_bench import document_frequencies
from fastvlm_bench.batches import speaks, whole
from fastvlm_bench.clock import Clock
from fastvlm_bench.config import METHODS, REFERENCE, RunConfig
from fastvlm_bench.drafts import choose_draft, draft_folder
from fastvlm_bench.energy import open_meter
from fastvlm_bench.environment import Absent, describe_environment
from fastvlm_bench.errors import BenchError, LosslessViolation, Terminated, UsageError
from fastvlm_bench.export import rows_csv, run_json, run_markdown, samples_csv, save
from fastvlm_bench.invocation import INTERRUPTED, TERMINATED, invoke_all
from fastvlm_bench.live import Live
from fastvlm_bench.metrics import load as load_metric
from fastvlm_bench.metrics import parse_variants
from fastvlm_bench.models.names import check_model_name, default_drafts, layer_count
from fastvlm_bench.record import Run, RunWriter, read_run
from fastvlm_bench.report import print_report
from fastvlm_bench.scoring import write_predictions
from fastvlm_bench.stopping import StopRule
from fastvlm_bench.storage import now
from fastvlm_bench.suite import Suite, check_images, load_suite
from fastvlm_bench.suite_definition import read_definition
from fastvlm_bench.summary import summarise
from fastvlm_bench.verdict import judge


def run_benchmark(
    config: RunConfig, *, resume: Path | None, csv: Path | None, predictions: Path | None = None, as_json: bool,
    show: bool = True,
) -> int:  # fmt: skip
    """Run what `config` says and print the report (`show`); returns the exit code. Nothing measured is ever lost."""
    if predictions is not None and not predictions.parent.is_dir():
        raise UsageError(f"--predictions-out {predictions}: {predictions.parent} is not a folder; choose another")
    suites = check(config)
    for oddity in (text for suite in suites for text in suite.oddities):
        print(f"fastvlm-bench: note: {oddity}", file=sys.stderr)
    if resume and config.refine:
        raise UsageError("--resume cannot go on with --refine: what the drafts had learned is not in the records; "
                         "start a new run")  # fmt: skip
    writer = RunWriter.resume(resume, config.sha256(), config.to_dict()) if resume else None
    catch_signals()
    live = Live(Console(stderr=True, quiet=as_json), REFERENCE)
    outcome, code, failure = "success", 0, None
    try:
        writer = writer or _create(config, suites)
        if config.invocations > 1:
            writer, code = invoke_all(writer, config, as_json)
            if code in (INTERRUPTED, TERMINATED):
                outcome = "interrupted"
            elif code:
                raise BenchError("an invocation failed, as said above; what was measured is kept")
        else:
            measure_suites(config, suites, writer, live)
    except (KeyboardInterrupt, Terminated) as stop:
        outcome, code = "interrupted", TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except BenchError as error:
        outcome, code, failure = "error", error.exit_code, error
        if writer is None:
            raise
    except BaseException:
        if writer is not None and not writer.discard():
            writer.finish("error", error="internal error")
        raise
    if writer is None or (outcome != "success" and not resume and writer.discard()):  # nothing to keep
        if failure is not None:
            raise failure
        return code
    run = _finish(writer, outcome, None if failure is None else str(failure), suites)
    if run.lines:
        if show:
            _show(run, csv, as_json)
        if predictions is not None:
            write_predictions(run, predictions)
    if outcome == "interrupted":
        done = len({(line["suite"], line["sample_id"], line["repeat"]) for line in run.lines})
        print(f"fastvlm-bench: interrupted; {done} samples are kept; go on with --resume {run.folder}", file=sys.stderr)
    if failure is not None:
        raise failure
    if config.require_lossless:
        require_lossless(run)
    return code


def require_lossless(run: Run) -> None:
    """LosslessViolation, naming the first, if an output violates losslessness or could not be judged."""
    bad = [line for line in run.lines
           if (line.get("losslessness") or {}).get("outcome") in ("violation", "unchecked")]  # fmt: skip
    if bad:
        first, found = bad[0], bad[0]["losslessness"]
        where = f"token {found['index']}, gap {found['gap']}" if "index" in found else found["reason"]
        raise LosslessViolation(
            f"{len(bad)} outputs are not lossless; the first: {first['method']} on sample {first['sample_id']} of "
            f"{first['suite']} ({found['outcome']}: {where}); everything is kept in {run.folder}"
        )


def check(config: RunConfig) -> list[Suite]:
    """Everything that can be told to be wrong before the model loads: names, files, images, drafts, exits, output."""
    config.validate()
    check_model_name(config.model)
    layers = layer_count(config.model)
    for spec in config.specs:
        exit_layer = spec.options.get("exit_layer")
        if layers is not None and isinstance(exit_layer, int) and exit_layer >= layers:
            raise UsageError(f"exit_layer={exit_layer} is not within 1 .. {layers - 1} of model '{config.model}'")
        if "head" in METHODS[spec.name].options:
            choose_draft(_drafts(config), model=config.model, **_wish(spec.options))
    suites = load_suites(config)
    for suite in suites:
        for metric in suite.metrics:
            load_metric(metric)
        check_images(suite)
    return suites


def load_suites(config: RunConfig) -> list[Suite]:
    """The suites of a run. A chosen metric variant goes to the suites that have the metric; at least one must."""
    wanted = parse_variants(config.variants)
    own = {name: {m: v for m, v in wanted.items() if m in read_definition(name).metrics} for name in config.suites}
    for metric in wanted:
        if not any(metric in chosen for chosen in own.values()):
            load_metric(metric)  # refuses a name that no metric has
            raise UsageError(f"--variant {metric}=…: none of {', '.join(config.suites)} is scored with {metric}")
    return [
        load_suite(name, split=config.split, data=config.data, limit=config.limit, prompt_set=config.prompt_set,
                   prompt=config.prompt, variants=own[name], java=config.java, ranking=True) for name in config.suites
    ]  # fmt: skip


def _drafts(config: RunConfig) -> Path | None:
    return draft_folder(config.draft) if config.draft else default_drafts(config.model)


def _wish(options: Any) -> dict[str, Any]:
    return {key: options.get(key) for key in ("head", "exit_layer", "draft")}


def _create(config: RunConfig, suites: Sequence[Suite]) -> RunWriter:
    """The run's folder, with what is known before the model is loaded."""
    names = "+".join(suite.name for suite in suites)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    model = Path(config.model).name
    run_id = f"{stamp}-{model}-{names}-{secrets.token_hex(2)}"
    return RunWriter.create(Path(config.out) / run_id, {
        "run_id": run_id, "status": "started", "command": ["fastvlm-bench", *sys.argv[1:]], "config": config.to_dict(),
        "config_sha256": config.sha256(), "suites": [_described(suite, config) for suite in suites],
        "model": {"id": config.model}, "methods": [{"label": spec.label} for spec in config.specs],
        "reference": REFERENCE, "environment": {}, "started_at": now(), "completed_at": None, "totals": {},
        "warnings": [], "verdict": None, "error": None,
    })  # fmt: skip


def _described(suite: Suite, config: RunConfig) -> dict[str, Any]:
    samples = [
        {"sample_id": s.sample_id, "image_id": s.image_id, "prompt": s.prompt, "references": list(s.references),
         **({"group": s.group} if s.group else {}),
         **({"question": s.question} if s.question and s.question != s.prompt else {})}
        for s in suite.samples
    ]  # fmt: skip
    fields = {key: value for key, value in vars(suite).items() if key not in ("samples", "documents", "oddities")}
    limit = config.max_new_tokens or suite.max_new_tokens
    return {**fields, "metrics": list(suite.metrics), "max_new_tokens": limit, "samples": samples}


def measure_suites(
    config: RunConfig, suites: Sequence[Suite], writer: RunWriter, live: Live, invocation: int = 0
) -> None:
    """Load, build, check, warm up and run. torch is imported here: what was wrong before has already been said."""
    import torch

    from fastvlm_bench.apart import memory_parts
    from fastvlm_bench.batch_runner import BatchRunner
    from fastvlm_bench.conditions import RECORDED, watch
    from fastvlm_bench.decoding.build import build
    from fastvlm_bench.decoding.preflight import in_one_line, preflight
    from fastvlm_bench.models.load import load_target
    from fastvlm_bench.runner import Group, Runner

    torch.manual_seed(config.seed)
    with live:
        live.say(f"loading {config.model}")
        began = time.perf_counter()
        target = load_target(config.model, **config.loading)
        load_s = time.perf_counter() - began
        clock = Clock(target.device)
        methods = [build(spec, target, _drafts(config), clock) for spec in config.specs]
        facts = preflight(target, suites[0], config.max_new_tokens or max(s.max_new_tokens for s in suites))
        live.say(f"preflight: {in_one_line(facts, target.device)}")
        conditions = watch(target.device)
        options: dict[str, Any] = {
            "max_new_tokens": config.max_new_tokens, "conditions": conditions, "generation": config.generation,
            "seed": config.seed, "phases": config.phases,
        }  # fmt: skip
        if config.batch_size > 1:
            runner: Runner = BatchRunner(target, methods, clock, size=config.batch_size, **options)
        else:
            runner = Runner(target, methods, clock, **options)
        differences = runner.self_check(suites[0])
        for layer, difference in differences.items():
            live.say(
                f"self-check, exit {layer}: verification matches a full pass to {difference:.0e} of the largest logit"
            )
        if target.device.type == "cpu":
            threads = config.threads or writer.meta["environment"].get("threads")
            if threads is None:
                live.say("looking for the thread count at which standard decoding is fastest")
                cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
                threads = runner.fastest_threads(suites[0], sorted({1, *(2**i for i in range(1, 7) if 2**i <= cores)}))
            torch.set_num_threads(threads)
        writer.update(
            model={**target.describe(), "preflight": facts},
            suites=_rendered(writer.meta["suites"], target),
            methods=[m.described for m in methods],
            environment={
                **describe_environment(target.device), "self_check": {str(k): v for k, v in differences.items()},
            },
        )  # fmt: skip
        refiner = _refiner(target, methods) if config.refine else None

        def after(group: Group) -> None:
            live.show(group)
            if refiner is not None:
                refiner.learn(samples[group.suite, group.lines[0]["sample_id"]], group.lines)

        samples = {(suite.name, sample.sample_id): sample for suite in suites for sample in suite.samples}
        try:
            with conditions:
                for suite in suites:
                    stop = _stop_rule(config, suite, writer, clock)
                    if stop is not None and stop.by is not None:
                        continue
                    live.say(f"{suite.name}: warming up")
                    known = any(part["suite"] == suite.name for part in writer.meta.get("memory", []))
                    if not known and config.batch_size == 1:  # the parts of a peak are told of single samples
                        writer.update(memory=[*writer.meta.get("memory", []), *memory_parts(runner, suite)])
                    runner.warm_up(suite, config.warmup)
                    runner.run(suite, config.repeats, writer, after, stop, invocation)
                    if stop is not None:
                        writer.update(stopped={**writer.meta.get("stopped", {}), suite.name: stop.summary()})
            if config.energy is not None:
                _measure_energy(config.energy, suites, runner, writer, live)
        finally:  # an interrupted run, too, must say under what conditions it measured; a resumed one keeps both
            before = [notice for notice in writer.meta["warnings"] or [] if notice["name"] in RECORDED]
            new = [notice for notice in conditions.notices() if notice not in before]
            seen = [*writer.meta.get("conditions", []), conditions.summary()]
            outside = {"model_load_s": load_s, "first_call_s": runner.first_call_s}
            writer.update(warnings=before + new, conditions=seen, outside=[*writer.meta.get("outside", []), outside])
            if refiner is not None:
                refiner.save(writer.folder / "refined")
                writer.update(refined=refiner.summary())


def _refiner(target: Any, methods: Any) -> Any:
    from fastvlm_bench.training.refine_run import RunRefiner

    return RunRefiner(target, methods)


def _measure_energy(seconds: float, suites: Sequence[Suite], runner: Any, writer: RunWriter, live: Live) -> None:
    """Blocks of each method after the timed samples, for the suites that have none yet; or why there are none."""
    from fastvlm_bench.apart import energy_blocks

    found = dict(writer.meta.get("energy") or {})
    try:
        meter = open_meter(runner.target.device)
    except Absent as absent:
        live.say(f"energy: not measured: {absent}")
        writer.update(energy={**found, **{suite.name: {"source": None, "reason": str(absent)} for suite in suites}})
        return
    try:
        for suite in suites:
            if (found.get(suite.name) or {}).get("source") is None:
                live.say(f"{suite.name}: energy, blocks of {seconds:g} s")
                found[suite.name] = energy_blocks(runner, suite, meter, seconds)
                writer.update(energy=found)
    finally:
        meter.close()


def _stop_rule(config: RunConfig, suite: Suite, writer: RunWriter, clock: Clock) -> StopRule | None:
    """The suite's rule, told what an earlier invocation measured; it may say that this was enough."""
    if config.until_width is None and config.budget is None:
        return None
    rule = StopRule(REFERENCE, clock, config.until_width, config.budget)
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for line in read_run(writer.folder).lines:
        kept = line["suite"] == suite.name and (suite.name, line["sample_id"], line["repeat"]) in writer.completed
        if kept and speaks(line):
            groups.setdefault((line["sample_id"], line["repeat"]), []).append(whole([line]))
    rule.add(groups.values())
    return rule


def _rendered(suites: Sequence[dict[str, Any]], target: Any) -> list[dict[str, Any]]:
    """The suites of run.json, each sample with the exact text that the model reads."""
    return [
        {**suite, "samples": [{**sample, "rendered": target.render(sample["prompt"])} for sample in suite["samples"]]}
        for suite in suites
    ]


def _finish(writer: RunWriter, outcome: str, error: str | None, suites: Sequence[Suite]) -> Run:
    """Judge what was recorded, write the final run.json and summary.md, and read the run back as a stranger would."""
    run = read_run(writer.folder)
    limited = {suite.name: suite.documents for suite in suites if suite.documents}
    if run.lines and limited:
        document_frequencies.write(run.folder, limited, {name: written_texts(run, name) for name in limited})
        run = read_run(writer.folder)
    fields: dict[str, Any] = {"error": error}
    if run.lines:
        verdict = judge(run, status=outcome)
        failed = sum(line["error"] is not None for line in run.lines)
        fields |= {
            "verdict": verdict.as_dict(), "warnings": [notice.as_dict() for notice in verdict.warnings],
            "totals": {
                "lines": len(run.lines), "failed": failed,
                "new_tokens": sum(len(line["token_ids"] or []) for line in run.lines),
            },
        }  # fmt: skip
    writer.finish(outcome, **fields)
    run = read_run(writer.folder)
    if run.lines:
        save(run.folder / "summary.md", run_markdown(run))
    return run


def written_texts(run: Run, name: str) -> list[str]:
    """All texts of a suite's run: outputs and references."""
    suite = next(suite for suite in run.meta["suites"] if suite["name"] == name)
    references = [text for sample in suite["samples"] for text in sample["references"]]
    return references + [line["text"] for line in run.lines if line["suite"] == name and line["text"] is not None]


def _show(run: Run, csv: Path | None, as_json: bool) -> None:
    rows = summarise(run)
    if as_json:
        print(run_json(run, rows))
    else:
        print_report(run, rows=rows)
        print(f"\nrecords: {run.folder}")
    if csv is not None:
        save(csv, rows_csv(rows))
        save(csv.with_name(f"{csv.stem}-samples.csv"), samples_csv(run))


def catch_signals() -> None:
    """SIGTERM raises Terminated, and SIGINT works under a shell's `&`, too."""

    def terminate(*_: Any) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's `&` ignores it: Ctrl-C must work all the same
        signal.signal(signal.SIGINT, signal.default_int_handler)
