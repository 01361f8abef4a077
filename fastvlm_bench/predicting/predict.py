"""What `predict` finds, as plain values: the page and the JSON show the same."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fastvlm_bench.drafts.manifest import MANIFEST, Manifest, read_manifest
from fastvlm_bench.drafts.speculation_profile import read_profile
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.memory_need import BITS
from fastvlm_bench.predicting.asked import Asked
from fastvlm_bench.predicting.configs import read_config
from fastvlm_bench.predicting.devices import Device
from fastvlm_bench.predicting.passes import ELEMENT_BYTES, Drafting, Load
from fastvlm_bench.predicting.structure import RAW, Structure, check_exits, check_head, count, count_head
from fastvlm_bench.predicting.surface import MOST_BATCH, Acceptance, Surface, gain_ends, memory

WANTED = (1.0, 1.25, 1.5, 2.0)
"""Speed-ups for which the least α is told."""
TYPICAL_ALPHA = 0.8
LEFT_OUT = (
    "launching kernels and Python between them, kernels that miss the peaks, processing the image and the prompt "
    "(time to first token), sampling, padding in batches, activations; cross-attention to an image's or encoder's KV"
)
Found = dict[str, Any]


def predict(asked: Asked, device: Device) -> Found:
    """The prediction. UsageError, in one line, for what does not go together or cannot be known without weights."""
    manifest = read_manifest(asked.draft) if asked.draft is not None and (asked.draft / MANIFEST).exists() else None
    rates = read_profile(asked.draft) if asked.draft is not None else None
    if asked.draft is not None and manifest is None and rates is None:
        read_manifest(asked.draft)  # says what is missing
    head = manifest.head if manifest else RAW if asked.head is None else asked.head
    if manifest is not None:
        _check_alone(asked, manifest)
    check_head(head)
    config = read_config(asked.model, trust_remote_code=asked.trust_remote_code, offline=asked.offline)
    dtype = _dtype(asked, getattr(config, "dtype", None), device)
    structure, model = count(config, asked.model, trust_remote_code=asked.trust_remote_code)
    exits: Sequence[int] = asked.exits or _typical_exits(len(structure.layers))
    if manifest is not None:
        _check_fits(asked, manifest, structure)
        exits = (manifest.exit_layer,)
    check_exits(exits, structure)
    load = Load(structure, device, dtype, BITS.get(asked.quantize or "", 8 * ELEMENT_BYTES[dtype]), asked.batches[0],
                asked.contexts[0])  # fmt: skip
    options: Mapping[str, int] = manifest.head_options if manifest else {}
    vocabulary = manifest.draft_vocabulary if manifest else 0
    drafts = {e: Drafting(load, e, count_head(model, structure, head, e, **options), vocabulary) for e in exits}
    shown = drafts[exits[0] if asked.exits or manifest else exits[len(exits) // 2]]
    at = _acceptance(asked, manifest, rates)
    surface = Surface(shown)
    best = surface.best(at)
    return {
        "model": asked.model, "model_type": config.model_type, "layers": len(structure.layers),
        "parameters": structure.parameters, "dtype": dtype, "quantize": asked.quantize,
        "device": {**asdict(device), "flops": device.flops.get(dtype)}, "exit_layer": shown.exit_layer, "head": head,
        "draft": str(asked.draft) if asked.draft else None, "acceptance": asdict(at), "batch": load.batch,
        "context": load.context, "best": asdict(best),
        "passes": {
            "standard": asdict(shown.standard), "draft": asdict(shown.draft),
            "verify": {gamma: asdict(shown.verify(gamma)) for gamma in sorted({*asked.gammas, best.gamma})},
        },
        "surface": {
            alpha: {"best": asdict(surface.best(Acceptance(alpha))),
                    **{gamma: surface.speedup(Acceptance(alpha), gamma) for gamma in asked.gammas
                       if gamma < len(surface.round_s)}}
            for alpha in asked.alphas
        },
        "exits": [_exit(drafting, at) for drafting in drafts.values()],
        "loads": [_load(shown, batch, context, at) for context in asked.contexts for batch in asked.batches],
        "memory": asdict(memory(shown)), "left_out": LEFT_OUT,
    }  # fmt: skip


def _exit(drafting: Drafting, at: Acceptance) -> Found:
    """One exit: what a draft costs, the α that it needs, and where its gain ends."""
    surface, fits = Surface(drafting), memory(drafting).batch
    most = MOST_BATCH if fits is None else max(1, min(fits, MOST_BATCH))
    return {
        "exit_layer": drafting.exit_layer, "draft_s": drafting.draft.seconds,
        "draft_share": drafting.draft.seconds / drafting.standard.seconds,
        "least_alpha": {wanted: surface.least_alpha(wanted) for wanted in WANTED},
        "best": asdict(surface.best(at)), "gain_ends_at_batch": gain_ends(drafting, at, most),
        "batches_looked_at": most,
    }  # fmt: skip


def _load(shown: Drafting, batch: int, context: int, at: Acceptance) -> Found:
    """One batch size and context of the exit that is shown."""
    own = replace(shown, load=replace(shown.load, batch=batch, context=context))
    best, held = Surface(own).best(at), memory(own)
    return {
        "batch": batch, "context": context, "standard": asdict(own.standard), "draft": asdict(own.draft),
        "verify": asdict(own.verify(best.gamma)), "best": asdict(best),
        "memory_bytes": held.weights + held.draft + batch * (held.kv + held.draft_kv),
        "fits": None if held.batch is None else batch <= held.batch,
    }  # fmt: skip


def _typical_exits(layers: int) -> list[int]:
    """An eighth of the layers is in the middle: the first layer, a sixteenth, an eighth, a quarter, half."""
    return sorted({max(1, layers // share) for share in (layers, 16, 8, 4, 2)} & set(range(1, layers)))


def _acceptance(asked: Asked, manifest: Manifest | None, rates: Mapping[str, Any] | None) -> Acceptance:
    """What prices the tables: one α that the user gives, else the draft's own, else a typical one."""
    if len(asked.alphas) == 1:
        return Acceptance(asked.alphas[0])
    if rates is not None:
        own = tuple(rates["conditional_acceptance_rates"])
        return Acceptance(own[0], own)
    if manifest is not None and manifest.validation:
        return Acceptance(sum(manifest.validation.values()) / len(manifest.validation))
    return Acceptance(TYPICAL_ALPHA)


def _dtype(asked: Asked, stored: object, device: Device) -> str:
    """The number format: as asked, else the configuration's own, else what the device is best at."""
    dtype = asked.dtype or str(stored or "bfloat16").removeprefix("torch.")
    if dtype in device.flops:
        return dtype
    if (
        asked.dtype is None and device.flops
    ):  # a device without bfloat16 decodes in float16, one without both in float32
        return next(kind for kind in ("float16", "float32", *device.flops) if kind in device.flops)
    raise UsageError(f"no FLOP/s of {device.name} in {dtype} are known: --dtype must be one of "
                     f"{', '.join(device.flops)}, or give --tflops")  # fmt: skip


def _check_alone(asked: Asked, manifest: Manifest) -> None:
    """UsageError unless it is a draft at an exit, and no option contradicts it."""
    folder = Path(str(asked.draft)).name
    if manifest.at_the_end:
        raise UsageError(f"draft {folder} has {manifest.head} heads, which run no early layers; predict prices "
                         "drafts at an exit")  # fmt: skip
    for option, given, mine in (("--exit-layer", asked.exits, (manifest.exit_layer,)),
                                ("--head", asked.head is not None and (asked.head,), (manifest.head,))):  # fmt: skip
        if given and tuple(given) != mine:
            raise UsageError(f"{option} {','.join(map(str, given))} contradicts draft {folder} ({manifest.head}, exit "
                             f"{manifest.exit_layer}); leave it out")  # fmt: skip


def _check_fits(asked: Asked, manifest: Manifest, structure: Structure) -> None:
    """UsageError unless the draft was made for a model of this structure."""
    folder = Path(str(asked.draft)).name
    for name, own, wanted in (("layers", manifest.target_layers, len(structure.layers)),
                              ("width", manifest.target_width, structure.width),
                              ("vocabulary", manifest.target_vocabulary, structure.vocabulary)):  # fmt: skip
        if own != wanted:
            raise UsageError(f"draft {folder} was made for a model of {name} {own}, and '{asked.model}' has {wanted}; "
                             "give the model that it was trained for")  # fmt: skip
