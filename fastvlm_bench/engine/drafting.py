"""What the rows of a session draft in one round: which of them still draft, and which tokens a pass must read."""

from collections.abc import Collection, Sequence

from fastvlm_bench.engine.rows import Row, Tokens

SURE_SHARE = 0.5
"""Drafting goes on while at least this share of the rows that draft is sure of its next token. Chosen on the embedded
model, batches of 4 to 16 of two suites: half was best or near best in most cells. One row is all or nothing."""


class Drafts:
    """The drafts of one round. Drafting is rectangular: a pass costs the same, whichever rows want it.

    tokens: the drafts of each row, up to its EOS, its limit, or a token that may not be drafted. columns: equally many
    tokens of each row, which is what a pass reads. Beyond a row's drafts they hold any token of its own.
    """

    def __init__(
        self, rows: Sequence[Row], rooms: Sequence[int], most: int, end_tokens: Collection[int],
        placeholders: Collection[int],
    ) -> None:  # fmt: skip
        """rooms: most tokens that each row may draft. most: columns at most. placeholders: tokens never drafted."""
        self.tokens: list[list[int]] = [[] for _ in rows]
        self.columns = self.tokens if len(rows) == 1 else [[] for _ in rows]
        self.count = 0  # of columns
        self.ended = False  # whether every row has drafted its EOS: nothing can follow
        self._rows, self._rooms, self._most = rows, rooms, most
        self._end_tokens, self._placeholders = end_tokens, placeholders
        self._open = [i for i, room in enumerate(rooms) if room > 0]
        self._sure = [True] * len(rows)

    @property
    def wanted(self) -> bool:
        """Whether any row may draft one more token."""
        return self.count < self._most and bool(self._open)

    def doubted(self, chances: Sequence[float], stop_below: float) -> bool:
        """Whether most rows doubt their next token. A row that has doubted once goes on only with the others.

        chances: of each row, the probability of the draft's likeliest next token.
        """
        self._sure = [sure and chance >= stop_below for sure, chance in zip(self._sure, chances, strict=True)]
        return sum(self._sure[i] for i in self._open) < SURE_SHARE * len(self._open)

    def take(self, tokens: Tokens) -> bool:
        """Add a column: one more token of each row, of which those that draft no more take none. False if none does."""
        # An image placeholder has no words' embedding: a draft of one is never right, and may not be read.
        self._open = [i for i in self._open if tokens[i][0] not in self._placeholders]
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

    def ahead(self, count: int) -> Tokens:
        """The first `count` columns."""
        return self.columns if count == self.count else [column[:count] for column in self.columns]
