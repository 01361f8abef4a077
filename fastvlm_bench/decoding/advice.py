"""What a draft's manifest advises for the options that a user did not type."""

from pathlib import Path

from fastvlm_bench.drafts.manifest import MANIFEST, Manifest
from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import ADVISED, METHODS, MethodSpec, Value


def advised(spec: MethodSpec, manifest: Manifest, folder: Path) -> dict[str, Value]:
    """Option -> value, for the options of `ADVISED` that were not typed and that are advised.

    They belong together: a method that lacks one, as `adaptive` lacks a threshold, gets none. UsageError for a value
    that the method does not take.
    """
    found: dict[str, Value] = {}
    if not METHODS[spec.name].options.keys() >= set(ADVISED):
        return found
    for key in ADVISED:
        if key in spec.typed or key not in manifest.advice:
            continue
        option = METHODS[spec.name].options[key]
        value = option.parse(f"{manifest.advice[key]:g}")
        if value is None:
            raise UsageError(f"{folder / MANIFEST}: the advice of {key} is {manifest.advice[key]}; it must be "
                             f"{option.allowed}; mend it, or give {key}= yourself")  # fmt: skip
        found[key] = value
    return found


def whence(label: str, draft: str, manifest: Manifest, options: dict[str, Value]) -> str:
    """A sentence that says where options come from."""
    told = ", ".join(f"{'γ' if key == 'gamma' else key} {value}" for key, value in options.items())
    by = (
        f"measured by tune on {manifest.tuned['suite']}"
        if manifest.tuned.get("suite")
        else "predicted when it was trained"
    )
    return f"{label}: {told} by the advice of draft {draft} ({by}); give an option to overrule it"
