"""URLs of servers in their short forms."""

from __future__ import annotations

from collections.abc import Sequence

import click


def stun_urls(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> Sequence[str]:
    """Return URLs of servers, of which a STUN server's may have been typed without its scheme."""
    return tuple(with_scheme(text) for text in texts)


def with_scheme(text: str) -> str:
    """Return the URL of a server: `stun.example:3478` is short for `stun:stun.example:3478`."""
    return text if text.partition(":")[0].lower() in {"stun", "stuns", "turn", "turns"} else f"stun:{text}"
