"""Self-speculative decoding of vision-language models, measured (FastVLM, arXiv 2510.22641; not Apple's)."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastvlm_bench.decoding.fastvlm import FastVLM

__all__ = ["FastVLM", "__version__"]


def __getattr__(name: str) -> Any:
    """Load `fastvlm_bench.FastVLM` only when it is asked for, because it imports torch."""
    if name == "FastVLM":
        from fastvlm_bench.decoding.fastvlm import FastVLM

        return FastVLM
    raise AttributeError(name)
