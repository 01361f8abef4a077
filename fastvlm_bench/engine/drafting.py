"""The drafts of one round: what each row has drafted, which rows go on, and which tokens the next pass reads."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from torch import Tensor

from fastvlm_bench.engine.rows import Row, Tokens
from fastvlm_bench.records.trace import Round

Doubt = Callable[[Sequence[float]], bool]
"""Told for each row how probable the draft finds its likeliest next token, says whether drafting should stop there."""
UNREAD = -1
"""Stands for a draft that is on the device, and that the host has not read yet."""
SURE_SHARE = 0.5
"""Drafting goes on while at least this share of the rows that still draft is sure of its next token.

It was chosen on the embedded model with batches of 4 to 16 on two suites, where a half was best or near best in most
cases. A single row stops as soon as it is not sure.
"""


class Drafts:
    """The drafts of one round.

    A pass reads one token of every row and costs the same, whether or not every row still drafts. So the drafts are
    kept twice. tokens: the drafts of each row, up to its EOS, its limit, or a token that may not be drafted. columns:
    equally many tokens of each row, as passes read them; a row that has stopped drafting repeats its last token.
    """

    def __init__(
        self, rows: Sequence[Row], rooms: Sequence[int], most: int, end_tokens: Collection[int],
        placeholders: Collection[int],
    ) -> None:  # fmt: skip
        """rooms: most tokens for each row. most: most columns. placeholders: ids that are never drafted."""
        self.tokens: list[list[int]] = [[] for _ in rows]
        self.columns = self.tokens if len(rows) == 1 else [[] for _ in rows]
        self.count = 0  # how many columns there are
        self.ended = False  # whether the drafts of every row end with an EOS, so that nothing can follow
        self.unread: list[Tensor] = []  # of the only row, on the device; they are `UNREAD` in `tokens`
        self._rows, self._rooms, self._most = rows, rooms, most
        self._end_tokens, self._placeholders = end_tokens, placeholders
        self._open = [i for i, room in enumerate(rooms) if room > 0]
        self._sure = [True] * len(rows)

    @property
    def wanted(self) -> bool:
        """Whether any row may draft one more token."""
        return self.count < self._most and bool(self._open)

    def doubted(self, chances: Sequence[float], stop_below: float) -> bool:
        """Whether to stop, because less than `SURE_SHARE` of the rows that still draft are sure of their next token.

        chances: for each row, the draft's probability of the likeliest next token. A row that was below `stop_below`
        once counts as unsure for the rest of the round; it drafts on only while enough other rows are sure.
        """
        self._sure = [sure and chance >= stop_below for sure, chance in zip(self._sure, chances, strict=True)]
        return sum(self._sure[i] for i in self._open) < SURE_SHARE * len(self._open)

    def doubt(self, stop_below: float) -> Doubt | None:
        """`doubted` with this threshold, to be given to `session.draft`; None for 0, which is never in doubt."""
        return partial(self.doubted, stop_below=stop_below) if stop_below else None

    def take_unread(self, token: Tensor) -> None:
        """Add a draft of the only row without reading it. token: (1,), on the device. See `read`."""
        self.unread.append(token)
        self.tokens[0].append(UNREAD)
        self.count += 1
        self._open = self._open if len(self.tokens[0]) < self._rooms[0] else []

    def read(self, tokens: Sequence[int]) -> None:
        """The unread drafts are these. What follows an EOS, or begins with a token never drafted, is none of them.

        Passes have read the tokens after it for nothing, which is the price of not waiting for each of them.
        """
        stands = len(tokens)
        for place, token in enumerate(tokens):
            if token in self._placeholders or token in self._end_tokens:
                stands = place + (token in self._end_tokens)
                break
        self.tokens[0][:], self.unread = tokens[:stands], []

    def take(self, tokens: Tokens) -> bool:
        """Add a column: each row that still drafts takes its one token of `tokens`. False if no row takes one.

        A row for which `tokens` has none has stopped drafting.
        """
        # An image placeholder has no embedding as a word, so no drafting pass may read one. It also ends the drafts.
        self._open = [i for i in self._open if tokens[i] and tokens[i][0] not in self._placeholders]
        if not self._open:
            return False
        for i in self._open:
            self.tokens[i].append(tokens[i][0])
        if self.columns is not self.tokens:
            for row, mine, column in zip(self._rows, self.tokens, self.columns, strict=True):
                column.append((mine or row.tokens)[-1])
        self.count += 1
        self._open = [
            i for i in self._open if len(self.tokens[i]) < self._rooms[i] and tokens[i][0] not in self._end_tokens
        ]
        self.ended = not self._open and all(mine and mine[-1] in self._end_tokens for mine in self.tokens)
        return True

    def room(self, index: int) -> int:
        """How many more tokens the row may draft; 0 once it has stopped."""
        return min(self._most - self.count, self._rooms[index] - len(self.tokens[index])) if index in self._open else 0

    def rounds(self, accepted: Sequence[int], emitted: Sequence[int], draft_s: float, verify_s: float) -> list[Round]:
        """Each row's `Round`, once verification has told how many drafts stand and how many tokens were emitted.

        A rejected draft was tested; those after it were not.
        """
        return [
            Round(len(mine), stand + (stand < len(mine)), stand, count, draft_s, verify_s, mine[stand:])
            for mine, stand, count in zip(self.tokens, accepted, emitted, strict=True)
        ]

    def ahead(self, count: int) -> Tokens:
        """The first `count` columns, to be given to `Session.forward`."""
        return self.columns if count == self.count else [column[:count] for column in self.columns]
