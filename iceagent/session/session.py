"""A session: a link to one authenticated peer, its streams and datagrams sorted by use, and its present path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

from iceagent.core.checked import check_bytes, checked
from iceagent.errors import IceError, LocalError
from iceagent.link import LinkClosedByPeer, LinkLost, WishRefused
from iceagent.net.tasks import open_background
from iceagent.session.datagrams import APPLICATION_FLOW, DatagramRouter
from iceagent.session.echo import answer_pings
from iceagent.session.errors import PeerLeft, PeerTurnedAway
from iceagent.session.outages import Outage, OutageKind
from iceagent.session.path import Path
from iceagent.session.raw import RawLink
from iceagent.session.streams import StreamRouter

if TYPE_CHECKING:
    from iceagent.agent.explain import Verdict
    from iceagent.link import LinkStream

MAX_OUTAGES = 32  # reported and not yet read; then the newest are left out


class Session:
    """What `invite()` and `join()` yield: streams and datagrams to the other side, over the best path there is.

    Several streams may be open at once; each is a `trio.abc.HalfCloseableStream` with its own flow control.
    """

    def __init__(
        self,
        link: RawLink,
        *,
        inviter: bool,
        read_path: Callable[[], Path | None] = lambda: None,
        read_failure: Callable[[], Verdict | None] = lambda: None,
        read_traffic: Callable[[], tuple[int, int]] = lambda: (0, 0),
        read_verdict: Callable[[], Verdict | None] = lambda: None,
    ) -> None:
        """`inviter` distinguishes the two sides; `read_path` returns the path of this moment.

        `read_failure` returns the verdict on an agent that has failed, None while it lives; `read_traffic` how many
        bytes have gone to the other side and come from it; `read_verdict` what the agent says of itself now.
        """
        self.peer = ""
        """Whom it is with, for people: a paired peer's name, or a code's number; never the code's words."""
        self.relay = ""
        """The host of the relay where the two sides met."""
        self.inviter = inviter
        self.streams = StreamRouter(link)
        self.datagrams = DatagramRouter(link, first_flow=1 if inviter else 2)
        self._link = link
        self._read_path = read_path
        self._read_failure = read_failure
        self._read_traffic = read_traffic
        self._read_verdict = read_verdict
        self._path_changed = trio.Event()
        self._outages = trio.open_memory_channel[Outage](MAX_OUTAGES)
        self._outage: Outage | None = None
        self._outage_since: float | None = None
        self._outage_changed = trio.Event()

    @checked
    async def open_stream(self, name: str = "") -> LinkStream:
        """Open a stream to the other side, which learns its name from `accept_stream`.

        Raises:
            LocalError: the name begins with `iceagent.`, which is reserved.
            trio.BrokenResourceError: the link has ended.
        """
        return await self.streams.open(name)

    async def accept_stream(self) -> LinkStream:
        """Wait for the next stream the other side opens; its name is `.name`.

        Raises:
            trio.BrokenResourceError: the link has ended.
        """
        return await self.streams.accept()

    async def send_datagram(self, data: bytes) -> None:
        """Send one datagram; it is encrypted, and may be lost or overtaken as UDP's may.

        Raises:
            LocalError: it is larger than `max_datagram_size`.
        """
        data = check_bytes("a datagram", data)
        await self.datagrams.send(APPLICATION_FLOW, data)

    async def receive_datagram(self) -> bytes:
        """Wait for the next datagram of the other side.

        Raises:
            trio.BrokenResourceError: the link has ended.
        """
        return await self.datagrams.receive()

    @property
    def max_datagram_size(self) -> int:
        """The largest datagram that can be sent now, bytes."""
        return self.datagrams.room(APPLICATION_FLOW)

    @property
    def path(self) -> Path | None:
        """The path in use now; None while there is none."""
        return self._read_path()

    def paths(self) -> AsyncIterator[Path]:
        """Iterate over the paths: the one in use now, then each one the session moves to."""
        return _Paths(self)

    async def wait_path_changed(self) -> None:
        """Wait for the next change of path."""
        await self._path_changed.wait()

    def notify_path_changed(self) -> None:
        """Wake everybody who follows `paths()`."""
        self._path_changed.set()
        self._path_changed = trio.Event()

    def outages(self) -> AsyncIterator[Outage]:
        """Iterate over the turns of outages as they happen: silent, looking for another path, back. For one reader."""
        return self._outages[1]

    def notify_outage(self, outage: Outage) -> None:
        """Report to whoever follows `outages()`, and remember."""
        self._outage = None if outage.kind is OutageKind.BACK else outage
        if self._outage is None:
            self._outage_since = None
        elif self._outage_since is None and trio.lowlevel.in_trio_run():
            self._outage_since = trio.current_time() - outage.seconds
        self._outage_changed.set()
        self._outage_changed = trio.Event()
        with suppress(trio.WouldBlock):
            self._outages[0].send_nowait(outage)

    @property
    def outage(self) -> Outage | None:
        """The last turn of the outage that lasts now; None while the other side answers."""
        return self._outage

    @property
    def outage_since(self) -> float | None:
        """When the other side last answered, Trio's time, while an outage lasts; else None."""
        return self._outage_since

    async def wait_outage_changed(self) -> None:
        """Wait for the next turn of an outage, its end among them."""
        await self._outage_changed.wait()

    def introduce(self, peer: str, relay: str) -> None:
        """Note whom the session is with and where the two met, for whoever shows it."""
        self.peer, self.relay = peer, relay

    @property
    def close_reason(self) -> IceError | None:
        """Why the session is over, as the link says it; None while it lasts."""
        return self._link.close_reason

    async def wait_closed(self) -> None:
        """Wait for the end of the session: returns when either side has closed it, this one included.

        Raises:
            PeerLost: the other side fell silent, and no path led to it for as long as consent lasts; or this machine
                lost its network. `verdict` is what the agent said.
            PeerTurnedAway: the other side asked for what is not allowed here, and left.
            PeerLeft: the other side ended it by an error, or broke the link's protocol.
        """
        await self._link.wait_closed()
        reason = self._link.close_reason
        if isinstance(reason, LinkLost):
            from iceagent.session.endings import peer_lost  # here: a session need not end so

            raise peer_lost(reason, self._read_failure()) from reason
        if isinstance(reason, WishRefused):
            raise PeerTurnedAway(
                f"{reason}; allow it here if it should be, and let the other side come again"
            ) from reason
        if reason is not None and not isinstance(reason, (LinkClosedByPeer, LocalError)):
            raise PeerLeft(str(reason)) from reason

    def traffic(self) -> tuple[int, int]:
        """Return how many bytes have gone to the other side and come from it, over all paths there were."""
        return self._read_traffic()

    def explain(self) -> Verdict | None:
        """Return what the agent says of the session's path now, and what would help; None where there is no agent."""
        return self._read_verdict()

    def statistics(self) -> Any:
        """Return the link's counters."""
        return self._link.statistics()


class _Paths:
    """One reader's place among a session's paths. Holds no resources: it may be dropped at any point."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shown: Path | None = None

    def __aiter__(self) -> _Paths:
        return self

    async def __anext__(self) -> Path:
        await trio.lowlevel.checkpoint()
        while (path := self._session.path) is None or path.same_route(self._shown):
            await self._session.wait_path_changed()
        self._shown = path
        return path


@asynccontextmanager
async def run_session(session: Session) -> AsyncIterator[None]:
    """Sort the session's streams and datagrams, and answer the other side's pings, while the body runs."""
    async with open_background() as nursery:
        nursery.start_soon(session.streams.run)
        nursery.start_soon(session.datagrams.run)
        nursery.start_soon(answer_pings, session.streams, session.datagrams)
        yield
