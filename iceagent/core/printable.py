"""Words of others, made fit for a line of ours: for a log, an error or a verdict, which end up on terminals."""

from __future__ import annotations

MAX_WORDS = 200  # ours: characters; a reason phrase of STUN has 127 (RFC 8489 section 14.8)


def printable(text: str) -> str:
    """Return a text of somebody else's without anything a terminal would obey, cut to `MAX_WORDS`."""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_WORDS])
