"""Standard decoding: one pass of the whole target for each token. The reference of every comparison."""

from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.session import Session
from fastvlm_bench.method_spec import MethodKind
from fastvlm_bench.records.trace import Round

METHOD = MethodKind("one token per pass of the whole target: the reference", lossless=True, group="reference")


class Standard(Method):
    """Greedy or sampled decoding, one token at a time. It is not slower than the loop of `transformers`."""

    def round(self, session: Session) -> list[Round]:
        started = self.clock.now()
        outputs = session.forward(1, (), session.kwargs)
        tokens = session.choose(outputs.logits)
        seconds = self.clock.now() - started
        emitted = session.emit(tokens)
        session.keep(outputs, tokens, 1)
        return [Round(0, 0, 0, count, 0.0, seconds) for count in emitted]
