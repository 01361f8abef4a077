"""From tokens to text, and from text to the tokens that continue given ones, for any tokenizer.

Texts are those of answers alone: nothing of a prompt is decoded here. A character may be spread over several tokens
(byte-level BPE, byte fallback). As long as it is not complete, a tokenizer decodes it to U+FFFD at the end.
"""

from collections.abc import Sequence
from typing import Any

BROKEN = "\N{REPLACEMENT CHARACTER}"
LONGEST = 3
"""How many tokens a character that is not complete has at most."""
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
        return self._split(tokens)[0]

    def _split(self, tokens: Sequence[int]) -> tuple[str, int]:
        """The complete text, and how many tokens at the end are the beginning of a character.

        Byte fallback decodes all bytes in a row to U+FFFD if the last ones are incomplete. So tokens are left out.
        """
        for count in range(min(LONGEST, len(tokens)) + 1):
            text = self.decode(tokens[: len(tokens) - count])
            if not text.endswith(BROKEN):
                return text, count
        return self.decode(tokens).rstrip(BROKEN), 0

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

        `before` are not encoded anew. Where they end within a character, `text` begins with that character, and what is
        left of it follows, if it is the one that was begun. Best are the tokens that the tokenizer itself gives to the
        end of `before` and `text` together. Where it would join both (" wor" + "ld"), `text` is encoded alone.
        """
        if not text:
            return []
        for count in CONTEXTS:
            start = list(before[-count:])
            found = self.encode(self.complete(start) + text)
            if found[: len(start)] == start:
                return found[len(start) :]
        begun = list(before[len(before) - self._split(before[-CONTEXTS[0] :])[1] :])
        for anchor in ANCHORS:
            start = [*self.encode(anchor), *begun]
            found = self.encode(anchor + text)
            if found[: len(start)] == start and self.decode(found) == anchor + text:
                return found[len(start) :]
        return []
