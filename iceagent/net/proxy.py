"""Through a proxy: HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929). Names are resolved there."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

import h11
import trio

from iceagent.core.address import TransportAddress
from iceagent.net.api import Network
from iceagent.net.host_names import check_host
from iceagent.net.proxy_choice import Proxy, parse_proxy, proxy_for, proxy_from_environment
from iceagent.net.staggered import first_of, interleave
from iceagent.net.tls import client_context, wrap_tls

PROXY_TIMEOUT_S: Final = 10.0  # ours: from the connection to the proxy to its yes
ATTEMPT_DELAY_S: Final = 0.5  # ours: a proxy's address that has not said yes by then is joined by the next one
MAX_RESPONSE: Final = 16384  # ours: bytes of the head of an HTTP proxy's answer
_SOCKS_REFUSALS: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}


class ProxyError(OSError):
    """The proxy refuses, or does not speak its protocol."""


def all_permitted(
    addresses: Sequence[TransportAddress], permits: Callable[[TransportAddress], bool] | None
) -> list[TransportAddress]:
    """Return the addresses that a policy permits, in their order.

    Raises:
        OSError: it permits none of them.
    """
    found = [address for address in addresses if permits is None or permits(address)]
    if addresses and not found:
        raise OSError("its address is forbidden by the policy")
    return found


async def connect_through(
    network: Network,
    proxy: Proxy,
    host: str,
    port: int,
    *,
    local_host: str | None = None,
    permits: Callable[[TransportAddress], bool] | None = None,
    timeout_s: float = PROXY_TIMEOUT_S,
) -> trio.abc.Stream:
    """Return a stream to `host`, which the proxy resolves.

    Args:
        network: where sockets come from.
        proxy: whom to ask.
        host, port: whom to reach.
        local_host: the local address to use, whose family is then that of the way to the proxy; None for any.
        permits: says of the proxy's addresses which may be used; None for all.
        timeout_s: from the lookup of the proxy's name to its yes.

    Raises:
        OSError: the proxy cannot be reached, or refuses (`ProxyError`).
    """
    try:
        with trio.fail_after(timeout_s):
            return await first_of(
                interleave(await _addresses_of(network, proxy, local_host, permits)),
                lambda address: _connect_at(network, address, proxy, (host, port), local_host),
                discard=trio.aclose_forcefully,
                delay_s=ATTEMPT_DELAY_S,
            )
    except trio.TooSlowError:
        raise ProxyError(f"the proxy {proxy.host} did not connect to {host} within {timeout_s:g} s") from None


async def _addresses_of(
    network: Network, proxy: Proxy, local_host: str | None, permits: Callable[[TransportAddress], bool] | None
) -> list[TransportAddress]:
    family = None if local_host is None else 6 if ":" in local_host else 4
    return all_permitted(await network.resolve(proxy.host, proxy.port, family=family), permits)


async def _connect_at(
    network: Network, address: TransportAddress, proxy: Proxy, target: tuple[str, int], local_host: str | None
) -> trio.abc.Stream:
    """Connect through the proxy at one of its addresses; one that connects and says nothing is dead, too."""
    stream = await network.connect_tcp(address, local_host=local_host)
    return await _connect_through(stream, proxy, *target)


async def _connect_through(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> trio.abc.Stream:
    try:
        host = _checked(host)
        if proxy.scheme == "https":
            stream = await wrap_tls(stream, client_context(), proxy.host)
        if proxy.scheme == "socks5":
            await _socks5(stream, proxy, host, port)
        else:
            await _http_connect(stream, proxy, host, port)
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise ProxyError(f"the proxy {proxy.host} broke the connection") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _checked(host: str) -> str:
    """Return a host as it is written to a proxy, whoever named it: without anything that would end a line."""
    try:
        return check_host(host, bracketed=":" in host)
    except ValueError as error:
        raise ProxyError(f"no proxy is asked for {host[:80]!r}: {error}") from None


async def _http_connect(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [("Host", authority)]
    if proxy.username:
        token = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        headers.append(("Proxy-Authorization", f"Basic {token}"))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RESPONSE)
    await stream.send_all(http.send(h11.Request(method="CONNECT", target=authority, headers=headers)) or b"")
    http.send(h11.EndOfMessage())
    while not isinstance(event := _next_event(http, proxy), h11.Response):
        if event is h11.NEED_DATA:
            # A byte at a time: what follows the empty line belongs to the tunnel.
            http.receive_data(await _read(stream, 1, proxy))
    if not 200 <= event.status_code < 300:
        hint = "; it wants a user name and password" if event.status_code == 407 else ""
        raise ProxyError(f"the proxy {proxy.host} refuses to connect to {authority} with {event.status_code}{hint}")


def _next_event(http: h11.Connection, proxy: Proxy) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
    try:
        return http.next_event()
    except h11.RemoteProtocolError as error:
        raise ProxyError(f"{proxy.host} is no HTTP proxy: {error}") from None


async def _socks5(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    await stream.send_all(b"\x05\x02\x00\x02" if proxy.username else b"\x05\x01\x00")
    version, method = await _read(stream, 2, proxy)
    if version != 5:
        raise ProxyError(f"{proxy.host} is no SOCKS5 proxy")
    if method == 2 and proxy.username:
        await _socks5_login(stream, proxy)
    elif method != 0:
        raise ProxyError(f"the proxy {proxy.host} wants a user name and password")
    await stream.send_all(b"\x05\x01\x00" + _socks5_address(host) + port.to_bytes(2, "big"))
    version, reply, _, kind = await _read(stream, 4, proxy)
    if version != 5 or reply != 0:
        why = _SOCKS_REFUSALS.get(reply, f"code {reply}")
        raise ProxyError(f"the proxy {proxy.host} does not connect to {host}: {why}")
    size = {1: 4, 4: 16}.get(kind)
    if size is None:
        size = (await _read(stream, 1, proxy))[0]
    await _read(stream, size + 2, proxy)


async def _socks5_login(stream: trio.abc.Stream, proxy: Proxy) -> None:
    name, password = proxy.username.encode(), proxy.password.encode()
    if not (0 < len(name) < 256 and 0 < len(password) < 256):
        raise ProxyError("user name and password of a SOCKS5 proxy have 1 to 255 bytes")
    await stream.send_all(b"\x01" + bytes((len(name),)) + name + bytes((len(password),)) + password)
    if (await _read(stream, 2, proxy))[1] != 0:
        raise ProxyError(f"the proxy {proxy.host} refuses the user name or password")


def _socks5_address(host: str) -> bytes:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return b"\x03" + bytes((len(host),)) + host.encode()  # an ASCII name of at most 254 bytes: `_checked`
    return (b"\x01" if ip.version == 4 else b"\x04") + ip.packed


async def _read(stream: trio.abc.Stream, size: int, proxy: Proxy) -> bytes:
    data = b""
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        if not part:
            raise ProxyError(f"the proxy {proxy.host} closed the connection")
        data += bytes(part)
    return data


__all__ = [
    "Proxy",
    "ProxyError",
    "all_permitted",
    "connect_through",
    "parse_proxy",
    "proxy_for",
    "proxy_from_environment",
]
