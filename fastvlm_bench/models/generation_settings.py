"""What of a checkpoint's generation settings is in force in a run, and what of them the run overrides.

`generate` takes from `generation_config.json` whatever it is not told otherwise, for every method alike.
"""

import json
from collections.abc import Mapping
from typing import Any

from fastvlm_bench.sampling import NEVER_EOS

SETTINGS: dict[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "suppress_tokens": None,
    "begin_suppress_tokens": None, "bad_words_ids": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "sequence_bias": None, "exponential_decay_length_penalty": None, "guidance_scale": 1.0, "stop_strings": None,
    "watermarking_config": None, "renormalize_logits": False, "remove_invalid_values": False,
}  # fmt: skip
"""Setting -> the value that changes nothing: what may change tokens whether they are chosen or drawn."""
SAMPLING: dict[str, Any] = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}  # fmt: skip
"""The same of what applies only where tokens are drawn."""
SEARCH: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "prompt_lookup_num_tokens": None, "penalty_alpha": None, "dola_layers": None,
    "early_stopping": False, "length_penalty": 1.0, "use_mtp": False, "max_time": None, "token_healing": False,
}  # fmt: skip
"""How tokens are found: the method and the run decide that, so the checkpoint's own wish is never in force."""


def generation_settings(own: Any, told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entry `generation` of run.json: {"in_force": {setting: value}, "overridden": {setting: value asked for}}.

    own: the checkpoint's `GenerationConfig`. told: what a run gives to `generate` (`RunConfig.generation`); all else is
    the checkpoint's. in_force has do_sample, num_beams and eos_token_id always, of all others those whose value may
    change tokens. overridden has what the checkpoint asked for and does not get: do_sample in a greedy run, and
    temperature, top_k, top_p with it.
    """
    asked = {name: getattr(own, name, None) for name in (*SETTINGS, *SAMPLING, *SEARCH, "eos_token_id")}
    used = {**asked, **SEARCH, **told}
    sampled = bool(used["do_sample"])
    in_force = {"do_sample": sampled, "num_beams": used["num_beams"], "eos_token_id": _ends(used["eos_token_id"])}
    overridden: dict[str, Any] = {}
    for name, neutral in (SETTINGS | SAMPLING).items():
        applies = sampled or name not in SAMPLING
        if applies and changes(used[name], neutral):
            in_force[name] = used[name]
        if changes(asked[name], neutral) and not (applies and used[name] == asked[name]):
            overridden[name] = asked[name]
    for name, neutral in SEARCH.items():
        if changes(asked[name], neutral) and used[name] != asked[name]:
            overridden[name] = asked[name]
    if asked["eos_token_id"] is not None and _ends(asked["eos_token_id"]) != in_force["eos_token_id"]:
        overridden["eos_token_id"] = _ends(asked["eos_token_id"])
    plain: dict[str, dict[str, Any]] = json.loads(
        json.dumps({"in_force": in_force, "overridden": overridden}, default=_as_text)
    )
    return plain


def changes(value: Any, neutral: Any) -> bool:
    """Whether a setting with this value may change tokens. neutral: the value that does not."""
    return value is not None and value != neutral and not (isinstance(value, list | dict) and not value)


def _ends(eos: Any) -> list[int]:
    """The ids of end tokens, sorted; [] where none ends an answer (`--ignore-eos`)."""
    found = [eos] if isinstance(eos, int) else [] if eos is None else list(eos)
    return sorted({int(token) for token in found} - {NEVER_EOS})


def _as_text(value: Any) -> Any:
    """A setting that JSON has no type for: a configuration of its own (watermarks), or what it prints as."""
    return value.to_dict() if hasattr(value, "to_dict") else str(value)
