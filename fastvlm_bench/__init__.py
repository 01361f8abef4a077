"""Self-speculative decoding of vision-language models, measured (FastVLM, arXiv 2510.22641; not Apple's).

import fastvlm_bench as fb
run = fb.load_run("results/RUN")        # or fb.run(suite="coco-caption", model="tiny", methods=["fastvlm"])
run.rows, run.samples, run.rounds       # pandas data frames
fb.compare([run, "results/OTHER"]).rows
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastvlm_bench.decoding.fastvlm import FastVLM
    from fastvlm_bench.notebook import ComparedRuns, LoadedRun, compare, load_run, run

__all__ = ["ComparedRuns", "FastVLM", "LoadedRun", "__version__", "compare", "load_run", "run"]


def __getattr__(name: str) -> Any:
    """Load what is asked for only then: `FastVLM` imports torch, and the tables of a run need pandas."""
    if name == "FastVLM":
        from fastvlm_bench.decoding.fastvlm import FastVLM

        return FastVLM
    if name in __all__:
        from fastvlm_bench import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'fastvlm_bench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
