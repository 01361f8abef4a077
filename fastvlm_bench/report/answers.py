"""An answer token by token, round by round, as `show` and `run --show` print it: in colour, or with marks.

rich is imported when something is printed, so that the command line starts fast.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastvlm_bench.analysis.emitted import (
    ACCEPTED,
    DRAFTED,
    NOT_EMITTED,
    OWN,
    PREFILL,
    REJECTED,
    UNTESTED,
    Emitted,
    Token,
    emitted_rounds,
    running_speedup,
)
from fastvlm_bench.report.layout import fit, plain, say
from fastvlm_bench.report.numbers import milliseconds, number

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

STYLES = {PREFILL: "bold cyan", OWN: "bold cyan", ACCEPTED: "green", DRAFTED: "yellow", REJECTED: "red strike",
          UNTESTED: "bright_black strike"}  # fmt: skip
MARKS = {PREFILL: ("{", "}"), OWN: ("{", "}"), ACCEPTED: ("", ""), DRAFTED: ("<~", "~>"), REJECTED: ("[-", "-]"),
         UNTESTED: ("[~", "~]")}  # fmt: skip
"""What stands around the tokens of a kind where there is no colour."""
WORDS = {OWN: "the target's own", ACCEPTED: "drafted and accepted", DRAFTED: "drafted, never verified",
         REJECTED: "rejected", UNTESTED: "drafted after a rejection, never tested"}  # fmt: skip
LINE_FEED, JOINT = "↵", "·"
"""Shown for a line feed, and between the tokens of one word."""


def print_answer(
    console: "Console", line: Mapping[str, Any], reference: Mapping[str, Any] | None, ends: Collection[int] = ()
) -> None:
    """Print one line of samples.jsonl. reference: the reference's line of the same sample. ends: the ids of EOS."""
    from rich import box
    from rich.table import Table

    say(console, _headline(line), "bold")
    if line["error"] is not None:
        say(console, f"failed: {line['error']}", "red")
        return
    rounds, coloured = emitted_rounds(line), console.color_system is not None and not console.no_color
    ends = {*ends, *(line["token_ids"][-1:] if line["stop"] == "eos" else ())}
    own = line if reference is not None and line["method"] == reference["method"] else None
    table = Table(box=box.ASCII if plain(console) else box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
                  collapse_padding=True, header_style="bold")  # fmt: skip
    for header in ("round", "stood", "ms", "so far"):
        table.add_column(header, justify="right", no_wrap=True, vertical="top")
    table.add_column("answer", overflow="fold")
    for first, part in _rows(rounds):
        last = part[-1]
        numbers = str(first) if len(part) == 1 else f"{first}-{last.number}"
        speedup = None if own is not None else running_speedup(last, reference)
        text = _text([token for done in part for token in done.tokens], ends, coloured, console)
        table.add_row("prefill" if not last.number else numbers, _stood(part),
                      milliseconds(sum(done.seconds for done in part)),
                      "" if speedup is None else fit(f"{number(speedup)}×", console), text)  # fmt: skip
    console.print(table)
    say(console, _totals(line, rounds, reference, own is None), "dim")
    for sentence in missing(line, rounds):
        say(console, sentence, "yellow")


def print_legend(console: "Console", kinds: Iterable[str] = tuple(WORDS)) -> None:
    """Print how each kind of token looks on this console."""
    from rich.text import Text

    coloured = console.color_system is not None and not console.no_color
    legend = Text()
    for kind in kinds:
        legend.append("  " if legend else "")
        legend.append(_marked(WORDS[kind], kind, coloured), STYLES[kind] if coloured else "")
    console.print(Text(fit(legend.plain, console)) if plain(console) else legend)


def _headline(line: Mapping[str, Any]) -> str:
    batch = line.get("batch")
    repeat = f" · repeat {line['repeat'] + 1}" if line["repeat"] else ""
    drawn = f" · drawn with seed {line['seed']}" if line.get("seed") is not None else ""
    inside = f" · in a batch of {batch['size']}, of whose seconds these are its shares" if batch else ""
    return f"{line['suite']} · sample {line['sample_id']} · {line['method']}{repeat}{drawn}{inside}"


def _rows(rounds: Sequence[Emitted]) -> list[tuple[int, list[Emitted]]]:
    """(number of the first, rounds) of each row: one round, or all that follow each other and verified no draft."""
    rows: list[tuple[int, list[Emitted]]] = []
    before = PREFILL
    for done in rounds:
        kinds = {token.kind for token in done.tokens}
        kind = kinds.pop() if len(kinds) == 1 else ""
        if kind == before and kind in (OWN, DRAFTED) and done.complete:
            rows[-1][1].append(done)
        else:
            rows.append((done.number, [done]))
        before = kind if done.complete else ""
    return rows


def _stood(part: Sequence[Emitted]) -> str:
    """Accepted of drafted, as far as the drafts are recorded: "4/6"; "" where nothing was drafted."""
    kinds = Counter(token.kind for done in part for token in done.tokens)
    drafted = kinds[ACCEPTED] + kinds[REJECTED] + kinds[UNTESTED]
    if not all(done.complete for done in part):
        return f"{kinds[ACCEPTED]}/?"
    return f"{kinds[ACCEPTED]}/{drafted}" if drafted else ""


def _text(tokens: Sequence[Token], ends: Collection[int], coloured: bool, console: "Console") -> "Text":
    """The tokens, each in the style of its kind, or groups of a kind within its marks."""
    from rich.text import Text

    found = Text()
    groups: list[tuple[str, list[str]]] = []
    for token in tokens:
        if groups and groups[-1][0] == token.kind:
            groups[-1][1].append(_said(token, ends))
        else:
            groups.append((token.kind, [_said(token, ends)]))
    before = ""
    for kind, texts in groups:
        whole = texts[0] + "".join(JOINT + text if text[:1].isalnum() else text for text in texts[1:])
        bare = whole.lstrip(" ")
        apart = bare != whole or NOT_EMITTED & {kind, before}
        found.append(" " if apart and before else "")
        found.append(fit(_marked(bare, kind, coloured), console), STYLES[kind] if coloured else "")
        before = kind
    return found


def _marked(text: str, kind: str, coloured: bool) -> str:
    before, after = ("", "") if coloured else MARKS[kind]
    return f"{before}{text}{after}"


def _said(token: Token, ends: Collection[int]) -> str:
    """A token's text; its number where it has none: a special token, the begin of a character, an older record."""
    if not token.text:
        return "<eos>" if token.token_id in ends else f"<{token.token_id}>"
    return token.text.replace("\n", LINE_FEED)


def _totals(
    line: Mapping[str, Any], rounds: Sequence[Emitted], reference: Mapping[str, Any] | None, compare: bool
) -> str:
    kinds = Counter(token.kind for done in rounds for token in done.tokens)
    kinds[OWN] += kinds.pop(PREFILL)
    told = ", ".join(f"{kinds[kind]} {words}" for kind, words in WORDS.items() if kinds[kind])
    count = len(rounds) - 1
    text = f"{len(line['token_ids'])} tokens in {count} round{'' if count == 1 else 's'} after the prefill: {told}"
    speedup = running_speedup(rounds[-1], reference) if compare else None
    text += f"; decoding took {milliseconds(line['decode_s'])} ms"
    if speedup is not None and reference is not None:
        same = ""
        if line.get("seed") is None:
            same = ", the same tokens" if line["token_ids"] == reference["token_ids"] else ", other tokens"
        text += f", {number(speedup)}× {reference['method']} per token{same}"
    return text


def missing(line: Mapping[str, Any], rounds: Sequence[Emitted]) -> list[str]:
    """What an older record does not tell of this answer, one sentence each."""
    found = []
    if line.get("token_chars") is None:
        found.append(
            f"This older record has no text of single tokens, so their ids are shown. The answer: {line['text']}"
        )
    if unknown := sum(not done.complete for done in rounds):
        found.append(
            f"In {unknown} rounds a draft was rejected that this record does not name; measure again to see it."
        )
    return found


def shown_kinds(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """The kinds of tokens that occur in these lines, in the order of the legend."""
    kinds = {token.kind for line in lines if line["error"] is None for done in emitted_rounds(line)
             for token in done.tokens}  # fmt: skip
    return [kind for kind in WORDS if kind in kinds or (kind == OWN and PREFILL in kinds)]
