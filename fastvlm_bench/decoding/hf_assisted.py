"""transformers' own assisted generation, as it is: what our loop is worth beside theirs, with the same draft model."""

from typing import Any

from fastvlm_bench.drafters.transformers_loop import TransformersLoop
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import MAX_GAMMA, MethodKind, Option
from fastvlm_bench.models.draft_model import described, load_draft_model, tokenizer_of, weight_bytes
from fastvlm_bench.models.load import Target
from fastvlm_bench.models.same_tokenizer import differing_tokenizers

METHOD = MethodKind(
    "transformers' own assisted generation, as it is: its assistant never sees the image", lossless=True,
    group="transformers",
    options={
        "model": Option(str, None, "the assistant", source=True, needed=True),
        "gamma": Option(int, None, "num_assistant_tokens; by default transformers' own", low=1, high=MAX_GAMMA),
        "stop_below": Option(
            float, None, "assistant_confidence_threshold; by default transformers' own", low=0, below=1
        ),
    },
)  # fmt: skip


class HfAssisted(TransformersLoop):
    """gamma, stop_below: None leaves transformers' own defaults. UsageError if the assistant cannot be loaded."""

    def __init__(
        self, model: str, *, target: Target, gamma: int | None = None, stop_below: float | None = None,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(clock=clock)
        self.gamma, self.stop_below = gamma, stop_below
        self.second = load_draft_model(model, target)
        config, own, other = self.second.model.generation_config, tokenizer_of(target), tokenizer_of(self.second)
        # transformers reads these from the assistant, and changes them from sample to sample.
        self.start = {
            "num_assistant_tokens": gamma or config.num_assistant_tokens,
            "assistant_confidence_threshold": config.assistant_confidence_threshold
            if stop_below is None else stop_below,
        }  # fmt: skip
        differ = differing_tokenizers(own, other, set())
        self.tokenizers = {"tokenizer": own, "assistant_tokenizer": other} if differ else {}

    @property
    def drafter(self) -> dict[str, Any]:
        return described(self.second)

    @property
    def weight_bytes(self) -> int:
        return weight_bytes(self.second)

    def asked(self, model: Any) -> dict[str, Any]:
        self.second.model.generation_config.update(**self.start)
        return {"assistant_model": self.second.model, **self.tokenizers}
