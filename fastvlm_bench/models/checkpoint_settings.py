"""What a checkpoint's generation_config.json may decide: each of its fields is honoured, left to the run, or refused.

`settle` does it once, when a model is loaded, so that every generation after it, of every method and in every check and
training, has the same settings: those of `HONOURED`, and the run's own for everything in `DECIDED`.
"""

import copy
import functools
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList, StopStringCriteria

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.generation_settings import SAMPLING, SEARCH, SETTINGS, changes

FILE = "generation_config.json"
TOKENS = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")
ASSISTANT = (
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
    "assistant_ensemble_weight", "speculation_type",
)  # fmt: skip
"""What a model asks for where transformers' own loop drafts with it."""
LARGEST_ID = int(torch.iinfo(torch.long).max)
DRAWN = tuple(field for field in SAMPLING if field not in ("temperature", "top_k", "top_p"))
"""What is in force where tokens are drawn, and nothing in a greedy run."""
HONOURED = (*SETTINGS, *DRAWN, *TOKENS, *ASSISTANT)
_BEAMS, _DRAWN = "a run searches no beams", "--temperature, --top-k and --top-p say it"
_CACHE, _RETURNS = "the method chooses its cache", "a run takes token ids alone"
DECIDED: dict[str, str] = {
    "do_sample": _DRAWN, "temperature": _DRAWN, "top_k": _DRAWN, "top_p": _DRAWN,
    "num_beams": _BEAMS, "early_stopping": _BEAMS, "length_penalty": _BEAMS, "num_return_sequences": _BEAMS,
    "num_beam_groups": _BEAMS, "diversity_penalty": _BEAMS, "constraints": _BEAMS, "force_words_ids": _BEAMS,
    "low_memory": _BEAMS, "penalty_alpha": "contrastive search is a method of its own",
    "dola_layers": "DoLa is a method of its own", "prompt_lookup_num_tokens": "give -m prompt-lookup",
    "use_mtp": "give -m mtp or hf-mtp", "max_length": "--max-new-tokens or the suite says it",
    "max_new_tokens": "--max-new-tokens or the suite says it", "max_time": "no answer ends by the clock",
    "token_healing": "the prompt is the suite's", "use_cache": _CACHE, "cache_implementation": _CACHE,
    "cache_config": _CACHE, "max_cache_len": _CACHE, "prefill_chunk_size": _CACHE, "compile_config": _CACHE,
    "disable_compile": _CACHE, "continuous_batching_config": _CACHE, "output_attentions": _RETURNS,
    "output_hidden_states": _RETURNS, "output_scores": _RETURNS, "output_logits": _RETURNS,
    "return_dict_in_generate": _RETURNS,
}  # fmt: skip
"""Field -> who decides it instead of the checkpoint."""
QUIET = ("do_sample", "temperature", "top_k", "top_p", "max_length", "max_new_tokens", "use_cache", "disable_compile",
         *(field for field, who in DECIDED.items() if who == _RETURNS))  # fmt: skip
"""Fields of DECIDED that a run does not speak of: very many checkpoints have them, or they change no answer."""
NEUTRAL = SAMPLING | SEARCH
_STOPS = "adds_stop_strings"
NGRAMS, LONGEST_NGRAM = ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), 2**16
"""transformers makes a list of this length for each prompt: a slip of some zeros fills the memory, with no word."""
NEED_EOS = ("exponential_decay_length_penalty", "min_length", "min_new_tokens")
KNOWN = {*HONOURED, *DECIDED, "transformers_version", "_from_model_config"}
"""Every field that transformers has today; a test compares."""


@dataclass(frozen=True)
class Settled:
    """asked: the checkpoint's own settings. notes: what of them is left to the run, and who decides it instead.

    criteria: what ends an answer besides EOS and the limit; every `generate` of the model has them already.
    """

    asked: Any
    notes: tuple[str, ...] = ()
    criteria: tuple[Any, ...] = ()


def settle(model: Any, processor: Any, name: str, *, drafts: bool = False) -> Settled:
    """Give the model settings that hold for every generation. UsageError where one cannot be honoured.

    drafts: it drafts for a target, whose output has an end of its own: its stop strings are left out, without a note.
    """
    asked = getattr(model, "generation_config", None)
    if asked is None:
        return Settled(None)
    settled, left = copy.deepcopy(asked), dict[str, list[str]]()
    for field, who in DECIDED.items():
        value = getattr(settled, field, None)
        if field not in QUIET and value is not None and changes(value, NEUTRAL.get(field, False)):
            left.setdefault(who, []).append(f"{field}={value!r}")
        setattr(settled, field, None)
    _check_tokens(vars(settled), name)
    strings, settled.stop_strings = getattr(settled, "stop_strings", None), None
    criteria = (_criterion(processor, strings, name),) if strings and not drafts else ()
    vars(model).pop("generate", None)
    if criteria:
        vars(model)["generate"] = _stopping(model, criteria)
    model.generation_config = settled
    _check_processors(model, settled, name)
    notes = [f"{FILE} of model '{name}' asks for {', '.join(told)}: left out, {who}" for who, told in left.items()]
    return Settled(asked, () if drafts else tuple(notes), criteria)


def check_file(source: str, revision: str | None, name: str) -> None:
    """UsageError where generation_config.json is no JSON object, which transformers would read as none, or where the
    ids of its special tokens are none."""
    found: Any = (
        Path(source) / FILE if Path(source).is_dir() else try_to_load_from_cache(source, FILE, revision=revision)
    )
    if not isinstance(found, str | Path) or not Path(found).is_file():
        return
    try:
        told = json.loads(Path(found).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = None
    if not isinstance(told, dict):
        raise UsageError(
            f"model '{name}': {found} is damaged, it is no JSON object; copy it anew, or remove it to decode without "
            "these settings"
        )
    _check_tokens(told, name)
    for field in (*SETTINGS, *DRAWN, *ASSISTANT):
        if told.get(field) is not None:
            try:
                GenerationConfig(**{field: told[field]})
            except Exception as error:  # whatever a wrong value makes transformers raise
                raise _refused(name, field, told[field], f"which transformers refuses ({_first(error)})") from None


def _first(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _refused(name: str, field: str, value: Any, why: str) -> UsageError:
    return UsageError(f"{FILE} of model '{name}' has {field}={value!r}, {why}; mend it, or leave it out of the file")


def _check_tokens(settings: Mapping[str, Any], name: str) -> None:
    for field in TOKENS:
        value = settings.get(field)
        ids = value if isinstance(value, list) and field == "eos_token_id" else [] if value is None else [value]
        if wrong := [token for token in ids if type(token) is not int or not -1 <= token <= LARGEST_ID]:
            raise _refused(name, field, wrong[0], "which is no token id")


def _check_processors(model: Any, settings: Any, name: str) -> None:
    """Build and call the logits processor of each honoured field by itself, so that the one that fails is named.

    Those of drawn tokens, too, though the run may be greedy: else they fail in the first sample of one that draws.
    """
    ids = torch.zeros((1, 3), dtype=torch.long, device=model.device)
    scores = torch.zeros((1, int(model.config.get_text_config(decoder=True).vocab_size)), device=model.device)
    tokens = {field: getattr(settings, field, None) for field in TOKENS}
    neutral = {**SETTINGS, **{field: SAMPLING[field] for field in DRAWN}}
    for field in neutral:
        value = getattr(settings, field, None)
        if field == "guidance_scale" or value is None or value == neutral[field]:  # the first needs a pass of the model
            continue
        if field in NEED_EOS and tokens["eos_token_id"] is None:
            raise _refused(name, field, value, "which needs an eos_token_id, and the checkpoint has none")
        if field in NGRAMS and (type(value) is not int or value > LONGEST_NGRAM):
            raise _refused(name, field, value, f"which is no whole number up to {LONGEST_NGRAM}")
        try:
            alone = GenerationConfig(**{field: value, **tokens, "max_length": 9, "do_sample": field in DRAWN})
            model._prepare_special_tokens(alone, kwargs_has_attention_mask=True, device=model.device)
            processors = model._get_logits_processor(
                generation_config=alone, input_ids_seq_length=3, encoder_input_ids=ids,
                prefix_allowed_tokens_fn=None, logits_processor=LogitsProcessorList(), device=model.device,
                model_kwargs={},
            )  # fmt: skip
            processors(ids, scores.clone())
        except Exception as error:  # whatever a wrong value makes transformers raise
            raise _refused(name, field, value, f"which transformers refuses ({_first(error)})") from None


def _criterion(processor: Any, strings: Any, name: str) -> Any:
    try:
        return StopStringCriteria(getattr(processor, "tokenizer", processor), strings)
    except Exception as error:
        raise _refused(name, "stop_strings", strings, f"which transformers refuses ({_first(error)})") from None


def _stopping(model: Any, criteria: Sequence[Any]) -> Callable[..., Any]:
    """The model's `generate` with these criteria in every call, since transformers takes no stop strings where a method
    of one's own decodes. It does not keep the model alive."""
    generate, itself = type(model).generate, weakref.ref(model)

    @functools.wraps(generate)
    def stopping(*args: Any, stopping_criteria: Any = None, **kwargs: Any) -> Any:
        every = StoppingCriteriaList([*(stopping_criteria or ()), *criteria])
        return generate(itself(), *args, stopping_criteria=every, **kwargs)

    vars(stopping)[_STOPS] = True
    return stopping


def unstopped(model: Any) -> Callable[..., Any]:
    """The model's `generate` without the checkpoint's stop strings: for reading a text that is given, to its end."""
    own = vars(model).get("generate")
    return functools.partial(type(model).generate, model) if getattr(own, _STOPS, False) else model.generate
