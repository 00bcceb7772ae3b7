"""A TCP connection that is replaced by another one between the same two ports: the first has to go at once."""

from __future__ import annotations

import errno
from contextlib import AsyncExitStack
from typing import Any

import trio

from iceagent.core.address import TransportAddress
from iceagent.net import SystemNetwork
from iceagent.net.tcp import listen_tcp, reset_connection

HOST = "127.0.0.1"


def close_well(stream: Any) -> None:
    """Close as aclose() does."""
    (stream.socket if isinstance(stream, trio.SocketStream) else stream).close()


async def replace_connection(network: Any, listener: Any, here: TransportAddress, close: Any) -> int:
    """Connect, send more than the other side takes, close, and connect again between the same ports; return errno."""
    there = listener.local_address if hasattr(listener, "local_address") else listener.socket.getsockname()[:2]

    async def connect(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started(
            await network.connect_tcp(TransportAddress(*there), local_host=here.host, local_port=here.port)
        )

    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        first = await nursery.start(connect)
        stack.push_async_callback(trio.aclose_forcefully, await listener.accept())  # which reads nothing
        with trio.move_on_after(0.5):
            await first.send_all(bytes(32 << 20))
        close(first)
        try:
            second = await network.connect_tcp(TransportAddress(*there), local_host=here.host, local_port=here.port)
        except OSError as error:
            return error.errno or -1
        stack.push_async_callback(trio.aclose_forcefully, await listener.accept())
        reset_connection(second)
        return 0


async def test_after_a_reset_the_port_is_free_at_once() -> None:
    """An ordinary close leaves a connection that still sends, and the system refuses a second one beside it."""
    async with await listen_tcp(HOST, share_port=True) as shared:
        here = TransportAddress(*shared.socket.getsockname())
        async with await listen_tcp(HOST) as listener:
            assert await replace_connection(SystemNetwork(), listener, here, reset_connection) == 0
        async with await listen_tcp(HOST) as listener:
            assert await replace_connection(SystemNetwork(), listener, here, close_well) == errno.EADDRNOTAVAIL


async def test_so_it_is_in_the_virtual_network(vnet: Any) -> None:
    """Its hosts are as strict as real ones."""
    net = vnet()
    alice, bob = net.host(net.internet), net.host(net.internet)
    async with net:
        listener = await bob.listen_tcp(bob.address, 4000)
        here = TransportAddress(alice.address, 5000)
        assert await replace_connection(alice, listener, here, reset_connection) == 0
        assert await replace_connection(alice, listener, here, close_well) == errno.EADDRNOTAVAIL
        listener.close()
