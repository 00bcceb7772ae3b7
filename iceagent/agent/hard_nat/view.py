"""What our NAT does with ports, found out with a few fresh sockets and the STUN servers that an agent has anyway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.hard_nat import NatKind, PortHabit, Sighting, is_target, read_habit
from iceagent.net.api import UdpSocket
from iceagent.net.machine import MachineDriver

MAX_SERVERS: Final = 4  # two show the mapping; each more uses up one more port
SOCKETS: Final = 3  # at a time; with two servers that makes a series of five ports
SERIES: Final = 5  # ports in a row that show how they are chosen
MAX_SOCKETS: Final = 10  # where much gets lost
SPACING_S: Final = 0.01  # between two requests, so that routers see them in our order
PATIENCE_S: Final = 3.0  # for the first answer: three requests, 0, 0.5 and 1.5 s after the start
GRACE_S: Final = 1.7  # for one of another server, which are as many
RTO_GRACE_S: Final = 0.6  # for a series: what comes after a repetition says nothing


@dataclass(slots=True, eq=False)
class _Question:
    """One request; `mapped` and `other` are of its answer."""

    local: TransportAddress
    server: TransportAddress
    done: trio.Event = field(default_factory=trio.Event)
    mapped: TransportAddress | None = None
    other: TransportAddress | None = None
    is_prompt: bool = False


class NatView:
    """Looks at the NAT in front of one local address.

    Args:
        open_socket: binds one more socket there; None when that fails.
        servers: STUN servers of IPv4, the preferred ones first.
        randbytes: for transaction ids.
        permits: whether an address may be sent to that a server has named as its other one.
    """

    def __init__(
        self,
        open_socket: Callable[[], Awaitable[UdpSocket | None]],
        servers: Sequence[TransportAddress],
        randbytes: Callable[[int], bytes],
        permits: Callable[[TransportAddress], bool] = lambda server: True,
    ) -> None:
        self._open_socket = open_socket
        self._servers = tuple(dict.fromkeys(servers))[:MAX_SERVERS]
        self._randbytes = randbytes
        self._permits = permits
        self._client = stun.StunClient()
        self._sockets: dict[TransportAddress, UdpSocket] = {}
        self._open: dict[bytes, _Question] = {}
        self._nearest: TransportAddress | None = None

    async def look(self) -> PortHabit:
        """Find out what kind of NAT it is; takes a few round trips, and 3 s where no server answers."""
        try:
            return await self._look()
        finally:
            self._close()

    async def last_port(self) -> int | None:
        """Make one more mapping and return its external port; None without an answer. `look` comes first."""
        if self._nearest is None:
            return None
        try:
            locals_ = await self._open_sockets(1)
            async with trio.open_nursery() as nursery:
                driver = self._start(nursery)
                questions = [self._ask(driver, local, self._nearest) for local in locals_]
                await _answers(questions, 1, PATIENCE_S)
                nursery.cancel_scope.cancel()
            return next((question.mapped.port for question in questions if question.mapped), None)
        finally:
            self._close()

    async def _look(self) -> PortHabit:
        locals_ = await self._open_sockets(MAX_SOCKETS) if self._servers else []
        questions: list[_Question] = []
        if not locals_:
            return PortHabit(NatKind.UNKNOWN)
        async with trio.open_nursery() as nursery:
            driver = self._start(nursery)
            questions += await self._ask_each(driver, [(locals_[0], server) for server in self._servers])
            await _answers(questions, 1, PATIENCE_S)
            await _answers(questions, 2, GRACE_S)
            answered = [question for question in questions if question.mapped is not None]
            if answered:
                self._nearest = answered[0].server
                questions += await self._look_elsewhere(driver, answered)
                await self._look_at_series(driver, locals_[1:], questions)
            nursery.cancel_scope.cancel()
        return _habit(questions)

    async def _look_elsewhere(self, driver: MachineDriver, answered: Sequence[_Question]) -> list[_Question]:
        """Ask the only server that has answered at its other addresses, if it has any."""
        if len(answered) > 1:
            return []
        others = filter(self._permits, _others(answered[0]))
        fresh = await self._ask_each(driver, [(answered[0].local, other) for other in others])
        await _answers(fresh, 1, GRACE_S)
        return fresh

    async def _look_at_series(
        self, driver: MachineDriver, spare: Sequence[TransportAddress], questions: list[_Question]
    ) -> None:
        """Ask from fresh sockets until there are enough ports in a row; what gets lost comes out of order."""
        assert self._nearest is not None
        for at in range(0, len(spare), SOCKETS):
            is_enough = sum(question.is_prompt for question in questions) >= SERIES
            if is_enough or _habit(questions).kind in (NatKind.EASY, NatKind.UNKNOWN):
                return
            fresh = await self._ask_each(driver, [(local, self._nearest) for local in spare[at : at + SOCKETS]])
            await _answers(fresh, len(fresh), RTO_GRACE_S)
            questions += fresh

    async def _open_sockets(self, count: int) -> list[TransportAddress]:
        for _ in range(count):
            sock = await self._open_socket()
            if sock is None:
                break
            self._sockets[sock.local_address] = sock
        return list(self._sockets)

    def _start(self, nursery: trio.Nursery) -> MachineDriver:
        driver = MachineDriver(self._client, self._sockets, receive=self._receive, settle=self._settle)
        nursery.start_soon(driver.run)
        return driver

    async def _ask_each(
        self, driver: MachineDriver, paths: Sequence[tuple[TransportAddress, TransportAddress]]
    ) -> list[_Question]:
        questions = []
        for local, server in paths:
            questions.append(self._ask(driver, local, server))
            await trio.sleep(SPACING_S)
        return questions

    def _ask(self, driver: MachineDriver, local: TransportAddress, server: TransportAddress) -> _Question:
        question = _Question(local, server)
        request = stun.binding_request(self._randbytes(12))

        def start(now: float) -> None:
            self._open[self._client.start(now, local, server, request)] = question

        driver.mutate(start)
        return question

    def _receive(self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> None:
        if stun.looks_like_stun(data):
            try:
                message = stun.decode(data)
            except stun.StunError:
                return
            self._client.handle_message(now, local, remote, message)

    def _settle(self) -> bool:
        while (event := self._client.poll_event()) is not None:
            question = self._open.pop(event.transaction_id, None)
            if question is None:
                continue
            if isinstance(event, stun.Response) and event.message.message_class is stun.MessageClass.SUCCESS:
                found = event.message.get(stun.XorMappedAddress) or event.message.get(stun.MappedAddress)
                other = event.message.get(stun.OtherAddress)
                question.mapped = None if found is None else found.address
                question.other = None if other is None else other.address
                question.is_prompt = event.rtt_s is not None
            question.done.set()
        return False

    def _close(self) -> None:
        self._client.close()
        self._open.clear()
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _habit(questions: Sequence[_Question]) -> PortHabit:
    return read_habit([Sighting(q.local, q.server, q.mapped, q.is_prompt) for q in questions if q.mapped is not None])


def _others(question: _Question) -> list[TransportAddress]:
    """Return further addresses of a server that has two (RFC 5780 section 7.4): another destination is all we want."""
    other = question.other
    if other is None or other.family != 4 or not is_target(other):
        return []
    return [address for address in (other, question.server._replace(port=other.port)) if address != question.server]


async def _answers(questions: Sequence[_Question], count: int, seconds: float) -> None:
    """Wait until so many of them are answered, or all are done with, or the time has passed."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:

            async def wait(question: _Question) -> None:
                await question.done.wait()
                if sum(one.mapped is not None for one in questions) >= count:
                    nursery.cancel_scope.cancel()

            for question in questions:
                nursery.start_soon(wait, question)
