"""Who was removed from a room of many: a bounded set of statements, the same for all who have heard the same. Sans-IO.

Source: docs/relay-protocol.md section 14.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from icesignal.room_keys import BadStatement, Statement, read_statement_untrusted
from icesignal.room_pairs import lp

REMOVAL: Final = b"\x04"  # the first byte of a payload that is for all, sealed for nobody
MAX_STATEMENTS: Final = 256  # of the owner, and as many of others: as many as a relay keeps out
MAX_IN_ONE: Final = 32
_LENGTH_BYTES: Final = 4


class Removals:
    """The removals that a member knows of. None is ever forgotten: who was removed would come back.

    The owner's have a place of their own, so that whoever else may remove cannot fill it.

    Attributes:
        count: how many statements were ever noted; each has the number that it was then, from 1.
    """

    def __init__(self, room: bytes) -> None:
        self._room = room
        self._statements: dict[bytes, Statement] = {}
        self._numbers: dict[bytes, int] = {}
        self.count = 0

    def __contains__(self, member: bytes) -> bool:
        return member in self._statements

    @property
    def statements(self) -> list[bytes]:
        """The statements, oldest first."""
        return [one.data for one in self._statements.values()]

    def add(self, data: bytes) -> Statement | None:
        """Note a removal; return it if it is good and its member was not removed before.

        An owner's takes the place of another one's for the same member.
        """
        try:
            statement = read_statement_untrusted(self._room, data)
        except BadStatement:
            return None
        former = self._statements.get(statement.member)
        if former is not None and (former.by is None or statement.by is not None):
            return None
        if sum((one.by is None) == (statement.by is None) for one in self._statements.values()) >= MAX_STATEMENTS:
            return None
        self._statements.pop(statement.member, None)
        self.count += 1
        self._statements[statement.member], self._numbers[statement.member] = statement, self.count
        return statement if former is None else None

    def parse_untrusted(self, body: bytes) -> Iterator[bytes]:
        """Give the statements that stand one behind the other, each behind its length."""
        for _ in range(MAX_IN_ONE):
            length = int.from_bytes(body[:_LENGTH_BYTES], "big")
            if not 0 < length <= len(body) - _LENGTH_BYTES:
                return
            yield body[_LENGTH_BYTES : _LENGTH_BYTES + length]
            body = body[_LENGTH_BYTES + length :]

    def bodies(self, after: int = 0) -> Iterator[bytes]:
        """Give the statements with a number above `after`, as many to a message as it may have."""
        statements = [one.data for member, one in self._statements.items() if self._numbers[member] > after]
        for start in range(0, len(statements), MAX_IN_ONE):
            yield b"".join(map(lp, statements[start : start + MAX_IN_ONE]))
