"""Pure-Python stand-in for the tokenizer behind the published caption scores.

coco-caption (https://github.com/tylin/coco-caption) tokenises every caption with Stanford's PTBTokenizer 3.4.1
(Java, `-preserveLines -lowerCase`) and then drops a fixed list of punctuation tokens. BLEU-4, ROUGE-L and CIDEr-D
depend on this step more than on anything else, so the same tokens must come out here, without Java.

The rules below were written from observed input and output, not from Stanford's source. They work as in a lexer
generator: at each place the rule with the longest match wins, look-ahead included, and of equally long matches the
first one. Known gaps: telephone numbers of unusual shape, exotic mark-up and addresses, soft hyphens beside signs, and
chains of abbreviations glued together without a space. Java looks across the end of a line ("… plan b." before a
caption that starts with "The"); here every caption is tokenised as if it were the last one.

One difference is wanted: CR, VT, FF, NEL, U+2028 and U+2029 inside a caption become a space first. Java reads them as
line ends, and every later caption of the file then moves, silently, to the next image.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from fastvlm_bench.metrics.ptb_characters import DIGITS, LETTERS, MARKS, SIGNS

VERSION = "3"
"""It changes whenever any text gets other tokens, because scores by different versions cannot be compared."""

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that coco-caption drops. Its list also has -LRB- … -RCB-, which never match the lower-case output."""

_LINE_BREAKS = re.compile("[\n\r\v\f\x85\u2028\u2029]")
_SOFT_HYPHEN_INSIDE = re.compile("(?<=\\w)\xad(?=\\w)")

_L, _D, _LD = f"[{LETTERS}]", f"[{DIGITS}]", f"[{LETTERS}{DIGITS}]"
_WL, _WLD = f"[{LETTERS}{MARKS}]", f"[{LETTERS}{MARKS}{DIGITS}]"
# The {0,99} bounds below keep the time linear in the length of a hostile text.
_AN = "[A-Za-z0-9]"
_APOS, _MARK = "['\u2019\x92]", "['`\u2018\u2019\u201b\x91\x92]"
_END, _ALONE = "(?![A-Za-z])", "(?![A-Za-z0-9])"
_WORD = f"{_WL}{_WLD}*(?:[.!?]{_WL}{_WLD}*)*"

# Abbreviations that keep their dot: _ALWAYS in any case; _CAPITALISED as "Mass." or "MASS."; _BEFORE_NUMBER only before
# a number; _NOT_SHOUTED as "mfg." or "Mfg.", not in capitals.
_ALWAYS = (
    "adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bldg blvd brig bros calif capt cf cie cmdr co"
    " col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov"
    " govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mich minn mlle mme"
    " mo mon mont mr mrs ms msgr mt natl neb nev nov oct okla penn pfc ph plc pres prof profs pvt rd rep reps rev rt"
    " sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues univ va vs vt wed wis"
    " wisc wm wyo bhd"
)
# Those of _ALWAYS after whose dot a letter or a hyphen begins a new token, unless another rule matches more.
_ENDS = (
    "al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga"
    " inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc rd rt sep"
    " sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo"
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
_LABEL = f"[{LETTERS}{DIGITS}]{{1,63}}"
_PATH = '/[^ \\t"<>|()]{1,999}[^ \\t"<>|.!?(){},-]'
_TAG = (
    "</?[A-Za-z][A-Za-z0-9_:.-]*(?: +[A-Za-z][A-Za-z0-9_:.-]*(?: *= *(?:\"[^\"]*\"|'[^']*'))?)* */?>"
    "|<[!?][A-Za-z-][^<>]*>"
)
_PHONE = (
    "(?:\\+\\d{2,3}[ \xa0-]?)?(?:\\(\\d{2,3}\\)[ \xa0]?|\\d{2,4}[ \xa0-])\\d{3,4}[ \xa0-]?\\d{3,5}"
    "|(?:\\+\\d{2,3}[ \xa0-])\\d{2,4}[ \xa0-]\\d{3,4}[ \xa0-]?\\d{3,5}"
)

# (pattern, kind). Where a pattern has a group, the group is the token and the rest is look-ahead.
_RULES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), kind)
    for pattern, kind in (
        (f"((?:(?i:ph\\.d|{_either(_ENDS)})|{_TITLE_OR_UPPER}|[Pp](?:pte|pty|tes?|tys?))\\.)(?:{_WL}|-{_LD})", "text"),
        ("(?i:cannot|gonna|gotta|wanna|lemme|gimme)", "split"),
        ("('[tT])(?i:is|was)", "text"),
        (_TAG, "text"),
        ('(?i:https?)://[^\\s"<>|(){}]{1,99}\\.[^\\s"<>|(){}]{0,999}[^\\s"<>|().!?,{}-]', "text"),
        (f"(?:{_LABEL}\\.){{1,9}}(?:com|net|org|edu){_PATH}", "text"),
        (f"[wW][wW][wW]\\.(?:{_LABEL}\\.){{1,9}}[A-Za-z]{{2,4}}(?:{_PATH})?", "text"),
        ('[A-Za-z0-9][^\\s"<>|(){}]{0,99}@(?:[^\\s"<>|().]+\\.)*[^\\s"<>|().{}]+', "text"),
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
        (f"[dDoOlL]{_MARK}{_WL}{_WLD}+|[A-HJ-XZn]{_MARK}{_WL}{_WL}+", "text"),
        (f"{_WL}+[aeiouyAEIOUY]{_MARK}[aeiouA-Z]{_WL}*", "text"),
        (f"(?i:c'mon|cap'n|s'mores|e{_APOS}er)", "text"),
        (f"[dDlL]{_APOS}", "text"),
        (f"([yY]{_APOS}){_L}", "text"),
        (_WORD, "text"),
        (f"{_D}+(?:{_L}{_LD}*)?", "text"),
        (f"(?:[dDoOlL]{_APOS}{_L})?{_LD}+(?:[-_\u058a\u2010\u2011](?:[dDoOlL]{_APOS}{_L})?{_LD}+)+", "text"),
        (f"{_AN}+(?:-[A-Za-z]+)*(?:\\\\?/{_AN}+(?:-[A-Za-z]+)*)+", "text"),
        (f"{_AN}[A-Za-z0-9.,]{{0,99}}(?:-(?:(?:[A-Za-z]\\.){{2,}}|{_AN}+))+", "text"),
        (f"{_AN}+(?:\\.{_AN}+)*\\.(?i:{_either(_FILE_TYPES)})(?=[ \t\u3000!,.?]|$)", "text"),
        (f"[-+]?(?:{_D}*(?:[.,:]{_D}+)+|{_D}+)", "text"),
        (f"((?:{_WORD}|{_LD}+(?:-{_LD}+)*|[dDoOlL]{_MARK}{_WL}{_WLD}+)\\.)[,;:]", "text"),
        ("[A-Za-z](?:\\.[A-Za-z])+\\.?", "text"),
        (_ABBREVIATION, "text"),
        (f"([A-Za-z])\\.\\s+(?:(?:{_STARTS})(?:\\s|$)|<[A-Za-z])", "text"),
        (f"((?i:{_either(_BEFORE_NUMBER)})\\.)\\s?{_D}", "text"),
        ("(?:\\d{1,4}[- \xa0])?\\d{1,4}(?:\\\\?/|\u2044)\\d{1,4}", "text"),
        (f"(?<![0-9])(?:{_PHONE})(?![0-9])", "text"),
        (f"([<>]?[:;=](?:[-o*']|\x92)?[(){{DPdpO\\\\@|\\[\\]]){_ALONE}", "text"),
        ("[-<=>^~']_[-<=>^~']|<<|>>|@+", "text"),
        ("-(?i:[lr][rsc]b)-", "text"),
        ("([A-Z]+\\$|[cC]\\+\\+|[cCfF]#)", "text"),
        ("\\\\\\*", "text"),
        ("-----+", "text"),
        ("-+", "dash"),
        ("\\.\\.\\.+|\\. \\. \\.", "ellipsis"),
        ("[!?]+|\\*+|_+|#+", "text"),
        ("[\xb2\xb3\xb9\u2070\u2074-\u2079]+|[\u2080-\u2089]+", "text"),
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
# A single character of these is a token. Any other that no rule knows separates words like a space (emoji, NUL, …).
_SIGN = re.compile(f"[!#+/:?@_`{SIGNS}\u2044]")
# Two typographic quotes side by side are one token, of the ASCII signs for each.
_QUOTES = {
    ord(mark): sign
    for sign, marks in (("`", "`\x91\u2018\u201b\u2039"), ("'", "\x92\u2019\u203a"),
                        ("``", "\x93\u201c\xab"), ("''", "\x94\u201d\xbb"))
    for mark in marks
}  # fmt: skip
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": "''", "apos": "'", "nbsp": "", "mdash": "--", "ndash": "--"}
_BRACKETS = str.maketrans({mark: _SINGLE[mark] for mark in "()"})
# The usual case, tried first to save time: a word of plain letters, perhaps a comma, then a space or the end.
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
