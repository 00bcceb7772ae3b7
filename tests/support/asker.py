"""Asks a STUN and TURN server from sockets that hear nobody but the address asked; run in a network namespace.

    python asker.py stun HOST PORT
    python asker.py turn HOST PORT USER PASSWORD REALM [DTLS_PORT]
    python asker.py tcp HOST PORT USER PASSWORD REALM

Prints one JSON line. The peer of the relay is a socket beside the client, which sends 50 datagrams back at once.
"""

from __future__ import annotations

import json
import os
import random
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import trio
from turn_bench import Client
from turn_wire import WireClient, dtls_client, stream_client

from iceagent.core import stun
from iceagent.core.address import make_address
from iceagent.net import SystemNetwork

PATIENCE_S = 5.0
BULK = [bytes([number]) * 1000 for number in range(50)]


async def connected(host: str, port: int) -> trio.socket.SocketType:
    """Return a socket that drops whatever comes from elsewhere, as a NAT does."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_DGRAM)
    family, kind, _, _, target = found[0]
    sock = trio.socket.socket(family, kind)
    await sock.connect(target)
    return sock


async def ask_stun(host: str, port: int) -> dict[str, Any]:
    sock = await connected(host, port)
    await sock.send(stun.encode(stun.binding_request(os.urandom(12))))
    answer = stun.decode(await sock.recv(2000))
    mapped = answer.get(stun.XorMappedAddress)
    return {"mapped": None if mapped is None else str(mapped.address)}


async def ask_turn(client: WireClient, pad: int = 0) -> dict[str, Any]:
    """Allocate, and have a bulk of datagrams go to a peer and come back; `pad` ends a message on a stream."""
    relayed = await client.allocate()
    peer = await SystemNetwork().open_udp("10.90.0.2")
    await client.bind(0x4000, peer.local_address)
    await client.send(b"\x40\x00\x00\x05hello" + bytes(pad))
    (batch,) = await peer.receive()
    await peer.send(BULK, batch.remote)
    back = [await client.receive() for _ in BULK]
    assert [one[4:] for one in back] == BULK
    await client.permit(make_address("10.90.0.2", 0))
    return {"relayed": str(relayed), "seen": str(batch.remote), "bulk": len(back)}


def with_user(client: WireClient, user: str, password: str, realm: str) -> WireClient:
    client.maker = Client(SimpleNamespace(random=random.Random(1)), username=user, password=password, realm=realm)  # type: ignore[arg-type]
    return client


async def over_udp(host: str, port: int, account: list[str]) -> dict[str, Any]:
    sock = await connected(host, port)

    async def receive() -> bytes:
        return bytes(await sock.recv(65535))

    return await ask_turn(with_user(WireClient(sock.send, receive), *account))


async def over_tcp(host: str, port: int, account: list[str]) -> dict[str, Any]:
    async with await trio.open_tcp_stream(host, port) as stream:
        return await ask_turn(with_user(stream_client(stream), *account), pad=3)


async def over_dtls(host: str, port: int, account: list[str]) -> dict[str, Any]:
    async with dtls_client(make_address(host, port)) as client:
        return await ask_turn(with_user(client, *account))


async def main(kind: str, host: str, port: str, *rest: str) -> None:
    answer: dict[str, Any] = {"error": "silence"}
    with trio.move_on_after(PATIENCE_S):
        if kind == "stun":
            answer = await ask_stun(host, int(port))
        elif kind == "tcp":
            answer = await over_tcp(host, int(port), list(rest))
        elif len(rest) > 3:
            answer = await over_dtls(host, int(rest[3]), list(rest[:3]))
        else:
            answer = await over_udp(host, int(port), list(rest))
    print(json.dumps(answer))


if __name__ == "__main__":
    trio.run(partial(main, *sys.argv[1:]))
