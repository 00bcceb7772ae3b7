"""More connections than there is room for: told, bounded in time, and never left hanging."""

# ruff: noqa: SIM117 (what is around stands apart from what is tested)

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing
from fake_link import linked_sessions

from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel import forward, serve, udp, wire
from iceagent.tunnel.forward import forward_local
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import UnixTarget


async def silent_server(listener: trio.SocketListener) -> None:
    async def hold(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        await trio.sleep_forever()

    await trio.serve_listeners(hold, [listener])


async def test_a_connection_beyond_the_sessions_streams_waits_and_is_reset(monkeypatch, caplog, autojump_clock):
    """Number 513 of a session was accepted and left hanging, without a word on either side."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]), trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(silent_server, listener)
        async with forward_local(joiner, f"0:127.0.0.1:{listener.socket.getsockname()[1]}") as opened:
            slots = trio.Semaphore(2)
            open_service = joiner.streams.open_service

            async def open_limited(name: str) -> object:
                await slots.acquire()
                return await open_service(name)

            monkeypatch.setattr(joiner.streams, "open_service", open_limited)
            monkeypatch.setattr(type(joiner.streams), "can_open", property(lambda _: slots.value > 0))
            near = ("127.0.0.1", int(opened.bind.rpartition(":")[2]))
            clients = [await trio.open_tcp_stream(*near) for _ in range(2)]
            for client in clients:
                assert await client.receive_some() == b"hello"
            late = await trio.open_tcp_stream(*near)
            with pytest.raises(trio.BrokenResourceError):
                await late.receive_some()
            waiting = await trio.open_tcp_stream(*near)
            await trio.sleep(0.1)
            slots.release()  # another has ended
            assert await waiting.receive_some() == b"hello"
            for client in (*clients, late, waiting):
                await client.aclose()
        nursery.cancel_scope.cancel()
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("as many connections as it can; one to tcp:" in line and "waits" in line for line in lines)
    assert any("is given up" in line for line in lines)


async def test_a_connection_beyond_a_forwards_bound_is_reset_at_once(monkeypatch, caplog):
    """It waited in the backlog, where nobody could see it."""
    monkeypatch.setattr(forward, "MAX_CONNECTIONS", 2)
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]), trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(silent_server, listener)
        async with forward_local(joiner, f"0:127.0.0.1:{listener.socket.getsockname()[1]}") as opened:
            near = ("127.0.0.1", int(opened.bind.rpartition(":")[2]))
            clients = [await trio.open_tcp_stream(*near) for _ in range(2)]
            for client in clients:
                assert await client.receive_some() == b"hello"
            with pytest.raises((OSError, trio.BrokenResourceError)):
                async with await trio.open_tcp_stream(*near) as late:
                    await late.receive_some()
            for client in clients:
                await client.aclose()
        nursery.cancel_scope.cancel()
    assert any("a further one was reset" in record.getMessage() for record in caplog.records)


async def test_a_wish_beyond_the_listeners_bound_is_answered(monkeypatch, caplog):
    """The side of the targets must not be the one that leaves it hanging, either."""
    monkeypatch.setattr(serve, "SLOT_PATIENCE_S", 0.05)
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"], limit=1):
        first = await joiner.streams.open_service(TUNNEL_SERVICE)  # takes the slot, and says nothing
        await trio.testing.wait_all_tasks_blocked()
        second = await joiner.streams.open_service(TUNNEL_SERVICE)
        await wire.send_request(second, wire.request_for(UnixTarget("/nowhere"), op="check"))
        answer = await wire.receive_answer(second)
        assert (answer.status, answer.reason) == ("failed", "it serves 1 connections already")
        first.reset()
    assert any("further ones wait" in record.getMessage() for record in caplog.records)


async def test_flows_that_make_room_are_told(monkeypatch, caplog):
    """An application whose flow ended for another's would otherwise look for the fault in the network."""
    monkeypatch.setattr(udp, "MAX_FLOWS", 2)
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        async with forward_local(joiner, "0:127.0.0.1:9/udp") as opened:
            near = ("127.0.0.1", int(opened.bind.rpartition(":")[2]))
            for _ in range(4):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(b"x", near)
                    await trio.testing.wait_all_tasks_blocked(0.01)
    assert any("makes room" in record.getMessage() for record in caplog.records)


async def test_an_answer_that_never_comes_is_not_waited_for_for_ever(monkeypatch, caplog):
    """The other side may be stopped, or cut off, between our request and its answer."""
    monkeypatch.setattr(forward, "ANSWER_PATIENCE_S", 0.05)
    scope = trio.CancelScope()
    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:

        async def serve_at_first(task_status: trio.TaskStatus[None]) -> None:
            with scope:
                async with serve_forwards(inviter, ["any"]):
                    task_status.started()
                    await trio.sleep_forever()

        await nursery.start(serve_at_first)
        async with forward_local(joiner, "0:127.0.0.1:9") as opened:
            scope.cancel()
            client = await trio.open_tcp_stream("127.0.0.1", int(opened.bind.rpartition(":")[2]))
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
            await client.aclose()
    assert any("has not answered about tcp:127.0.0.1:9" in record.getMessage() for record in caplog.records)


async def test_a_unix_connection_that_broke_is_named_with_its_bytes(tmp_path: Path, caplog):
    """Its reader sees an ordinary end, and only the log knows better."""
    path = str(tmp_path / "near")
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]), trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(silent_server, listener)
        async with forward_local(joiner, f"unix:{path}:127.0.0.1:{listener.socket.getsockname()[1]}"):
            client = await trio.open_unix_socket(path)
            assert await client.receive_some() == b"hello"
        assert await client.receive_some() == b""
        await client.aclose()
        nursery.cancel_scope.cancel()
    assert any("broke after 5 bytes" in record.getMessage() for record in caplog.records)
    assert not os.path.exists(path)
