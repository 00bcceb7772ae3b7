"""Forwards of sockets over there (`-R`), over a link in memory, with real sockets at both ends."""

# ruff: noqa: SIM117 (what is around stands apart from what is tested)

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from fake_link import link_of, linked_sessions
from udp_echo import udp_echo

from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel import listening, remote, wire
from iceagent.tunnel.allow import is_allowed, parse_rules
from iceagent.tunnel.errors import FailedError, RefusedError, SpecError
from iceagent.tunnel.forward import Forward, forward_dynamic, forward_local
from iceagent.tunnel.remote import forward_remote
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import (
    BackTarget,
    ListenTarget,
    PortBind,
    Target,
    TcpTarget,
    UnixBind,
    UnixTarget,
    parse_forward,
)


@asynccontextmanager
async def capitals() -> AsyncIterator[int]:
    """A server that answers in capitals once the question has ended."""

    async def upper(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async with stream:
                await stream.send_all(b"".join([part async for part in stream]).upper())

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, upper, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def listened(spec: str, *allow: str) -> AsyncIterator[Forward]:
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, allow):
        async with forward_remote(joiner, spec) as forward:
            yield forward


async def connect(forward: Forward) -> trio.SocketStream:
    host, _, port = forward.bind.rpartition(":")
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


async def ask(stream: trio.SocketStream, question: bytes) -> bytes:
    async with stream:
        await stream.send_all(question)
        await stream.send_eof()
        return b"".join([part async for part in stream])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def test_a_port_over_there_leads_here() -> None:
    async with capitals() as port, listened(f"0:127.0.0.1:{port}", "listen:0") as forward:
        assert forward.bind.startswith("127.0.0.1:")
        assert not forward.bind.endswith(":0")
        for question in (b"one", b"two" * 100_000):
            assert await ask(await connect(forward), question) == question.upper()


async def test_both_families_and_a_unix_socket(tmp_path) -> None:
    async with capitals() as port, linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["listen:any"]):
        async with forward_remote(joiner, f"localhost:0:127.0.0.1:{port}") as forward:
            assert {bind.rpartition(":")[0] for bind in forward.binds} <= {"127.0.0.1", "[::1]"}
            assert len({bind.rpartition(":")[2] for bind in forward.binds}) == 1
            assert await ask(await connect(forward), b"x") == b"X"
        path = tmp_path / "there.sock"
        async with forward_remote(joiner, f"unix:{path}:127.0.0.1:{port}") as forward:
            assert forward.bind == f"unix:{path}"
            assert path.stat().st_mode & 0o777 == 0o600
            assert await ask(await trio.open_unix_socket(str(path)), b"x") == b"X"
        assert not path.exists()


async def test_datagrams() -> None:
    async with udp_echo() as port, listened(f"0:127.0.0.1:{port}/udp", "listen:0/udp") as forward:
        host, _, near = forward.bind.rpartition(":")
        for _ in range(2):
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                await client.connect((host, int(near)))
                for data in (b"hello", bytes(5000)):
                    await client.send(data)
                    assert await client.recv(65535) == data


async def test_many_are_added_and_removed_while_the_session_runs() -> None:
    """The same port at once again, too: who removes one is told when it is free."""
    async with (
        capitals() as port,
        linked_sessions() as (joiner, inviter),
        serve_forwards(inviter, ["any", "listen:any"]),
    ):
        async with forward_remote(joiner, f"0:127.0.0.1:{port}") as first:
            number = int(first.bind.rpartition(":")[2])
        for _ in range(5):
            assert is_free(number)
            async with (
                forward_remote(joiner, f"{number}:127.0.0.1:{port}") as one,
                forward_remote(joiner, f"0:127.0.0.1:{port}") as other,
                forward_local(joiner, f"0:127.0.0.1:{port}") as local,
            ):
                for forward in (one, other, local):
                    assert await ask(await connect(forward), b"x") == b"X"
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(forward_remote(joiner, f"0:127.0.0.1:{port}")) for _ in range(20)]
            assert len({forward.bind for forward in opened}) == 20


async def test_what_is_connected_ends_with_the_forward() -> None:
    async with capitals() as port, linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["listen:any"]):
        async with forward_remote(joiner, f"0:127.0.0.1:{port}") as forward:
            client = await connect(forward)
            await client.send_all(b"half")
            await trio.testing.wait_all_tasks_blocked(0.05)
        async with client:
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()


@pytest.mark.parametrize("who", ["joiner", "inviter"])
async def test_nothing_is_left_when_the_session_ends(who: str) -> None:
    async with capitals() as port, linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["listen:any"]):
        async with forward_remote(joiner, f"0:127.0.0.1:{port}") as forward:
            async with await connect(forward) as client:
                link_of(joiner if who == "joiner" else inviter).close()
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive_some()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert is_free(int(forward.bind.rpartition(":")[2]))


async def test_cancellation_at_every_step_leaves_nothing() -> None:
    async with capitals() as port, linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["listen:any"]):
        async with forward_remote(joiner, f"0:127.0.0.1:{port}") as probe:
            number = int(probe.bind.rpartition(":")[2])
        for steps in range(25):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cut(scope: trio.CancelScope = scope, steps: int = steps) -> None:
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    nursery.start_soon(cut)
                    async with forward_remote(joiner, f"{number}:127.0.0.1:{port}"):
                        await trio.sleep_forever()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert is_free(number)
            assert not any(name.startswith(f"{TUNNEL_SERVICE}.back") for name in joiner.streams._queues)


async def test_a_target_that_is_not_here_resets_the_connection_there(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with listened(f"0:127.0.0.1:{unused.getsockname()[1]}", "listen:0") as forward:
            async with await connect(forward) as client:
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive_some()
    assert any("cannot reach its end of listen:127.0.0.1:0" in one.getMessage() for one in caplog.records)


async def test_what_cannot_be_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(FailedError, match=f"cannot listen: 127.0.0.1:{number} is already in use"):
            async with listened(f"{number}:h:1", f"listen:{number}"):
                pass
    with pytest.raises(RefusedError, match="listens for nobody; start it with --allow-remote-listen") as caught:
        async with listened("8080:h:1", "any"):
            pass
    assert caught.value.wish == "listen:127.0.0.1:8080"
    with pytest.raises(RefusedError, match="it allows only listen:8081, listen:\\*:53/udp"):
        async with listened("8080:h:1", "listen:8081", "tcp:h:1", "listen:*:53/udp"):
            pass
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["listen:any"]):
        for opening in (forward_local(joiner, "0:h:1"), forward_dynamic(joiner, "0")):
            with pytest.raises(RefusedError, match="it allows nothing"):
                async with opening:
                    pass
    with pytest.raises(SpecError, match="cannot carry UDP"):
        async with listened("unix:/tmp/x:h:1/udp", "listen:any"):
            pass


async def test_listeners_of_a_session_are_bounded(monkeypatch, caplog) -> None:
    monkeypatch.setattr(listening, "MAX_LISTENERS", 2)
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["listen:any"]):
        async with forward_remote(joiner, "0:h:1"), forward_remote(joiner, "0:h:1"):
            with pytest.raises(FailedError, match="2 sockets for this session already"):
                async with forward_remote(joiner, "0:h:1"):
                    pass
        async with forward_remote(joiner, "0:h:1"):
            pass
    assert any("has 2 listeners here already" in record.getMessage() for record in caplog.records)


async def test_connections_beyond_the_bound_are_told(monkeypatch, caplog) -> None:
    monkeypatch.setattr(remote, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr("iceagent.tunnel.serve.SLOT_PATIENCE_S", 0.05)
    async with capitals() as port, listened(f"0:127.0.0.1:{port}", "listen:0") as forward:
        async with await connect(forward) as first:
            await first.send_all(b"x")
            await trio.testing.wait_all_tasks_blocked(0.05)
            async with await connect(forward) as late:
                with pytest.raises(trio.BrokenResourceError):
                    await late.receive_some()
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("all 1 connections at once are taken" in line for line in lines)
    assert any("serves 1 connections already" in line for line in lines)


async def test_a_listener_that_the_other_side_gives_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def serve(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with serve_forwards(inviter, ["listen:any"]):
                task_status.started(scope)
                await trio.sleep_forever()

    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:
        serving = await nursery.start(serve)
        async with forward_remote(joiner, "0:h:1"):
            serving.cancel()
            await trio.testing.wait_all_tasks_blocked(0.05)
    assert any("no longer listens" in record.getMessage() for record in caplog.records)


ELSEWHERE: list[Target] = [TcpTarget("127.0.0.1", 8080), UnixTarget("/run/x"), BackTarget(4)]


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (
            "8080",
            ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "127.9.0.1:8080"],
            ["8081", "*:8080", "0", "[::]:8080"],
        ),
        ("8080", ["[::ffff:127.0.0.1]:8080"], ["0.0.0.0:8080", "192.0.2.1:8080", "8080/udp", "unix:8080"]),
        ("0", ["0"], ["8080", "*:0"]),
        ("*", ["0", "8080", "localhost:1"], ["*:8080", "192.0.2.1:1"]),
        ("*:8080", ["8080", "*:8080", "0.0.0.0:8080", "192.0.2.1:8080"], ["8081", "*:8080/udp"]),
        ("192.0.2.1:8080", ["192.0.2.1:8080", "0xc0000201:8080"], ["*:8080", "8080", "192.0.2.2:8080"]),
        ("127.0.0.1:8080", ["8080"], ["localhost:8080", "[::1]:8080"]),
        ("53/udp", ["53/udp"], ["53", "*:53/udp"]),
        ("unix:/run/x", ["unix:/run/x"], ["unix:/run/../run/x", "8080"]),
        ("any", ["0", "*:53/udp", "unix:/run/x"], []),
    ],
)
def test_trap_104_only_what_a_rule_names_is_opened_here(rule: str, allowed: list[str], refused: list[str]) -> None:
    """A port that is open to others, or one that a service of this machine is to have, is worth as much as a login."""
    rules = parse_rules([f"listen:{rule}"])
    assert [is_allowed(rules, wanted(text)) for text in allowed] == [True] * len(allowed)
    assert [is_allowed(rules, wanted(text)) for text in refused] == [False] * len(refused)
    assert not any(is_allowed(rules, target) for target in ELSEWHERE), "a listener is no way to reach anything"
    assert not is_allowed(parse_rules(["any", "tcp:*:*", "unix:/run/x"]), wanted(allowed[0]))
    assert parse_rules([str(rules[0])]) == rules


def wanted(text: str) -> ListenTarget:
    """Return the wish for a listener as it comes over the wire."""
    is_udp = text.endswith("/udp")
    if text.startswith("unix:"):
        bind: PortBind | UnixBind = UnixBind(text.removeprefix("unix:"))
    else:
        bind = PortBind("", 0)
        parsed = parse_forward(f"{text.removesuffix('/udp')}:h:1").bind
        assert isinstance(parsed, PortBind)
        bind = parsed
    request = wire.request_for(ListenTarget(bind, is_udp), op="listen", listener=6)
    target: Target = wire.decode_request_untrusted(wire._encoder.encode(request)).target()
    assert isinstance(target, ListenTarget)
    return target


@pytest.mark.parametrize("text", ["", "h:p", "a:b:1", "65536", "22/sctp", "unix:", "1:2:3"])
def test_a_malformed_rule_shows_a_right_one(text: str) -> None:
    with pytest.raises(SpecError, match="listen:8080"):
        parse_rules([f"listen:{text}"])


async def test_trap_105_nothing_comes_back_but_to_the_target_of_a_forward_that_was_made() -> None:
    """Who serves a peer's wishes gives it no way to reach anything here: only `-R` does, and only its one target."""
    accepted: list[str] = []

    async def serve(name: str, listener: trio.SocketListener) -> None:
        async with listener:
            while True:
                await (await listener.accept()).aclose()
                accepted.append(name)

    async with (
        linked_sessions() as (joiner, inviter),
        serve_forwards(inviter, ["listen:any"]),
        trio.open_nursery() as nursery,
    ):
        (mine,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        (other,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        for name, listener in (("mine", mine), ("other", other)):
            nursery.start_soon(serve, name, listener)
        port, forbidden = (one.socket.getsockname()[1] for one in (mine, other))

        async def come_back(number: int, target: Target) -> str:
            stream = await inviter.streams.open_service(wire.back_service(number))
            with trio.move_on_after(1):
                try:
                    await wire.send_request(stream, wire.request_for(target))
                    return (await wire.receive_answer(stream)).status
                except (trio.BrokenResourceError, trio.ClosedResourceError, wire.WireError):
                    return "reset"
            return "kept waiting"

        assert await come_back(2, BackTarget(2)) == "reset"
        async with forward_remote(joiner, f"0:127.0.0.1:{port}"):
            (number,) = (int(name.rpartition(".")[2]) for name in joiner.streams._queues if ".back." in name)
            assert await come_back(number, BackTarget(number)) == "ok"
            assert await come_back(number + 2, BackTarget(number)) == "reset"
            for target in (TcpTarget("127.0.0.1", forbidden), ListenTarget(PortBind("127.0.0.1", 0))):
                assert await come_back(number, target) == "reset"
        assert await come_back(number, BackTarget(number)) == "reset"
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    assert accepted == ["mine"]
