"""How each family's published chat template and tokenizer treat a user's turn: words, marks, and who writes BOS.

The templates here are our own. They render one turn with an image and a question as the published ones do (long system
prompts, as Aya's and Mistral's, are left out), and leave the first token to the tokenizer where those do.
"""

from dataclasses import dataclass
from typing import Any

from families import spelling

BOS = "{{ bos_token }}"


@dataclass(frozen=True)
class Chat:
    """The parts of `spelling.template`, and the tokenizer's first token: its name, and whether the tokenizer adds it.

    bos None: the tokenizer has none, as Qwen's. start: what the template itself writes first.
    """

    image: str
    before: str
    after: str
    start: str = ""
    bos: str | None = "<s>"
    adds: bool = True
    images_first: bool = False
    marks: tuple[str, ...] = ()

    @property
    def template(self) -> str:
        return spelling.template(self.image, self.before, self.after, start=self.start, images_first=self.images_first)

    def tokenizer(self, *special: str, **named: str) -> Any:
        return spelling.tokenizer(*special, bos=self.bos, adds=self.adds, marks=self.marks, **named)


def chatml(image: str, system: str = "", **options: Any) -> Chat:
    """ChatML, as Qwen and its kin speak it. Their tokenizers have no BOS."""
    spoken = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    given = {"bos": None, "marks": ("<|im_start|>", "<|im_end|>"), **options}
    return Chat(image, f"{spoken}<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", **given)


SYSTEM, VISION = "You are a helpful assistant.", "<|vision_start|><|image_pad|><|vision_end|>"
GLM = Chat(
    "<|begin_of_image|><|image|><|end_of_image|>", "<|user|>\n", "<|assistant|>\n", "[gMASK]<sop>", bos=None,
    marks=("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
)  # fmt: skip
IDEFICS = Chat("<image>", "User:", "<end_of_utterance>\nAssistant:")
INSTRUCT = Chat("[IMG]", "[INST]", "[/INST]", BOS, marks=("[INST]", "[/INST]"))
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
HEADERS_4 = ("<|header_start|>", "<|header_end|>", "<|eot|>")
TURNS = ("<start_of_turn>", "<end_of_turn>")
COHERE = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
          "<|START_RESPONSE|>")  # fmt: skip

PUBLISHED: dict[str, Chat] = {
    "llava": Chat("<image>\n", "USER: ", " ASSISTANT:", images_first=True),
    "fast_vlm": chatml("<image>\n", SYSTEM, images_first=True),
    "llava_next": Chat("<image>\n", "[INST] ", " [/INST]", images_first=True),
    "llava_next_vicuna": Chat(
        "<image>\n",
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: ",
        " ASSISTANT:",
        images_first=True,
    ),
    "llava_onevision": chatml("<image>\n", images_first=True),
    "qwen2_vl": chatml(VISION, SYSTEM),
    "qwen2_5_vl": chatml(VISION, SYSTEM),
    "qwen3_vl": chatml(VISION),
    "qwen3_5": chatml(VISION),
    "glm4v": GLM,
    "glm5_next": GLM,
    "idefics2": IDEFICS,
    "idefics3": Chat("<image>", "User:", IDEFICS.after, "<|begin_of_text|>", bos="<|begin_of_text|>"),
    "smolvlm": Chat("<image>", "User:", IDEFICS.after, "<|im_start|>", bos="<|im_start|>", adds=False),
    "gemma3": Chat("<start_of_image>", "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", BOS,
                   bos="<bos>", marks=TURNS),
    "gemma3n": Chat("<image_soft_token>", "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", BOS,
                    bos="<bos>", marks=(*TURNS, "<start_of_image>", "<start_of_audio>")),
    "gemma4": Chat("<|image|>", "<|turn>user\n", "<turn|>\n<|turn>model\n", BOS, bos="<bos>",
                   marks=("<|turn>", "<turn|>")),
    "internvl": chatml("<IMG_CONTEXT>\n"),
    "mllama": Chat("<|image|>", "<|start_header_id|>user<|end_header_id|>\n\n",
                   "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", BOS, bos="<|begin_of_text|>",
                   marks=HEADERS),
    "mistral3": INSTRUCT,
    "pixtral": INSTRUCT,
    "aya_vision": Chat("<image>", "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
                       "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>", BOS,
                       bos="<BOS_TOKEN>", images_first=True, marks=COHERE),
    "lfm2_vl": chatml("<image>", start=BOS, bos="<|startoftext|>"),
    "lfm3_vl": chatml(VISION, start=BOS, bos="<|startoftext|>"),
    "llama4": Chat("<|image|>", "<|header_start|>user<|header_end|>\n\n",
                   "<|eot|><|header_start|>assistant<|header_end|>\n\n", BOS, bos="<|begin_of_text|>",
                   marks=HEADERS_4),
    "nemotron_h_omni": chatml("<image>", bos="<s>"),
    "inkling": chatml("<|content_image|><|unused_200054|>"),
    "minicpmv4_6": chatml("<|image|>"),
}  # fmt: skip
"""Family -> its chat. Families without a template are not here: their tokenizer is `spelling.tokenizer`."""
