"""transformers' own decoding with a checkpoint's multi-token-prediction layer (`use_mtp`), as it is."""

from typing import Any

from fastvlm_bench.drafters.transformers_loop import TransformersLoop
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import MethodKind
from fastvlm_bench.models.load import Target

METHOD = MethodKind(
    "transformers' own use of a checkpoint's multi-token-prediction layer, as it is", lossless=True,
    group="transformers",
)  # fmt: skip


class HfMtp(TransformersLoop):
    """How many tokens are drafted is transformers' own choice. UsageError if the model's configuration has no layer."""

    def __init__(self, *, target: Target, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        if getattr(target.model.config.get_text_config(), "num_mtp_layers", None) is None:
            raise UsageError(f"transformers knows no multi-token-prediction layer of {type(target.model).__name__} "
                             "(num_mtp_layers is not in its configuration); leave hf-mtp out")  # fmt: skip

    def asked(self, model: Any) -> dict[str, Any]:
        return {"use_mtp": True}
