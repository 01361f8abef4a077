"""transformers' own prompt lookup, as it is: what our loop is worth beside theirs, with the same kind of draft."""

from typing import Any

from fastvlm_bench.drafters.transformers_loop import TransformersLoop
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import GAMMA, MethodKind, Option

METHOD = MethodKind(
    "transformers' own prompt lookup, as it is, with its faults", lossless=True, group="transformers",
    options={"gamma": GAMMA, "max_ngram": Option(int, 2, "longest n-gram that is looked up", low=1, high=16)},
)  # fmt: skip


class HfPromptLookup(TransformersLoop):
    """gamma: `prompt_lookup_num_tokens`. max_ngram: `max_matching_ngram_size`."""

    def __init__(self, *, gamma: int = 10, max_ngram: int = 2, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self.gamma, self.max_ngram = gamma, max_ngram

    def asked(self, model: Any) -> dict[str, Any]:
        return {"prompt_lookup_num_tokens": self.gamma, "max_matching_ngram_size": self.max_ngram}
