"""The checks that need no model, which therefore come first: names, files, images, drafts, exits, changed data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvlm_bench.config import RunConfig
from fastvlm_bench.drafts.fitting import check_before_loading
from fastvlm_bench.drafts.manifest import choose_draft, draft_folder
from fastvlm_bench.drafts.skip_set import choose_skip_set
from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import METHODS
from fastvlm_bench.metrics import METRICS, java_scorers, parse_variants
from fastvlm_bench.metrics import load as load_metric
from fastvlm_bench.models.draft_model_files import check_draft_model
from fastvlm_bench.models.names import check_model_name, default_drafts, layer_count
from fastvlm_bench.records.mixing import changed_suite
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.shares import shared
from fastvlm_bench.suites.suite import Sample, Suite, check_images, image_digests, images_sha256, load_suite
from fastvlm_bench.visible import note

LEFT_OUT = ("samples", "documents", "oddities", "turns", "most_turns")
"""Fields of a suite that its entry in run.json has otherwise, or has not."""


def check(config: RunConfig, images: bool = True) -> list[Suite]:
    """Check names, files, images, drafts, exit layers and the output folder. Returns the suites; UsageError.

    images: False where another process has decoded them.
    """
    config.validate()
    check_model_name(config.model)
    layers = layer_count(config.model)
    for spec in config.specs:
        if config.optional(spec):
            continue
        if config.batch_size > 1 and int(spec.options.get("topk", 1)) > 1:
            raise UsageError(f"method '{spec.label}' drafts a tree, which is verified for one sequence at a time; give "
                             "it topk=1, or leave --batch-size out")  # fmt: skip
        exit_layer = spec.options.get("exit_layer")
        if layers is not None and isinstance(exit_layer, int) and exit_layer >= layers:
            raise UsageError(f"exit_layer={exit_layer} is not within 1 .. {layers - 1} of model '{config.model}'")
        if isinstance(second := spec.options.get("model"), str):
            check_draft_model(spec.name, second, config.model)
        if METHODS[spec.name].trained:
            choose_draft(drafts_of(config), model=config.model, kinds=METHODS[spec.name].heads, tell=note,
                         **_wish(spec.options))  # fmt: skip
        if METHODS[spec.name].skips:
            draft = spec.options.get("draft")
            assert draft is None or isinstance(draft, str)
            choose_skip_set(drafts_of(config), model=config.model, draft=draft, layers=layers)
        for doubt in check_before_loading(spec.name, spec.options, config.model, config.offline):
            note(str(doubt))
    if config.java:
        if missing := java_scorers.check():
            note(missing)
        if not any("cider_d" in read_definition(name).metrics for name in config.suites):
            raise UsageError("--java has no effect: METEOR and SPICE are of captions, and none of "
                             f"{', '.join(config.suites)} asks for them; leave it out")  # fmt: skip
    suites = load_suites(config)
    for suite in suites:
        for metric in suite.metrics:
            load_metric(metric)
        if images:
            check_images(suite)
    return suites


def load_suites(config: RunConfig) -> list[Suite]:
    """The suites of a run. A chosen metric variant goes to all suites with that metric; UsageError if none has it."""
    wanted = parse_variants(config.variants)
    added = [METRICS.known(text) for text in config.metrics]
    for name in config.suites:
        if config.max_quality_drop is not None and not (added or read_definition(name).metrics):
            raise UsageError(f"--max-quality-drop has no effect: suite {name} has no metric; add one by --metric NAME, "
                             "or leave it out")  # fmt: skip
    own = {name: {m: v for m, v in wanted.items() if m in (*read_definition(name).metrics, *added)}
           for name in config.suites}  # fmt: skip
    for metric in wanted:
        if not any(metric in chosen for chosen in own.values()):
            load_metric(metric)  # refuses a name that no metric has
            raise UsageError(f"--variant {metric}=…: none of {', '.join(config.suites)} is scored with {metric}")
    loaded = [
        load_suite(name, split=config.split, data=config.data, limit=config.limit, offline=config.offline,
                   prompt_set=config.prompt_set, prompt=config.prompt, variants=own[name], java=config.java,
                   metrics=added, ranking=True) for name in config.suites
    ]  # fmt: skip
    return [shared(suite, config.share, config.batch_size) for suite in loaded]


def drafts_of(config: RunConfig) -> Path | None:
    """The folder in which a run looks for drafts; None where its model has none."""
    return draft_folder(config.draft, config.offline) if config.draft else default_drafts(config.model)


def _wish(options: Any) -> dict[str, Any]:
    return {key: options.get(key) for key in ("head", "exit_layer", "draft")}


def described_suite(suite: Suite, config: RunConfig) -> dict[str, Any]:
    """The entry of a suite in run.json."""
    images = image_digests(suite) if config.shard else {}
    samples = [
        {"sample_id": s.sample_id, "image_id": s.image_id, "prompt": s.prompt, "references": list(s.references),
         **({"group": s.group} if s.group else {}),
         **({"question": s.question} if s.question and s.question != s.prompt else {}),
         **({"dialog": s.dialog, "turn": s.turn} if s.dialog else {}),
         **({"images": len(s.image_paths)} if s.more_images else {}),
         **(_files(s, images) if config.shard else {})}
        for s in suite.samples
    ]  # fmt: skip
    fields = {key: value for key, value in vars(suite).items() if key not in LEFT_OUT}
    limit = config.max_new_tokens or suite.max_new_tokens
    fields |= {"turns": suite.turns} if suite.turns else {}
    return {**fields, "metrics": list(suite.metrics), "max_new_tokens": limit, "images_sha256": images_sha256(suite),
            "samples": samples}  # fmt: skip


def _files(sample: Sample, digests: Mapping[Path, str]) -> dict[str, Any]:
    """Name and digest of a sample's images, of which `merge` makes the digest of all."""
    first, *more = [(path.name, digests[path]) for path in sample.image_paths]
    found: dict[str, Any] = dict(zip(("image_file", "image_sha256"), first, strict=True))
    if more:
        found |= {"more_image_files": [name for name, _ in more], "more_image_sha256": [digest for _, digest in more]}
    return found


def described_shard(config: RunConfig) -> dict[str, Any]:
    """The entry of run.json that says which share of the samples it has; {} where it has all."""
    return {"shard": {"number": config.share.first + 1, "of": config.share.step}} if config.shard else {}


def check_same_data(meta: Mapping[str, Any], suites: Sequence[Suite], config: RunConfig) -> None:
    """UsageError if a suite has changed since the run was begun that is to be resumed: data, prompts or limits."""
    if config.sha256() != meta.get("config_sha256"):
        return  # another limit, say: `RunWriter.resume` refuses it by the option's name
    recorded = {suite["name"]: suite for suite in meta["suites"]}
    for suite in suites:
        before = recorded.get(suite.name)  # None for another list of suites, which `RunWriter.resume` refuses
        if before is None:
            continue
        now = described_suite(suite, config)
        images = before.get("images_sha256")
        if before["sha256"] != now["sha256"] or (images and images != now["images_sha256"]):
            what = "annotations, or names or sizes of images," if before["sha256"] != suite.sha256 else "images"
            raise UsageError(f"the {what} of {suite.name} have changed since {meta['run_id']} was begun; put them "
                             "back, or start a new run")  # fmt: skip
        if changed := changed_suite(before, now):
            raise UsageError(f"{suite.name} has changed since {meta['run_id']} was begun ({'; '.join(changed)}); put "
                             "it back as it was, or start a new run")  # fmt: skip
