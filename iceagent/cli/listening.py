"""Where servers listen: `HOST:PORT` to addresses of this machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.host_names import resolve
from iceagent.net.sockaddr import bind_sockaddr
from iceagent.tunnel.spec import canonical_host, parse_port, split_fields

DEFAULT_LISTEN = "0.0.0.0:8080"
A_RIGHT_ONE = f"A right one: {DEFAULT_LISTEN}, or [::]:8080"


def split_listen(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, `[::1]:PORT`, `*:PORT` or `:PORT`.

    Raises:
        ValueError: the text is none of these.
    """
    *hosts, port = split_fields(text)
    if len(hosts) != 1:
        raise ValueError("HOST or PORT is missing")
    if hosts[0] not in {"", "*"}:
        canonical_host(hosts[0])
    return hosts[0], parse_port(port, zero=True)


async def parse_listen(text: str, option: str = "--listen") -> list[TransportAddress]:
    """Return the addresses to bind of `HOST:PORT`, `[::1]:PORT`, `*:PORT` or `:PORT`, all with the same port.

    `*` is both families, and a name all its addresses that are this machine's.

    Args:
        text: as it was typed.
        option: where.
    Raises:
        LocalError: the text is none of these, or the name does not resolve.
    """
    try:
        host, number = split_listen(text)
        if host in {"", "*"}:
            found = [TransportAddress(one, number) for one in ("0.0.0.0", "::")]  # noqa: S104 (asked for)
        else:
            found = await resolve(canonical_host(host), number)
        ours = [one for one in found if len(found) == 1 or _is_ours(one.host)] or found[:1]
        return ours if number or len(ours) == 1 else _with_one_port(ours)
    except (ValueError, OSError) as error:
        raise LocalError(f"{option} {text!r} cannot be: {error}. {A_RIGHT_ONE}") from None


def _is_ours(host: str) -> bool:
    """Return whether something can be bound to an address: it is this machine's, and the kernel has its family."""
    family, address = bind_sockaddr(host, 0)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind(address)
    except OSError:
        return False
    return True


def _with_one_port(addresses: Sequence[TransportAddress]) -> list[TransportAddress]:
    """Return addresses with a port that was free at the first of them a moment ago."""
    family, address = bind_sockaddr(addresses[0].host, 0)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        return [TransportAddress(one.host, sock.getsockname()[1]) for one in addresses]
