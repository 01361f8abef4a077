"""The model families that the engine was tried on, with the result. It is a list to read: no code decides by it.

Whether a model is accepted is decided by the self-check, which names the measured difference or error if it refuses.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """status: `proven` (identical to plain `generate` at every exit), `in part`, or `refused`.

    note: how it is prompted and what it needs; else which exits work, or why it is refused.
    """

    name: str
    status: str
    note: str


FAMILIES = (
    *(Family(name, "proven", note) for name, note in (
        ("llava", "1.5 and kin; chat template"),
        ("fast_vlm", "Apple's model of that name; chat template; its image encoder needs timm"),
        ("llava_next", "chat template; tiled images"),
        ("llava_onevision", "chat template"), ("qwen2_vl", "chat template"), ("qwen2_5_vl", "chat template"),
        ("qwen3_vl", "chat template; DeepStack"), ("glm4v", "chat template"), ("internvl", "chat template"),
        ("idefics2", "chat template"), ("idefics3", "chat template"),
        ("smolvlm", "chat template; the processor needs torchvision and num2words"),
        ("gemma3", "chat template; sliding windows"), ("aya_vision", "chat template; sliding windows"),
        ("paligemma 1, 2", "no template: 'answer en QUESTION' or 'caption en'"),
        ("mllama", "chat template; attention heads only where the next layer looks at text"),
        ("blip2", "OPT and Flan-T5; no template: 'Question: … Short answer:' or the prompt as it stands"),
        ("instructblip", "Vicuna and Flan-T5; as blip2"),
        ("kosmos2", "no template: '<grounding> Question: … Answer:' or 'An image of'"),
        ("florence2", "no template: its caption tasks; questions are refused"),
        ("pixtral", "chat template; the processor needs torchvision"),
        ("mistral3", "chat template; the processor needs torchvision"),
        ("lfm2_vl", "chat template; convolutions; the processor needs torchvision"),
        ("lfm3_vl", "chat template; convolutions, sliding windows"),
        ("inkling", "chat template; convolutions in layers that attend; the processor needs torchvision"),
        ("qwen3_5", "chat template; recurrent: gated delta nets"), ("qwen3_5_moe", "as qwen3_5"),
        ("minicpmv4_6", "chat template; text model of qwen3_5; the processor needs torchvision"),
        ("glm5_next", "chat template; recurrent: Kimi delta attention; heads cannot be trained: several streams"),
        ("nemotron_h_omni", "chat template; recurrent: Mamba 2; the processor needs torchvision"),
        ("llama4", "chat template; the processor needs torchvision"),
    )),
    Family("gemma4", "in part", "where late layers share KV, only exits up to the layer that they have it from"),
    Family("inkling2", "in part", "exits within its first block of layers, whose sum later layers attend to"),
    Family("qwen4_exp", "refused", "n-gram embeddings keep states that cannot be rolled back"),
)  # fmt: skip
