"""Kinds of tokens, from the text that they add to an answer. So they need to know no tokenizer's own marks.

The function words are English. In other languages no token is one, and they count as other words.
"""

import re
from collections.abc import Callable, Collection, Sequence

FUNCTION, WORD, CONTINUATION = "function word", "other word", "continuation"
DIGIT, PUNCTUATION, END = "digit", "punctuation", "end"
KINDS = (FUNCTION, WORD, CONTINUATION, DIGIT, PUNCTUATION, END)
INNER = "'\N{RIGHT SINGLE QUOTATION MARK}"
"""Signs that may stand within a word."""
UNFINISHED = "\ufffd"
"""What stands in a text for a character of which the token has only some bytes."""
FUNCTION_WORDS = frozenset(re.findall(r"\w+", """
    a about above across after against all along also among an and another any are around as at be because been
    before behind being below beneath beside between both but by can could did do does during each either every few
    for from had has have he her here him his how i if in inside into is it its just many may me might more most
    much must my near neither no nor not of off on one onto or other our out outside over per shall she should since
    so some such than that the their them then there these they this those through to toward towards under until up
    upon us very was we were what when where whether which while who whom whose why will with within without would
    yes you your
"""))  # fmt: skip


def kinds_of(ids: Sequence[int], decode: Callable[[Sequence[int]], str], ends: Collection[int]) -> list[str]:
    """The kind of each token of an answer. decode: token ids to text, special tokens included. ends: ids of EOS.

    A token that adds letters starts a word where no letter or digit stands right before them, else it goes on with one,
    as "'s" does. A word is a function word by its whole spelling, so that the token "the" of "theme" is none.
    """
    texts = [decode(ids[: count + 1]) for count in range(len(ids))]
    whole, starts = (texts[-1] if texts else ""), [0, *(len(text.rstrip(UNFINISHED)) for text in texts)]
    found = []
    for place, token in enumerate(ids):
        start = starts[place]
        added = texts[place][start:]
        word = added.strip()
        if token in ends:
            found.append(END)
        elif any(sign.isdigit() for sign in word):
            found.append(DIGIT)
        elif not any(sign.isalpha() or sign == UNFINISHED for sign in word):  # a space or line break, too
            found.append(PUNCTUATION)
        elif start and texts[place][start - 1].isalnum() and (added[0].isalnum() or added[0] in INNER + UNFINISHED):
            found.append(CONTINUATION)
        else:
            at = start + next((i for i, sign in enumerate(added) if sign.isalpha()), 0)
            found.append(FUNCTION if _word_at(whole, at).lower() in FUNCTION_WORDS else WORD)
    return found


def _word_at(text: str, start: int) -> str:
    end = start
    while end < len(text) and (text[end].isalpha() or text[end] in INNER):
        end += 1
    return text[start:end]
