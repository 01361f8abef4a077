"""From tokens to text, and from text to the tokens that continue given ones, for any tokenizer.

Texts are those of answers alone: nothing of a prompt is decoded here. A character may be spread over several tokens
(byte-level BPE, byte fallback). As long as it is not complete, a tokenizer decodes it to U+FFFD at the end.
"""

from collections.abc import Sequence
from typing import Any

BROKEN = "\N{REPLACEMENT CHARACTER}"
CONTEXTS = (8, 4, 2, 1)
"""How many of the tokens before are encoded once more with the text that follows, so that words are joined as usual."""
ANCHORS = ("\n", "")
"""What stands before a text that is encoded alone. After a line break no tokenizer puts a space before it."""


class Wording:
    """Encodes and decodes plain text: no special tokens are added, and none is seen in the text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special = frozenset({*added, *tokenizer.all_special_ids})

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones; U+FFFD for what is no character."""
        if not tokens:
            return ""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def complete(self, tokens: Sequence[int]) -> str:
        """The text of tokens up to the last character that is complete."""
        return self.decode(tokens).rstrip(BROKEN)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The strings of tokens as the vocabulary has them."""
        return [str(word) for word in self.tokenizer.convert_ids_to_tokens(list(tokens))]

    def added(self, before: Sequence[int], tokens: Sequence[int]) -> str:
        """The complete text that `tokens` add to what `before` say; "" where they change that."""
        start = before[-CONTEXTS[0] :]
        said, whole = self.complete(start), self.complete([*start, *tokens])
        return whole[len(said) :] if whole.startswith(said) else ""

    def continued(self, before: Sequence[int], text: str) -> list[int]:
        """The tokens that follow `before` and say `text`; [] where there are none.

        `before` are not encoded anew. Where they end within a character, `text` begins with that character, and what
        is left of it follows. Best are the tokens that the tokenizer itself gives to the end of `before` and `text`
        together. Where it would join both (" wor" + "ld"), `text` is encoded alone.
        """
        if not text:
            return []
        for count in CONTEXTS:
            start = list(before[-count:])
            found = self.encode(self.complete(start) + text)
            if found[: len(start)] == start:
                return found[len(start) :]
        if self.decode(before[-1:]).endswith(BROKEN):
            return []  # the text's first character has begun, and not as the tokenizer would begin it
        for anchor in ANCHORS:
            start = self.encode(anchor)
            found = self.encode(anchor + text)
            rest = found[len(start) :]
            if found[: len(start)] == start and self.decode(found) == self.decode(start) + text:
                return rest
        return []
