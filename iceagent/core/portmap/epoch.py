"""Whether a gateway has lost its mapping table, by the age it claims. RFC 6886 section 3.6, RFC 6887 section 8.5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_SLACK_S: Final = 2
_DRIFT: Final = 16  # RFC 6887 section 8.5: one part in sixteen

Rule = Callable[[float, int, float, int], bool]
"""Given client and server time before, client and server time now: is the table the same one?"""


def natpmp_rule(client_before: float, server_before: int, client_now: float, server_now: int) -> bool:
    """Return whether the table lives: its age has grown by at least 7/8 of the time, less 2 s. RFC 6886 section 3.6."""
    expected = server_before + (client_now - client_before) * 7 / 8
    return server_now >= expected - _SLACK_S


def pcp_rule(client_before: float, server_before: int, client_now: float, server_now: int) -> bool:
    """Return whether the table lives: both clocks have advanced alike, within 1/16 and 2 s. RFC 6887 section 8.5."""
    if server_now < server_before - 1:
        return False
    client, server = client_now - client_before, server_now - server_before
    return client + _SLACK_S >= server - server / _DRIFT and server + _SLACK_S >= client - client / _DRIFT


class Epoch:
    """The age of one gateway's table, as last heard."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._last: tuple[float, int] | None = None

    def advance(self, now: float, epoch_s: int) -> bool:
        """Take the age a response claims; return False if the table is not the one of the response before."""
        last, self._last = self._last, (now, epoch_s)
        return last is None or self._rule(*last, now, epoch_s)
