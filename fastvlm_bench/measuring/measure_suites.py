"""The measuring part of `run`: load, build, self-check, warm up, measure, and the measurements apart from samples.

torch is imported inside functions, so that the checks that need no model (`before_loading.check`) come before it.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastvlm_bench.analysis.batches import batch_of
from fastvlm_bench.analysis.stopping import StopRule
from fastvlm_bench.config import EAGER, RunConfig
from fastvlm_bench.errors import Absent, DeviceLost, UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.machine.energy import open_meter
from fastvlm_bench.machine.environment import describe_environment
from fastvlm_bench.machine.limits import thread_counts, thread_limit
from fastvlm_bench.measuring.before_loading import drafts_of
from fastvlm_bench.measuring.control_arm import measured_specs
from fastvlm_bench.measuring.live import Live
from fastvlm_bench.measuring.part import Part
from fastvlm_bench.measuring.ranks import Team
from fastvlm_bench.method_spec import CONTROL, REFERENCE, MethodSpec
from fastvlm_bench.records.rank_files import Writer
from fastvlm_bench.records.record import read_run
from fastvlm_bench.suites.suite import Suite


def measure_suites(
    config: RunConfig, suites: Sequence[Suite], writer: Writer, live: Live, invocation: int = 0,
    team: Team | None = None,
) -> None:  # fmt: skip
    """Measure one invocation's part of a run: load, build, check, warm up, run. Each line is recorded once measured.

    team: the processes that share the run's samples, where there are several.
    """
    import torch

    from fastvlm_bench.checks.preflight import in_lines, preflight
    from fastvlm_bench.checks.self_check import said
    from fastvlm_bench.decoding.advice import whence
    from fastvlm_bench.engine.graphs import AUTO, Graphs, engine_named
    from fastvlm_bench.machine.conditions import RECORDED, watch
    from fastvlm_bench.measuring.apart import acceptance_without_stop, kernel_shares, memory_parts, pass_costs
    from fastvlm_bench.measuring.promising import promising
    from fastvlm_bench.measuring.runner import Group, Runner
    from fastvlm_bench.models.generation_settings import generation_settings
    from fastvlm_bench.models.load import load_target

    torch.manual_seed(config.seed)
    swept = "sweep" in writer.meta  # many cells: what one cell tells, or one without a stop, is not measured for all
    with live:
        live.say(f"loading {config.model}")
        began = time.perf_counter()
        placed: dict[str, Any] = {} if team is None else {"device": team.device(config.device)}
        in_step = team is not None and team.in_step
        placed |= {"tensor_parallel": True} if in_step else {}
        target = load_target(config.model, **config.loading | placed)
        load_s = time.perf_counter() - began
        clock = Clock(target.device)
        specs = measured_specs(config, str(target.model.dtype).removeprefix("torch."), writer.meta["methods"])
        if any(spec.name == CONTROL for spec in specs) and CONTROL not in config.methods:
            live.say("control is measured beside the methods, as the model is in half precision; --no-control leaves "
                     "it out")  # fmt: skip
        methods, left_out = _built(config, specs, target, clock)
        for each in left_out:
            live.say(f"left out: {each['label']}: {each['reason']}")
        begun = {method["label"]: method["advised"] for method in writer.meta["methods"] if "advised" in method}
        for built in methods:
            if advice := built.described.get("advised"):
                manifest = built.method.draft.manifest
                live.say(whence(built.label, built.described["draft"]["name"], manifest, advice))
            elif built.label in begun:  # of a resumed run, whose options stay as they were
                built.described["advised"] = begun[built.label]
        facts = preflight(target, suites, config.max_new_tokens, config.batch_size)
        for line in in_lines(facts, target.device):
            live.say(f"preflight: {line}")
        asked = writer.meta["environment"].get("engine") if config.engine == AUTO else None  # as a resumed run began
        wanted = EAGER if in_step else asked or config.engine  # what processes send each other cannot be recorded
        alone = team is None and config.shard is None
        engine = engine_named(wanted, target.device, alone=alone, compiled=config.compile)
        conditions = watch(target.device)
        runner = Runner(
            target, methods, clock, max_new_tokens=config.max_new_tokens, conditions=conditions,
            generation=config.generation, seed=config.seed, phases=config.phases, size=config.batch_size,
            part=Part.of(config) if team is None else team.part(config), engine=engine,
        )  # fmt: skip
        if config.compile:
            live.say("compiling the norms and feed-forward networks of the layers")
            runner.compile_parts()
        checked = runner.self_check(suites[0])
        for layer, found in checked.items():
            live.say(f"self-check, exit {layer}: {said(found)}")
        runner.check_engine(suites[0])
        for reason in engine.reasons:
            live.say(f"engine graphs: {reason}; run by eager")
        if target.device.type == "cpu":
            threads = config.threads or writer.meta["environment"].get("threads")
            if threads is None and in_step and team is not None:
                threads = team.threads(thread_limit())  # a search by each one's clock would not stay in step
            elif threads is None:
                live.say("looking for the thread count at which standard decoding is fastest")
                limit = thread_limit() if team is None else team.threads(thread_limit())
                threads = runner.fastest_threads(suites[0], thread_counts(limit))
            torch.set_num_threads(threads)
        if writer.meta.get("sweep", {}).get("predict_first") and not any(
            "spec" in method for method in writer.meta["methods"]
        ):
            live.say("predicting every cell from the costs of its passes and a few drafted answers")
            kept, out, predicted = promising(runner, suites)
            writer.update(sweep={**writer.meta["sweep"], "predicted": predicted})
            live.say(
                f"predicted: {len(kept) - 1} of {len(methods) - 1} cells may be the fastest; the others are left out"
            )
            runner.methods, methods, left_out = kept, kept, left_out + out
        environment = {
            **describe_environment(target.device),
            "engine": engine.name,
            **({"compiled": engine.parts.classes} if engine.parts else {}),
            "self_check": {str(layer): found.difference for layer, found in checked.items()},
            "self_check_own": {str(layer): found.own for layer, found in checked.items()},
            "self_check_limit": {str(layer): found.limit for layer, found in checked.items()},
        }
        writer.update(
            model={**target.describe(), "preflight": facts},
            generation=generation_settings(target.asked, config.generation),
            suites=_rendered(writer.meta["suites"], target),
            methods=[m.described for m in methods],
            left_out=writer.meta.get("left_out") or left_out,
            environment=environment,
        )
        if team is not None:
            torch.set_num_threads(team.agree(writer.meta, torch.get_num_threads()))
        # What is measured apart, the leader measures; where all decode in step nothing is, as it goes by the clock.
        follows = team is not None and (in_step or not team.leads)
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
                    single = config.batch_size == 1  # a memory peak is split for single samples only
                    if single and not (known or swept or follows):
                        writer.update(memory=[*writer.meta.get("memory", []), *memory_parts(runner, suite)])
                    if not (follows or any(entry["suite"] == suite.name for entry in writer.meta.get("costs", []))):
                        also = "" if swept else ", and drafting without a stop in doubt"
                        live.say(f"{suite.name}: pricing single passes{also}")
                        writer.update(
                            costs=[*writer.meta.get("costs", []), *pass_costs(runner, suite)],
                            without_stop=[
                                *writer.meta.get("without_stop", []),
                                *([] if swept else acceptance_without_stop(runner, suite)),
                            ],
                        )  # fmt: skip
                    known = any(part["suite"] == suite.name for part in writer.meta.get("kernels", []))
                    if config.phases and not (known or swept or follows):
                        live.say(f"{suite.name}: looking for the device's share in the time")
                        writer.update(kernels=[*writer.meta.get("kernels", []), *kernel_shares(runner, suite)])
                    runner.warm_up(suite, config.warmup)  # last, so that every method comes to the samples alike
                    if stop is not None:
                        stop.start()
                    with engine.measuring():
                        runner.run(suite, config.repeats, writer, after, stop, invocation)
                    if stop is not None:
                        writer.update(stopped={**writer.meta.get("stopped", {}), suite.name: stop.summary()})
            if config.energy is not None:
                _measure_energy(config.energy, suites, runner, writer, live)
        except DeviceLost:
            refiner = None  # what it has learned is on the device, and cannot be saved
            raise
        finally:  # an interrupted run must record its conditions, too; a resumed one keeps those of both parts
            before = [notice for notice in writer.meta["warnings"] or [] if notice["name"] in RECORDED]
            new = [notice for notice in [*conditions.notices(), *engine.notices()] if notice not in before]
            seen = [*writer.meta.get("conditions", []), conditions.summary()]
            outside = {"model_load_s": load_s, "first_call_s": runner.first_call_s}
            writer.update(warnings=before + new, conditions=seen, outside=[*writer.meta.get("outside", []), outside])
            if engine.name == Graphs.name:
                writer.update(engine=engine.described())
            if engine.parts:
                writer.update(compiled=engine.parts.described())
            if refiner is not None:
                refiner.save(writer.folder / "refined")
                writer.update(refined=refiner.summary())


def _built(
    config: RunConfig, specs: Sequence[MethodSpec], target: Any, clock: Clock
) -> tuple[list[Any], list[dict[str, str]]]:
    """The methods, built on the target; and those that `all` stood for and that do not fit, with the reason."""
    from fastvlm_bench.decoding.build import build

    methods: list[Any] = []
    left_out: list[dict[str, str]] = []
    loaded: dict[Path, Any] | None = None if config.refine else {}  # a draft that learns belongs to one method
    for spec in specs:
        try:
            built = build(spec, target, drafts_of(config), clock, loaded)
            if config.batch_size > 1 and not built.method.takes_batches:
                raise UsageError(f"{spec.label} decodes one sequence at a time; use --batch-size 1")
        except UsageError as error:
            if not config.optional(spec):
                raise
            left_out.append({"label": spec.label, "reason": str(error)})
        else:
            same = next((other for other in methods if other.described["spec"] == built.described["spec"]), None)
            if same is not None:
                raise UsageError(f"methods '{same.label}' and '{built.label}' are the same by the advice of the draft "
                                 f"({built.described['spec']}); name it once")  # fmt: skip
            methods.append(built)
    return methods, left_out


def _refiner(target: Any, methods: Any) -> Any:
    from fastvlm_bench.training.refine_run import RunRefiner

    return RunRefiner(target, methods)


def _measure_energy(seconds: float, suites: Sequence[Suite], runner: Any, writer: Writer, live: Live) -> None:
    """Measure energy, after all timed samples, for suites that have none yet; or record why it cannot be measured.

    seconds: how long a block lasts.
    """
    from fastvlm_bench.measuring.apart import energy_blocks

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


def _stop_rule(config: RunConfig, suite: Suite, writer: Writer, clock: Clock) -> StopRule | None:
    """The suite's stop rule; None without --until-width and --budget.

    It is given what was measured before the run was resumed. That may already be enough, so check `by`.
    """
    if config.until_width is None and config.budget is None:
        return None
    rule = StopRule(
        REFERENCE, clock, config.until_width, config.budget, sampled=bool(config.temperature), repeats=config.repeats,
        images={sample.sample_id: sample.image_id for sample in suite.samples},
    )  # fmt: skip
    groups: dict[tuple[Any, int], list[dict[str, Any]]] = {}
    for line in read_run(writer.folder).lines:
        if line["suite"] == suite.name and (suite.name, line["sample_id"], line["repeat"]) in writer.completed:
            number = batch_of(line)
            groups.setdefault((line["sample_id"] if number is None else number, line["repeat"]), []).append(line)
    rule.add(groups.values())
    return rule


def _rendered(suites: Sequence[dict[str, Any]], target: Any) -> list[dict[str, Any]]:
    """The suites of run.json; `rendered` adds to each sample the exact text that the model reads.

    In a later turn, {answer N} stands for the method's own answer to turn N.
    """
    return [{**suite, "samples": list(_texts(suite["samples"], target))} for suite in suites]


def _texts(samples: Sequence[dict[str, Any]], target: Any) -> Iterator[dict[str, Any]]:
    before: dict[str, list[tuple[str, str]]] = {}
    for sample in samples:
        earlier = before.setdefault(sample["dialog"], []) if "dialog" in sample else []
        asked = (sample.get("images", 1), tuple(earlier)) if earlier or "images" in sample else ()
        yield {**sample, "rendered": target.render(sample["prompt"], *asked)}
        earlier.append((sample["prompt"], f"{{answer {len(earlier) + 1}}}"))
