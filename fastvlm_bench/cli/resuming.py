"""`run --resume RUN`: what was not typed is as the run recorded it, so that only what was typed can differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import RUN_FILE, read_meta

FIELDS = {"suite": "suites", "method": "methods", "variant": "variants", "metric": "metrics", "revision": "model"}
"""Parameter of the command -> field of the configuration, where the two have different names."""


def as_recorded(context: Any, options: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """The options of a run, of which those that were not typed are the ones that the run in `folder` recorded.

    What a file of --config says counts as typed. The options as they are, where `folder` is None or holds no run (a
    sweep's folder holds several). BenchError where it holds one that cannot be read, or where --out names another place.
    """
    if folder is None or not (folder / RUN_FILE).is_file():
        return dict(options)
    if _typed(context, "out") and Path(options["out"]).resolve() not in folder.resolve().parents:
        raise UsageError(
            f"--out {options['out']} would get nothing: --resume goes on in {folder}; leave one of them out"
        )
    typed = {FIELDS.get(name, name) for name in context.params if _typed(context, name)}
    recorded = read_meta(folder)["config"] | {"out": str(folder.parent), "resume": None}
    return {**options, **recorded, **{name: value for name, value in options.items() if name in typed}}


def _typed(context: Any, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
