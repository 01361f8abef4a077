"""In half precision, a run measures `control` beside its methods: how often numerics alone change an output."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastvlm_bench.config import RunConfig
from fastvlm_bench.method_spec import ADVISED, CONTROL, METHODS, MethodSpec

HALF = ("bfloat16", "float16")


def as_begun(spec: MethodSpec, recorded: Sequence[Mapping[str, Any]]) -> MethodSpec:
    """The method with the γ and stop_below that its run began with, whatever its draft advises by now."""
    told = next(method for method in recorded if method["label"] == spec.label).get("options") or {}
    return spec.fixed({key: told[key] for key in ADVISED if key in told})


def measured_specs(config: RunConfig, dtype: str, recorded: Sequence[Mapping[str, Any]]) -> tuple[MethodSpec, ...]:
    """The methods of a run on a model of `dtype`: those asked for, and `control` where it says something.

    It does in half precision, for greedy outputs of a lossless method that drafts, unless --no-control or a control
    of the user's own. recorded: `methods` of run.json. A run that has begun goes on with the methods it began with.
    """
    specs = config.specs
    if any("spec" in method for method in recorded):
        begun = {method["label"] for method in recorded}
        wanted, specs = CONTROL in begun, tuple(as_begun(spec, recorded) for spec in specs if spec.label in begun)
    else:
        drafts = any(spec.lossless and "gamma" in METHODS[spec.name].options for spec in specs)
        wanted = config.control and dtype in HALF and not config.temperature and drafts
    if not wanted or any(spec.name == CONTROL for spec in specs):
        return specs
    return (*specs, MethodSpec.parse(CONTROL, gamma=config.gamma))
