"""URLs of STUN and TURN servers, as an operator writes them and browsers take them.

Source: RFC 7064 section 3.1, RFC 7065 section 3.1, docs/relay-protocol.md section 9.
"""

from __future__ import annotations

import re

from icesignal.url import parse_host
from icesignal.wire import MAX_ICE_URLS, MAX_TEXT

MAX_STUN = 24  # ours: STUN servers beside our own and four entries of TURN, within the 32 entries of a frame
_URL = re.compile(r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<host>[^:\[\]?]*))(?::(?P<port>[0-9]{1,5}))?(?P<query>\?.*)?")
_QUERIES: dict[str, set[str | None]] = {"stun": {None}, "turn": {None, "?transport=udp", "?transport=tcp"}}
_EXAMPLES = {
    "stun": "a STUN URL, as in stun:stun.example:3478",
    "turn": "a TURN URL, as in turn:turn.example:3478?transport=udp",
}


def check_stun(urls: tuple[str, ...]) -> None:
    """Check the STUN servers that members are told of, each an entry of its own.

    Raises:
        ValueError: one of them is none, or there are more than a frame has place for.
    """
    if len(urls) > MAX_STUN:
        raise ValueError(f"{len(urls)} STUN URLs are too many; name at most {MAX_STUN}, two would do")
    for url in urls:
        _check(url, "stun")


def check_turn(urls: tuple[str, ...]) -> None:
    """Check the URLs of one TURN server, or of several behind the same secret.

    Raises:
        ValueError: one of them is none, or there are more than an entry has place for.
    """
    if len(urls) > MAX_ICE_URLS:
        raise ValueError(f"{len(urls)} URLs behind one secret are too many; at most {MAX_ICE_URLS}, others in [[turn]]")
    for url in urls:
        _check(url, "turn")


def _check(url: str, kind: str) -> None:
    if len(url) > MAX_TEXT:
        raise ValueError(f"{url[:32]!r}... is too long; a URL has at most {MAX_TEXT} characters")
    scheme, colon, rest = url.partition(":")
    found = _URL.fullmatch(rest)
    is_good = found is not None and bool(colon) and scheme in (kind, f"{kind}s")
    if found is None or not is_good or found["query"] not in _QUERIES[kind] or not _names_a_place(found):
        raise ValueError(f"{url!r} is not {_EXAMPLES[kind]}")


def _names_a_place(found: re.Match[str]) -> bool:
    """Return whether host and port can be those of a server; an empty host is that of the relay, and needs a port."""
    port, host, bracketed = found["port"], found["host"], found["bracketed"]
    if port is not None and not 0 < int(port) <= 0xFFFF:
        return False
    if bracketed is None and not host:
        return port is not None
    try:
        parse_host(host if bracketed is None else bracketed, in_brackets=bracketed is not None)
    except ValueError:
        return False
    return True
