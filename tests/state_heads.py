"""Heads that read states of a small random target: new ones, trained ones whose drafts stand, and their files."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastvlm_bench.drafters.target_states import TargetStates
from fastvlm_bench.drafts.load_eagle import load_eagle
from fastvlm_bench.drafts.mtp_head import MtpHead
from fastvlm_bench.drafts.state_heads import Eagle, StateHead
from fastvlm_bench.models.layers import decoder_layers, output_embeddings


def head_config(model: Any, kind: str = "eagle3", drafted: int | None = None, **changes: Any) -> dict[str, Any]:
    """The config.json, in the authors' spelling, of a head for this target. drafted: size of its own vocabulary."""
    text = model.config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    mrope = {key: rope[key] for key in ("mrope_section", "mrope_interleaved") if key in rope}
    width = output_embeddings(model).in_features
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLMEagle3" if kind == "eagle3" else "EagleLlamaForCausalLM"],
        "model_type": "llama", "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": text.vocab_size,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, len(decoder_layers(model)) - 2]},
    }  # fmt: skip
    if mrope:
        config |= {"rope_scaling": {"rope_type": "default", **mrope}, "head_dim": 2 * sum(mrope["mrope_section"])}
    if kind == "eagle3":
        config["draft_vocab_size"] = drafted or text.vocab_size
    return {**config, **changes}


def head_weights(config: dict[str, Any], seed: int = 0, aux: int = 3) -> dict[str, Tensor]:
    """Random weights for `head_config`, in the authors' spelling."""
    torch.manual_seed(seed)
    width, inner, third = config["hidden_size"], config["intermediate_size"], "draft_vocab_size" in config
    size = config.get("head_dim") or width // config["num_attention_heads"]
    heads, kv_heads = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    layer, read = ("midlayer.", 2 * width) if third else ("layers.0.", width)
    shapes = {
        "fc.weight": (width, (aux if third else 2) * width), f"{layer}self_attn.q_proj.weight": (heads, read),
        f"{layer}self_attn.k_proj.weight": (kv_heads, read), f"{layer}self_attn.v_proj.weight": (kv_heads, read),
        f"{layer}self_attn.o_proj.weight": (width, heads), f"{layer}mlp.gate_proj.weight": (inner, width),
        f"{layer}mlp.up_proj.weight": (inner, width), f"{layer}mlp.down_proj.weight": (width, inner),
    }  # fmt: skip
    weights = {name: torch.randn(shape) * shape[1] ** -0.5 for name, shape in shapes.items()}
    norms = [f"{layer}post_attention_layernorm"]
    if third:
        norms += [f"{layer}input_layernorm", f"{layer}hidden_norm", "norm"]
        drafted = config["draft_vocab_size"]
        weights["lm_head.weight"] = torch.randn(drafted, width) * width**-0.5
        if drafted < config["vocab_size"]:
            known = torch.randperm(config["vocab_size"])[:drafted].sort().values
            weights["d2t"] = known - torch.arange(drafted)
            weights["t2d"] = torch.zeros(config["vocab_size"], dtype=torch.bool).scatter_(0, known, True)
    else:
        weights["fc.bias"] = torch.randn(width) * 0.1
    return weights | {f"{name}.weight": torch.ones(width) for name in norms}


def save_head(folder: Path, config: dict[str, Any], weights: dict[str, Tensor] | None = None) -> Path:
    """Write a head as it is published."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(head_weights(config) if weights is None else weights, folder / "model.safetensors")
    return folder


def new_eagle(model: Any, folder: Path, kind: str = "eagle3", drafted: int | None = None) -> Eagle:
    return load_eagle(kind, save_head(folder, head_config(model, kind, drafted)), model, "the target")


def new_mtp(model: Any, seed: int = 0) -> MtpHead:
    torch.manual_seed(seed)
    head = MtpHead(model).eval()
    for parameter in head.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0, parameter.shape[-1] ** -0.5)
    return head.requires_grad_(False)


class Text:
    """What a target gives of a prompt and an answer, read at once without any cache: the states that a head reads."""

    def __init__(self, model: Any, inputs: dict[str, Tensor], answer: list[int], reads: tuple[int, ...]) -> None:
        ids = torch.cat([inputs["input_ids"], torch.tensor([answer], dtype=torch.long)], dim=1)
        whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in inputs:
                whole[name] = nn.functional.pad(inputs[name], (0, len(answer)))
        target = TargetStates(model, reads)
        with torch.no_grad(), target.installed():
            model(**whole, use_cache=False)
        self.ids, self.states, self.embeds, self.positions = ids, target.states, target.embeds, target.positions
        self.prompt = inputs["input_ids"].shape[1]


def train(head: StateHead, model: Any, inputs: dict[str, Tensor], answer: list[int], steps: int = 35) -> StateHead:
    """Teach a head this one answer, and a wrong token at every fifth place, so that drafts stand and are refused."""
    text = Text(model, inputs, answer, head.reads)
    labels = text.ids[0, 2:].clone()
    labels[text.prompt + 3 :: 5] = (labels[text.prompt + 3 :: 5] + 1) % 90
    known = torch.arange(head.vocabulary) if head.ids is None else head.ids
    back = {int(token): i for i, token in enumerate(known)}
    wanted = torch.tensor([back.get(int(token), -100) for token in labels])
    wanted[: text.prompt - 2] = -100
    states = [one[:, :-2].clone() for one in text.states]
    with torch.no_grad():
        fused = head.fuse([one[:, :-1].clone() for one in text.states])
    embeds, places = text.embeds[:, 1:-1].clone(), text.positions[..., :-2]
    parameters = [p.requires_grad_(True) for name, p in head.named_parameters() if name != "fc.weight"]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    for _ in range(steps):
        own = head(embeds, head.fuse(states), places, head.new_cache())
        # Once more from its own states, as it will have to go on from them while it drafts.
        again = head(embeds[:, 1:], own[:, :-1], places[..., 1:], head.new_cache())
        loss = sum(
            nn.functional.cross_entropy(head.logits(found)[0], label, ignore_index=-100)
            + (found - near).square().mean() / fused.square().mean()
            for found, label, near in ((own, wanted, fused[:, 1:]), (again, wanted[1:], fused[:, 2:]))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.requires_grad_(False)


class Watched:
    """Mixed into a method: records what its head said in each round, and spoils a share of the drafts of a chain."""

    spoiled = 0.2

    def propose(self: Any, session: Any, drafts: Any) -> None:
        self.watch()
        super().propose(session, drafts)  # type: ignore[misc]
        self.note(session, drafts.columns)

    def tree(self: Any, session: Any) -> Any:
        self.watch()
        tree = super().tree(session)  # type: ignore[misc]
        self.note(session, [[]])
        return tree

    def watch(self: Any) -> None:
        if not hasattr(self, "told"):
            self.told, self.random = [], torch.Generator().manual_seed(0)
        reader = self._reader
        if not hasattr(reader, "watched"):
            reader.watched, reader.read_, reader.go_on_ = True, reader.read, reader.go_on
            reader.read = lambda places: self.seen(reader.read_(places))
            reader.go_on = lambda columns: self.seen(reader.go_on_(columns))
        self.logits: list[Tensor] = []

    def note(self: Any, session: Any, columns: Any) -> None:
        for index, row in enumerate(session.rows):
            said = [one[index, -1] for one in self.logits]
            self.told.append((row.place, len(row.tokens), list(columns[index]), said))

    def seen(self, logits: Tensor) -> Tensor:
        self.logits.append(logits.clone())
        return logits

    def _draft(self: Any, session: Any, logits: Tensor, drafts: Any) -> bool:
        if torch.rand(1, generator=self.random).item() < self.spoiled:
            logits = logits.roll(1, dims=-1)
        return bool(super()._draft(session, logits, drafts))  # type: ignore[misc]


def check_told(method: Any, model: Any, singles: list[dict[str, Tensor]], answers: list[list[int]]) -> int:
    """Whatever was accepted and refused before, a head says what it says when it reads the text from the beginning.

    Returns how many logits were compared.
    """
    head, compared = method.head, 0
    texts = [Text(model, single, answer, head.reads) for single, answer in zip(singles, answers, strict=True)]
    for place, length, columns, said in method.told:
        text = texts[place]
        end, cache = text.prompt + length, head.new_cache()
        states = head.fuse([one[:, : end - 1] for one in text.states])
        positions = text.positions[..., : end - 1]
        own = head(text.embeds[:, 1:end], states, positions, cache)[:, -1:]
        positions = positions[..., -1:]
        for logits, token in zip(said, [*columns, 0], strict=False):
            wanted = head.logits(own)[0, -1]
            assert (wanted - logits).abs().max() < 1e-3 * wanted.abs().max(), (place, length)
            compared += 1
            positions = positions + 1
            own = head(head.embed(torch.tensor([[token]])), own, positions, cache)
    return compared
