"""Early exit: the draft alone, never verified. Not lossless: it shows the quality that verification keeps."""

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import DRAFT, EXIT_LAYER, HEAD, MethodKind
from fastvlm_bench.records.trace import Round

METHOD = MethodKind(
    "the draft alone, never verified: the quality that verification keeps", lossless=False, group="checks",
    options={"draft": DRAFT, "exit_layer": EXIT_LAYER, "head": HEAD},
)  # fmt: skip


class EarlyExit(Method):
    """The prompt passes all layers and gives the first token; every further token comes from the draft."""

    def __init__(self, draft: Draft, *, clock: Clock | None = None) -> None:
        super().__init__(draft, clock=clock)

    def begin(self, session: Session) -> None:
        session.gate.mode = Mode.DRAFT
        session.kwargs["past_key_values"] = session.draft_view()

    def round(self, session: Session) -> list[Round]:
        started = self.clock.now()
        outputs = session.forward(1, (), session.kwargs)
        tokens = session.choose(outputs.logits)
        seconds = self.clock.now() - started
        session.gate.kept.clear()  # nothing is verified from these states
        emitted = session.emit(tokens)
        session.keep(outputs, tokens, 1)
        return [Round(1, 0, 0, count, seconds, 0.0) for count in emitted]
