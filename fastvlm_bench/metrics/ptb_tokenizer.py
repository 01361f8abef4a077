"""Pure-Python stand-in of the tokenizer behind the published caption scores.

coco-caption (https://github.com/tylin/coco-caption) tokenises every caption with Stanford's PTBTokenizer 3.4.1
(Java, `-preserveLines -lowerCase`) and then drops a fixed list of punctuation tokens. BLEU-4, ROUGE-L and CIDEr-D
depend on this step more than on anything else, so the same tokens must come out here, without Java.

The rules below were written from observed input and output, not from Stanford's source. Like a lexer generator, the
tokenizer takes at each place the rule with the longest match, where the text that a rule merely looks at counts;
of equally long matches, the first rule wins. Known gaps: telephone numbers of unusual shape, exotic mark-up,
words glued together without a space, and scripts that entered Unicode after 2010. Where Java looks across the line
end ("… plan b." before a caption that starts with "The"), a caption here is tokenised as if it were the last one.

One difference is wanted: CR, VT, FF, NEL, U+2028 and U+2029 inside a caption become a space first. Java reads them as
line ends, and every later caption of the file then moves, silently, to the next image.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

VERSION = "2"
"""Changes whenever some text gets other tokens; scores of different versions do not compare."""

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that coco-caption drops. Its list also has -LRB- … -RCB-, which never match the lower-case output."""

_LINE_BREAKS = re.compile("[\n\r\v\f\x85\u2028\u2029]")
_SOFT_HYPHEN_INSIDE = re.compile("(?<=\\w)\xad(?=\\w)")

# Letters: the basic plane only (the Java lexer sees no others), with marks, without numerals such as ² or ½.
_L = (
    "(?:(?![\xb2\xb3\xb9\xbc-\xbe\u2070-\u2079\u2080-\u2089\u2150-\u215f\u2460-\u24b5\U00010000-\U0010ffff])[^\\W\\d_]"
    "|[\u02c2-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065e\u0670\u0900-\u0903"
    "\u093c\u093e-\u094e\u0951-\u0955])"
)
_D = "[0-9\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\uff10-\uff19]"
_LD = f"(?:{_L}|{_D})"
# The {0,99} bounds below keep the time linear in the length of a hostile text.
_AN = "[A-Za-z0-9]"
_APOS = "['\u2019\x92]"
_END = "(?![A-Za-z])"
_WORD = f"{_L}{_LD}*(?:[.!?]{_L}{_LD}*)*"

# Abbreviations that keep their dot: always; when capitalised; before a number; with any first letter but not shouted.
_ALWAYS = (
    "adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bldg blvd brig bros calif capt cf cie cmdr co"
    " col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov"
    " govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mich minn mlle mme"
    " mo mon mont mr mrs ms msgr mt natl neb nev nov oct okla penn pfc ph plc pres prof profs pvt rd rep reps rev rt"
    " sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues univ va vs vt wed wis"
    " wisc wm wyo bhd"
)
_CAPITALISED = "ark az del ill la mass miss ore pa tex wash"
_BEFORE_NUMBER = "art ca fig figs no nos op pp prop"
# After a single letter and a dot, these start a new sentence: the dot is then no part of the token.
_SENTENCE_STARTS = (
    "a an the this that these there then they it he she her we you mr. ms. in at but so yet if when while what as some"
    " many one however here other after since now our their such once according last"
)
_FILE_TYPES = (
    "bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql"
    " tar txt wav x xml zip"
)
_NOT_SHOUTED = "mfg mtg ppte ppty pte ptes pty ptys"


def _either(words: str) -> str:
    return "|".join(sorted(words.split(), key=len, reverse=True))


_TITLE_OR_UPPER = "|".join(f"{word.title()}|{word.upper()}" for word in _CAPITALISED.split())
_LOWER_OR_TITLE = "|".join(f"{word}|{word.title()}" for word in _NOT_SHOUTED.split())
_STARTS = "|".join(re.escape(form) for word in _SENTENCE_STARTS.split() for form in (word.title(), word.upper()))
_ABBREVIATION = f"(?i:ph\\.d\\.)|(?:(?i:{_either(_ALWAYS)})|{_TITLE_OR_UPPER}|{_LOWER_OR_TITLE}|[A-Za-z])\\."

_CLITIC = f"(?:'(?i:[smd]|ll|re|ve){_END}|[\u2019\x92](?i:[smd]|ll|re|ve))"
_QUOTE_START = f"{_APOS}(?i:n{_APOS}|n(?=\\s|$)|em|till?|cause|{_D}{_D}s)"
_TAG = (
    "</?[A-Za-z][A-Za-z0-9_:.-]*(?: +[A-Za-z][A-Za-z0-9_:.-]*(?: *= *(?:\"[^\"]*\"|'[^']*'))?)* */?>"
    "|<[!?][A-Za-z-][^<>]*>"
)
_PHONE = (
    "(?:\\+\\d{2,3}[ \xa0-]?)?(?:\\(\\d{2,3}\\)[ \xa0]?|\\d{2,4}[ \xa0-])\\d{3,4}[ \xa0-]?\\d{3,5}"
    "|(?:\\+\\d{2,3}[ \xa0-])\\d{2,4}[ \xa0-]\\d{3,4}[ \xa0-]?\\d{3,5}"
)

# (pattern, kind); group 1, where there is one, is the token and the rest is only looked at.
_RULES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), kind)
    for pattern, kind in (
        ("(?i:cannot|gonna|gotta|wanna|lemme|gimme)", "split"),
        ("('[tT])(?i:is|was)", "text"),
        (_TAG, "text"),
        ('(?i:https?)://[^\\s"<>|(){}]{1,99}\\.[^\\s"<>|(){}]{0,999}[^\\s"<>|().!?,{}-]', "text"),
        ('[A-Za-z0-9][^\\s"<>|()]{0,99}@(?:[^\\s"<>|().]+\\.)*[^\\s"<>|().{}]+', "text"),
        ("@[A-Za-z_][A-Za-z0-9_]*", "text"),
        (f"#{_L}+", "text"),
        ("(?i:&(?:amp|lt|gt|quot|apos|nbsp|mdash|ndash);)", "entity"),
        ("&#[0-9]+;", "text"),
        ("[A-Z]+(?:(?:&|&amp;)[A-Z]+)+", "text"),
        ("([A-Za-z]*[A-MO-Za-mo-z])[nN]['\u2019\x92`][tT]", "text"),
        ("[nN]['\u2019\x92`][tT]", "clitic"),
        (f"({_WORD}|{_D}{_LD}*){_CLITIC}", "text"),
        (_CLITIC, "clitic"),
        (_QUOTE_START, "text"),
        (f"({_APOS}{_D}{_D})(?:\\s|$)", "text"),
        (f"[dDoOlLnN]{_APOS}[A-Za-z]{_AN}+", "text"),
        (f"[A-Za-z]+[aeiouyAEIOUY]{_APOS}[aeiouAEIOU][A-Za-z]*", "text"),
        (f"(?i:c'mon|cap'n|s'mores|e{_APOS}er)", "text"),
        (f"[dDlLyY]{_APOS}", "text"),
        (_WORD, "text"),
        (f"{_D}+(?:{_L}{_LD}*)?", "text"),
        (f"(?:[dDoOlLnN]{_APOS}[A-Za-z])?{_LD}+(?:[-_]{_LD}+)+", "text"),
        (f"{_AN}+(?:-[A-Za-z]+)*(?:\\\\?/{_AN}+(?:-[A-Za-z]+)*)+", "text"),
        (f"{_AN}[A-Za-z0-9.,]{{0,99}}(?:-(?:(?:[A-Za-z]\\.){{2,}}|{_AN}+))+", "text"),
        (f"{_AN}+(?:\\.{_AN}+)*\\.(?i:{_either(_FILE_TYPES)})(?!{_AN})", "text"),
        (f"[-+]?(?:{_D}*(?:[.,:]{_D}+)+|{_D}+)", "text"),
        (f"((?:{_WORD}|{_LD}+(?:-{_LD}+)*)\\.)[,;:]", "text"),
        ("[A-Za-z](?:\\.[A-Za-z])+\\.?", "text"),
        (_ABBREVIATION, "text"),
        (f"([A-Za-z])\\.\\s+(?:(?:{_STARTS})(?:\\s|$)|<[A-Za-z])", "text"),
        (f"((?i:{_either(_BEFORE_NUMBER)})\\.)\\s?{_D}", "text"),
        ("(?:\\d{1,4}[- \xa0])?\\d{1,4}(?:\\\\?/|\u2044)\\d{1,4}", "text"),
        (f"(?<![0-9])(?:{_PHONE})(?![0-9])", "text"),
        (f"([<>]?[:;=](?:[-o*]|{_APOS})?[(){{DPdpO\\\\@|\\[\\]]){_END}", "text"),
        ("\\^_\\^|-_-", "text"),
        ("-(?i:[lr][rsc]b)-", "text"),
        ("([A-Z]+\\$|[cC]\\+\\+|[cCfF]#)", "text"),
        ("\\\\\\*", "text"),
        ("-----+", "text"),
        ("-+", "dash"),
        ("\\.\\.\\.+|\\. \\. \\.", "ellipsis"),
        ("[!?]+|\\*+|_+|#+", "text"),
        (f"''|``|{_APOS}", "quote"),
        ("[`\x91-\x94\u2018-\u201f\u2039\u203a\xab\xbb]{2}", "quotes"),
    )
]
_SINGLE = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "\xa2": "cents", "\xa3": "#", "\x80": "$", "\xa4": "$", "\u20a0": "$", "\u20ac": "$",
    "\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3",
    "\x85": "...", "\u2026": "...", "\xad": "-",
    **dict.fromkeys("\x96\x97\u2013\u2014\u2015", "--"),
    **dict.fromkeys('"\x93\x94\xab\xbb\u201c\u201d', "''"),
    **dict.fromkeys("'\x91\x92\u2018\u2019\u201b\u2039\u203a`", "'"),
}  # fmt: skip
# Signs that are a token of their own; any other character that no rule knows separates like a space (emoji, NUL, …).
_SIGN = re.compile(
    "[!#-/:-@\\\\^_`|~\xa1\xa5-\xa9\xac\xae-\xb4\xb6-\xb9\xbf\xd7\xf7\u037e\u0387\u0589\u05be\u05c0\u05c3\u05c6\u05f3"
    "\u05f4\u0606-\u060c\u061b\u061e\u061f\u066a\u066d\u06d4\u0964\u0965\u0e3f\u0e4f\u2016\u2017\u201a\u201e-\u2023"
    "\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e\u2080-\u208e\u20a4\u2100\u2101\u2103-\u2106\u2108\u2109"
    "\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a\u213b\u2140-\u2144\u214a-\u214d\u214f\u2155-\u215e"
    "\u2190-\u2bff\uff0a\uff61]"
)
# Two typographic quotes side by side are one token, of the ASCII signs for each.
_QUOTES = {
    ord(mark): sign
    for sign, marks in (("`", "`\x91\u2018\u201b\u2039"), ("'", "\x92\u2019\u203a"),
                        ("``", "\x93\u201c\xab"), ("''", "\x94\u201d\xbb"))
    for mark in marks
}  # fmt: skip
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": "''", "apos": "'", "nbsp": "", "mdash": "--", "ndash": "--"}
_BRACKETS = str.maketrans({mark: _SINGLE[mark] for mark in "()"})
# The usual case, taken before the rules: a word of plain letters, then a space, a comma and a space, or the end.
_PLAIN = re.compile(" ?(?!(?i:cannot|gonna|gotta|wanna|lemme|gimme)\\b)([A-Za-z]+)(?=,? |,?$)")


def _emit(kind: str, token: str, tokens: list[str]) -> None:
    if kind == "text":
        tokens.append(token.replace(" ", "\xa0").replace("&amp;", "&").translate(_BRACKETS))
    elif kind == "clitic":
        tokens.append(token.replace("\u2019", "'").replace("\x92", "'"))
    elif kind == "split":
        tokens.extend((token[:3], token[3:]))
    elif kind == "quotes":
        tokens.append(token.translate(_QUOTES))
    elif kind == "entity":
        tokens.extend(filter(None, [_ENTITIES[token[1:-1].lower()]]))
    else:
        tokens.append({"dash": "-" if len(token) == 1 else "--", "ellipsis": "...", "quote": "''"}[kind])


def _split(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while at < len(text):
        plain = _PLAIN.match(text, at)
        if plain:
            tokens.append(plain.group(1))
            at = plain.end()
            continue
        if text[at] == " ":
            at += 1
            continue
        best, kind = None, ""
        for pattern, rule in _RULES:
            match = pattern.match(text, at)
            if match and match.end() > (best.end() if best else at):
                best, kind = match, rule
        if best:
            token = best.group(1) if best.re.groups else best.group()
            _emit(kind, token, tokens)
            at += len(token)
            continue
        if text[at] in _SINGLE:
            tokens.append(_SINGLE[text[at]])
        elif _SIGN.match(text, at):
            tokens.append(text[at])
        at += 1
    return tokens


@lru_cache(maxsize=1 << 17)
def tokenize(caption: str) -> str:
    """The tokens of one caption, lower-case, without punctuation, joined by single spaces ("" if none is left).

    A token may contain a no-break space ("1\xa01/2"), as it does in the official output. Any string is accepted.
    """
    text = _SOFT_HYPHEN_INSIDE.sub("", _LINE_BREAKS.sub(" ", caption))
    return " ".join(token for token in (token.lower() for token in _split(text)) if token not in PUNCTUATION)


def tokenize_all(captions: Iterable[str]) -> list[str]:
    """`tokenize` for each of several captions; captions never influence each other."""
    return [tokenize(caption) for caption in captions]
