"""Which web pages may use a relay. A browser says where a page comes from, which distinguishes it from a program.

Without this, any web page could make its visitors try codes, each from an address of its own.
Source: RFC 6454 section 7, RFC 6455 section 10.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

ANY = "*"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_origins(texts: Sequence[str]) -> frozenset[str]:
    """Return origins in their canonical spelling.

    Args:
        texts: each `https://HOST[:PORT]`, `null` (a page without an origin) or `*` (every page).
    Raises:
        ValueError: one of them is none of these; a relay must not start with it.
    """
    return frozenset(_canonical(text) for text in texts)


def may_come_from(values: Sequence[bytes], allowed: frozenset[str]) -> bool:
    """Return whether a request with these values of `Origin` may be answered. Programs send none."""
    if ANY in allowed:
        return True
    try:
        return all(_canonical(value.decode("ascii")) in allowed for value in values)
    except ValueError:
        return False


def _canonical(text: str) -> str:
    if text in (ANY, "null"):
        return text
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        raise ValueError(f"{text!r} is not an origin, as in https://page.example") from None
    scheme = parts.scheme.lower()
    if not scheme or not parts.hostname or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise ValueError(f"{text!r} is not an origin, as in https://page.example")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{host}" if port in (None, default) else f"{scheme}://{host}:{port}"
