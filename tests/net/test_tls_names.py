"""Names as TLS and certificates have them, whatever they look like in a URL."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
from coturn import make_certificate

from iceagent.core.address import TransportAddress
from iceagent.net import SystemNetwork
from iceagent.net.host_names import check_host, tls_name
from iceagent.net.tls import client_context, wrap_tls

NAME = "turn.example.org"


@pytest.mark.parametrize(
    ("host", "name"),
    [(f"{NAME}.", NAME), (NAME, NAME), ("fe80::1%eth0", "fe80::1"), ("192.0.2.1", "192.0.2.1"), (".", ".")],
)
def test_final_dots_and_zones_are_no_part_of_a_certificates_name(host: str, name: str) -> None:
    """RFC 6066 section 3; a server asked for `name.` presents another site's certificate."""
    assert tls_name(host) == name


async def test_a_server_is_verified_by_its_name_with_a_final_dot(tmp_path: Path) -> None:
    """`turns:turn.example.org.` is the same server, absolutely; and another name is still refused."""
    certificate, key = make_certificate(tmp_path, NAME)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    asked_for: list[str | None] = []
    context.sni_callback = lambda _sock, name, _context: asked_for.append(name)
    network = SystemNetwork()
    listener = await network.listen_tcp("127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def serve(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, context, server_side=True)
        try:
            await secured.do_handshake()
            await secured.receive_some()
        except (trio.BrokenResourceError, ssl.SSLError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        trusted = client_context(str(certificate))
        target = TransportAddress("127.0.0.1", port)
        secured = await wrap_tls(await network.connect_tcp(target), trusted, f"{NAME}.")
        await trio.aclose_forcefully(secured)
        assert asked_for == [NAME]
        with pytest.raises(ssl.SSLCertVerificationError):
            await wrap_tls(await network.connect_tcp(target), trusted, "other.example.org.")
        for bad in ("", ".", ".x", "a" * 70 + ".example", "a\0b"):
            with pytest.raises(OSError):
                await wrap_tls(await network.connect_tcp(target), trusted, bad)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["", ".", "..", "a..b", "-a", "a-", "a b", "a\n", "x" * 64, "é" * 70, "\ud800", "a%b"])
def test_what_is_no_name_is_refused(host: str) -> None:
    """Each would be some library's own exception later."""
    with pytest.raises(ValueError):
        check_host(host)
