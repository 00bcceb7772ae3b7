"""Where a Redis is, as an operator writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

DEFAULT_PORT: Final = 6379
EXAMPLE: Final = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is, and as whom it is spoken to."""

    host: str
    port: int
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    is_cluster: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.is_tls else 'redis'}://{host}:{self.port}"


def parse_redis_url(url: str) -> RedisAddress:
    """Return where `redis://[USER:PASSWORD@]HOST[:PORT][/DB][?cluster=yes]`, or the same with `rediss`, leads.

    Raises:
        ValueError: it is none of these. The text does not have the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"the engine's URL has no port from 1 to 65535; a right one: {EXAMPLE}") from None
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"no engine is called {parts.scheme or 'so'!r}; there are memory and {EXAMPLE}")
    db = parts.path.strip("/") or "0"
    if not parts.hostname or not (db.isascii() and db.isdigit() and len(db) < 4) or parts.fragment:
        raise ValueError(f"the engine's URL is not redis://[USER:PASSWORD@]HOST[:PORT][/DB]; a right one: {EXAMPLE}")
    if parts.query not in ("", "cluster=yes"):
        raise ValueError("the engine's URL may end with ?cluster=yes, and with nothing else")
    return RedisAddress(
        host=parts.hostname,
        port=DEFAULT_PORT if port is None else port,
        db=int(db),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        is_tls=parts.scheme == "rediss",
        is_cluster=parts.query != "",
    )
