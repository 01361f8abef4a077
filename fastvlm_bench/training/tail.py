"""From the last layer's states to logits, as the target itself does it: final norm, LM head, scale, soft cap."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.layers import decoder_layers, output_embeddings
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.observe import AGREEMENT, Observer


class Tail:
    """Turns the last layer's states into logits as the target itself does: final norm, LM head, scale, soft cap."""

    def __init__(self, target: Target, observer: Observer, example: Example) -> None:
        """Find the parts, and compare them with the target's own logits on one example. ValueError if they differ."""
        model = target.model
        self.norm, self.output = _final_norm(model), output_embeddings(model)
        text = model.config.get_text_config(decoder=True)
        self.cap = getattr(text, "final_logit_softcapping", None)
        gaps: dict[float, float] = {}
        with torch.no_grad():
            states = observer.forced(example).last_states()[-1:]
            if states.ndim != 2:
                raise ValueError("its layers hand on several streams of states, and heads are trained on one")
            own = _own_logits(target, example)
            # Not every VLM applies the logit scale of its text model: Aya Vision does not.
            told = float(getattr(text, "logit_scale", None) or 1.0)
            self.scales_states = bool(getattr(text, "scale_decoder_outputs", False))
            if self.scales_states:  # T5, where the LM head is tied to the embeddings
                told = float(text.d_model) ** -0.5
            for self.scale in dict.fromkeys((told, 1.0)):
                found = self(states)[0].float()
                gaps[self.scale] = float((found - own).abs().max() / own.abs().max().clamp_min(1e-6))
        self.scale = min(gaps, key=lambda scale: gaps[scale])
        if not gaps[self.scale] <= AGREEMENT:
            raise ValueError(f"its final norm and LM head do not give its own logits (off by {gaps[self.scale]:.1e})")

    def __call__(self, states: Tensor) -> Tensor:
        """(n, width) -> (n, vocab)."""
        return self.after(self.before(states))

    def before(self, states: Tensor) -> Tensor:
        """(n, width) -> (n, width): what enters the LM head. T5 scales it there, where other families scale logits."""
        normed: Tensor = self.norm(states)
        return normed * self.scale if self.scales_states else normed

    def after(self, entered: Tensor, output: Any = None) -> Tensor:
        """(n, width) -> (n, vocab), by the LM head or by an `output` in its place."""
        logits: Tensor = (self.output if output is None else output)(entered)
        if not self.scales_states:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def _own_logits(target: Target, example: Example) -> Tensor:
    """The target's logits for the answer's last token, (vocab,), from its own forward pass."""
    probe = _Logits(example.answer)
    unstopped(target.model)(
        **example.inputs(target), max_new_tokens=len(example.answer) + 1, do_sample=False, num_beams=1,
        custom_generate=probe,
    )  # fmt: skip
    return probe.logits


class _Logits:
    def __init__(self, answer: Sequence[int]) -> None:
        self.answer, self.logits = list(answer), torch.empty(0)

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        session.prefill()
        session.replace_last(self.answer[0])
        outputs = session.read(self.answer[1:])
        self.logits = outputs.logits[0, -1].float()
        return session.sequences


def _final_norm(model: Any) -> nn.Module:
    """The text decoder's final norm, found by one of its usual names; an identity where the decoder has none."""
    layers = decoder_layers(model)
    # In some families `get_decoder` returns a wrapper around the decoder; the norm stands beside the layers.
    decoder = next(m for m in model.modules() if any(child is layers for child in m.children()))
    for name in ("norm", "final_layer_norm", "final_layernorm", "ln_f", "norm_f", "layer_norm", "embedding_norm"):
        module = getattr(decoder, name, None)
        if isinstance(module, nn.Module):
            return module
    return nn.Identity()
