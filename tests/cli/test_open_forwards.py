"""What a running `forward` answers at its control socket."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
from fake_link import link_of, linked_sessions

from iceagent.cli import open_forwards as module
from iceagent.cli.control.running import RUNNING
from iceagent.cli.open_forwards import open_forwards
from iceagent.link import LinkClosedByPeer
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel.errors import FailedError, RefusedError, SpecError
from iceagent.tunnel.forward import Forward
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import parse_forward
from iceagent.tunnel.traffic import traffic_of


def address_of(bind: str) -> tuple[str, int]:
    """Return host and port of what a forward is open at."""
    host, _, port = bind.rpartition(":")
    return host, int(port)


async def test_what_is_asked_for_is_looked_at_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from another program of this user's."""
    shown: list[Forward] = []
    async with (
        linked_sessions() as (joiner, inviter),
        serve_forwards(inviter, ["tcp:localhost:9"]),
        open_forwards(shown.append) as forwards,
        forwards.carried_by(joiner),
    ):
        assert set(RUNNING.get().handlers) == {"forward.add", "forward.remove"}
        wishes: list[dict[str, Any]] = [
            {},
            {"spec": 7},
            {"spec": "0:localhost:9", "direction": "up"},
            {"direction": []},
        ]
        for wish in wishes:
            with pytest.raises(SpecError, match="name what to forward, and its direction"):
                await forwards.add(wish)
        with pytest.raises(RefusedError):
            await forwards.add({"spec": "0:localhost:10"})
        assert shown == []
        added = await forwards.add({"spec": "0:localhost:9"})
        assert [one.bind for one in shown] == [added["bind"]]
        monkeypatch.setattr(module, "MAX_FORWARDS", 1)
        with pytest.raises(SpecError, match="1 forwards already; remove one"):
            await forwards.add({"spec": "0:localhost:9"})
        for bind in (None, 7, "", "127.0.0.1:1"):
            with pytest.raises(SpecError, match="no forward is open at"):
                await forwards.remove({"bind": bind})
        assert (await forwards.remove({"bind": added["bind"]}))["bind"] == added["bind"]
    assert RUNNING.get().handlers == {}


async def test_forwards_stay_over_sessions_with_their_sockets() -> None:
    """Those added while the command ran, too; what was refused or removed does not come back."""
    shown: list[Forward] = []
    async with open_forwards(shown.append) as forwards:
        await forwards.keep(parse_forward("0:localhost:9"))
        await forwards.keep(parse_forward("0:localhost:9/udp"))
        async with (
            linked_sessions() as (joiner, inviter),
            serve_forwards(inviter, ["tcp:localhost:9", "udp:localhost:9"]),
            forwards.carried_by(joiner),
        ):
            added = await forwards.add({"spec": "0:localhost:9"})
            removed = await forwards.add({"spec": "0:localhost:9"})
            await forwards.remove({"bind": removed["bind"]})
            with pytest.raises(RefusedError):
                await forwards.add({"spec": "0:localhost:10"})
        first = [one.bind for one in shown]
        assert len(first) == 4
        stream = await trio.open_tcp_stream(*address_of(first[0]))  # waits
        for bind, kind in ((first[1], socket.SOCK_DGRAM), (str(added["bind"]), socket.SOCK_STREAM)):
            with socket.socket(socket.AF_INET, kind) as taken, pytest.raises(OSError, match="in use"):
                taken.bind(address_of(bind))
        async with (
            linked_sessions() as (joiner, inviter),
            serve_forwards(inviter, ["tcp:localhost:9", "udp:localhost:9"]),
            forwards.carried_by(joiner),
        ):
            assert [traffic.binds[0] for traffic in traffic_of(joiner)] == [*first[:2], added["bind"]]
            async with stream:  # nobody listens on port 9, which only the other side can tell
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
        assert [one.bind for one in shown] == first, "they are where they were, which needs no word"


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_session_that_ends_while_forwards_are_opened_says_why(how: str, autojump_clock: Any) -> None:
    """The other side has asked for the code, and leaves: no internal error."""
    async with open_forwards(lambda _: None) as forwards, linked_sessions() as (joiner, inviter):
        await forwards.keep(parse_forward("0:localhost:9"))
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                asked = await inviter.streams.accept(TUNNEL_SERVICE)
                if how == "closed":
                    link_of(inviter).close(LinkClosedByPeer("the other side was interrupted"))
                else:
                    asked.reset(1)

            nursery.start_soon(end)
            if how == "closed":
                await forwards.carry(joiner)
            else:
                with pytest.raises(FailedError, match="broke off while forwards were being opened"):
                    await forwards.carry(joiner)
