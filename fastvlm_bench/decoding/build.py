"""Builds a method from its specification: finds its draft and checks that the draft fits the target."""

import hashlib
import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastvlm_bench.decoding.advice import advised
from fastvlm_bench.drafts.imitation_head import WEIGHTS, Draft
from fastvlm_bench.drafts.manifest import choose_draft
from fastvlm_bench.drafts.skip_set import choose_skip_set
from fastvlm_bench.engine.method import Method
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import METHODS, MethodSpec
from fastvlm_bench.models.load import Target
from fastvlm_bench.models.names import as_recorded


@dataclass
class Built:
    """A method ready to decode. `described` is its entry of `methods` in run.json."""

    label: str
    method: Method
    lossless: bool
    exit_layer: int | None
    described: dict[str, Any]


def method_class(name: str) -> type[Method]:
    """The one subclass of Method in the file of this name. UsageError where there is none, or several."""
    module = METHODS.module(name)
    own = [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__]
    found = [kind for kind in own if issubclass(kind, Method)]
    if len(found) != 1:
        raise UsageError(f"{METHODS.path(name)} has {len(found)} subclasses of Method; method '{name}' needs one")
    return found[0]


def check_options(name: str, kind: type[Method]) -> None:
    """UsageError for an option that the file declares and the constructor does not take: it would have no effect."""
    taken, options = inspect.signature(kind).parameters, METHODS[name].options
    by_draft = {"draft", "head", "exit_layer"} if METHODS[name].trained else set()
    needed = [*(option for option in options if option not in by_draft), *(["draft"] if by_draft else [])]
    if lacking := [option for option in needed if option not in taken]:
        raise UsageError(f"{METHODS.path(name)}: METHOD has the option '{lacking[0]}', but {kind.__name__} has no "
                         "parameter of that name")  # fmt: skip


def build(
    spec: MethodSpec, target: Target, drafts: Path | None, clock: Clock, loaded: dict[Path, Draft] | None = None
) -> Built:
    """Build one method on a loaded target. UsageError where no draft fits, or the exit layer is out of range.

    drafts: a draft folder or a folder of draft folders; None where there is none. The parameters of a method's
    constructor are named like its options; it may also take `draft`, `clock` and `target`. loaded: the drafts of
    methods built before, which are shared, and to which this one's is added; None loads it anew.
    """
    options: dict[str, Any] = dict(spec.options)
    advice: dict[str, Any] = {}
    kind, draft, named, count = method_class(spec.name), None, dict[str, str](), len(target.layers)
    skip_set: Path | None = None
    check_options(spec.name, kind)
    if METHODS[spec.name].trained:
        wish = {key: options.get(key) for key in ("head", "exit_layer", "draft")}
        folder = choose_draft(drafts, model=target.id, kinds=METHODS[spec.name].heads, **wish)
        draft = loaded.get(folder) if loaded is not None else None
        draft = draft or Draft.load(folder, target.model)
        if loaded is not None:
            loaded[folder] = draft
        named = {"name": folder.resolve().name, "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}
        assert draft.manifest is not None
        options["head"] = draft.manifest.head
        if not draft.manifest.at_the_end:
            options["exit_layer"] = draft.exit_layer
        advice = advised(spec, draft.manifest, folder)
        spec, options = replace(spec, options={**spec.options, **advice}), {**options, **advice}
    elif METHODS[spec.name].skips:
        skip_set = choose_skip_set(drafts, model=target.id, draft=options.get("draft"), layers=count)
        options["draft"] = as_recorded(skip_set)
    elif not 1 <= options.get("exit_layer", 1) < count:
        raise UsageError(f"exit_layer={options['exit_layer']} is not within 1 .. {count - 1} of {target.id}")
    read = draft or skip_set
    given = {"target": target, "clock": clock, "drafts": drafts, **options, **({"draft": read} if read else {})}
    method = kind(**{name: given[name] for name in inspect.signature(kind).parameters if name in given})
    # What the user left to the method is recorded, too.
    options |= {
        key: value for key in METHODS[spec.name].options
        if options.get(key) is None and isinstance(value := getattr(method, key, None), int | float | str)
    }  # fmt: skip
    described = {
        "label": spec.label, "name": spec.name, "spec": str(spec), "lossless": METHODS[spec.name].lossless,
        "options": options, "draft": {**vars(draft.manifest), **named} if draft and draft.manifest else method.drafter,
        "extra_bytes": draft.weight_bytes if draft else method.weight_bytes, "stops": method.stops,
    }  # fmt: skip
    if advice:
        described["advised"] = advice
    if not METHODS.own(spec.name):  # no commit of this project names its code
        described["file_sha256"] = hashlib.sha256(METHODS.path(spec.name).read_bytes()).hexdigest()
    return Built(spec.label, method, METHODS[spec.name].lossless, options.get("exit_layer"), described)
