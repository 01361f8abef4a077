"""Checks the sampling options of `run`, and turns them into arguments of `generate`. Without torch."""

from typing import Any, Protocol

from fastvlm_bench.errors import UsageError

NEVER_EOS = 2**31 - 1
"""An end-of-sequence id beyond every vocabulary: given to `generate`, it makes every output as long as the limit."""


class Sampling(Protocol):
    """The fields of RunConfig that this file reads."""

    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def ignore_eos(self) -> bool: ...
    @property
    def require_lossless(self) -> bool: ...


def check_sampling(config: Sampling) -> None:
    """UsageError for values out of range, and for options that would have no effect or no meaning together."""
    for name, low, high in (("temperature", 0, 100), ("top_p", 0, 1)):
        value = getattr(config, name)
        if value is not None and (isinstance(value, bool | str) or not low <= value <= high):
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be a number, {low} .. {high}")
    if config.top_p == 0:
        raise UsageError("--top-p is 0; it must be above 0, up to 1: the tokens that make up this probability")
    if config.temperature:
        if config.require_lossless:
            raise UsageError("--require-lossless compares tokens, and samples differ by chance; leave --temperature "
                             "out, or --require-lossless")  # fmt: skip
        return
    for name in ("top_p", "top_k"):
        if getattr(config, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} has no effect on greedy decoding; "
                             "add --temperature, or leave it out")  # fmt: skip


def generation(config: Sampling) -> dict[str, Any]:
    """Keyword arguments of `generate`: greedy, or with this temperature, top-k and top-p."""
    options: dict[str, Any] = {"num_beams": 1, "do_sample": bool(config.temperature)}
    if config.temperature:  # top_k 0 and top_p 1 switch off the filters that the model's generation config may set
        options |= {"temperature": config.temperature, "top_k": config.top_k or 0, "top_p": config.top_p or 1.0}
    return options | ({"eos_token_id": NEVER_EOS} if config.ignore_eos else {})
