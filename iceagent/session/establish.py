"""From a sealed channel to a session: descriptions and candidates are exchanged, a path is found, the link opened."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from math import inf
from typing import Literal, TypeVar

import icesignal
import trio

from iceagent.agent import Agent, AgentConfig, CandidateType, Description, Role, open_agent
from iceagent.agent.outlook import heard_at, wait_hopeless
from iceagent.core.ice import SelectedPairChanged
from iceagent.errors import NetworkError
from iceagent.link import LinkIdentity, LinkRole, QuicLink, open_link
from iceagent.net.tasks import open_background, run_contained
from iceagent.session.description import PeersDescription, send_descriptions
from iceagent.session.endings import failure_of, left_early, no_link, no_path, peer_gone
from iceagent.session.errors import PeerLeft, RelayError, SessionError
from iceagent.session.outages import Outage, OutageKind, watch_outages
from iceagent.session.pairing.words import Words
from iceagent.session.path import Path
from iceagent.session.progress import Progress, Stage
from iceagent.session.relay import hurry_restarts, keeping_up, signal_errors
from iceagent.session.renewal import Renewal, ServersOf
from iceagent.session.session import Session, run_session


@asynccontextmanager
async def answer_within(session: Session, seconds: float) -> AsyncIterator[None]:
    """Bound the body as `trio.fail_after` does, but count only time in which the path answers.

    An outage stops the clock, and its end begins it anew: what the body waits for may have been lost and has to be sent
    again. A session that ends breaks the body's streams, so that nothing waits for ever.

    Raises:
        trio.TooSlowError: over a path that answered, what was waited for did not come in `seconds`.
    """
    scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    async def follow() -> None:
        while True:
            scope.deadline = trio.current_time() + seconds if session.outage is None else inf
            await session.wait_outage_changed()

    async with open_background() as nursery:
        nursery.start_soon(follow)
        with scope:
            yield
    if scope.cancelled_caught:
        raise trio.TooSlowError


KEY_PURPOSE = "link 1"  # of the PAKE's key that authenticates the link
SPEECH_S = 120.0
"""Ours: from the proof of the code to the first description; the relay holds an absent one's place so long."""
COMPARE_S = 900.0  # ours: for a person who hears five words and reads five out
GONE_S = icesignal.BACK_S  # a live peer that lost its connection to the relay, not its network, has another by then

DEPARTURE_LOOK_S = 0.2  # between two looks at the path of a peer that left the conversation
S = TypeVar("S", bound=Session)
_log = logging.getLogger(__name__)


@asynccontextmanager
async def establish(
    session_type: Callable[..., S],
    channel: icesignal.SealedChannel,
    identity: LinkIdentity,
    config: AgentConfig,
    progress: Progress | None = None,
    servers_of: ServersOf | None = None,
) -> AsyncIterator[S]:
    """Find a path to the peer at the other end of the channel, and open the link over it.

    The inviter is controlled and the QUIC server: the joiner is the one who wants something, and knows last.
    `servers_of` makes the agent's servers of what the relay names, anew where that ends; None leaves them as they are.
    """
    progress = progress or Progress()
    is_inviter = channel.role == "inviter"
    role = Role.CONTROLLED if is_inviter else Role.CONTROLLING
    tcp = True if config.tcp_candidates is None else config.tcp_candidates
    config = replace(config, auto_restart=True, full_trickle=True, tcp_candidates=tcp)
    async with (
        open_agent(config, role=role) as agent,
        progress.following(agent),
        open_background() as nursery,
        keeping_up(channel.look_again, config.network),
    ):
        signaling = _Signaling(channel, agent, identity.fingerprint)
        progress.is_peer_away = lambda: channel.is_peer_away
        nursery.start_soon(signaling.watch_peer)
        nursery.start_soon(signaling.watch_departure)
        if servers_of is not None:
            nursery.start_soon(run_contained, "fresh credentials", Renewal(agent, channel, servers_of).run)
        fingerprint = await signaling.find_path(nursery, progress)
        progress.enter(Stage.LINK, agent.explain)
        opening = open_link(
            agent,
            role=LinkRole.SERVER if is_inviter else LinkRole.CLIENT,
            identity=identity,
            peer_fingerprint=fingerprint,
            session_key=channel.key(KEY_PURPOSE),
        )
        async with _opened(opening, agent, signaling.report_failed) as link:
            signaling.is_open = True
            session = session_type(
                link,
                inviter=is_inviter,
                read_path=lambda: _path_of(agent),
                read_failure=lambda: failure_of(agent, signaling_ended=signaling.has_ended),
            )
            nursery.start_soon(hurry_restarts, agent, channel.look_again)
            nursery.start_soon(_follow_path, agent, link, session)
            nursery.start_soon(watch_outages, agent, _outage_reporter(session, link))
            progress.enter(Stage.OPEN)
            signaling.report_open()
            async with run_session(session):
                yield session


@asynccontextmanager
async def _opened(
    opening: AbstractAsyncContextManager[QuicLink], agent: Agent, report_failed: Callable[[str], None]
) -> AsyncIterator[QuicLink]:
    """Open a link; if it does not come about for a reason that is not the peer's, say what the agent knows."""
    async with AsyncExitStack() as stack:
        try:
            link = await stack.enter_async_context(opening)
        except NetworkError as error:
            report_failed("no-link")
            raise no_link(agent, error) from error
        yield link


class _Signaling:
    """The exchange of descriptions and candidates; once a path is found, its end no longer matters."""

    def __init__(self, channel: icesignal.SealedChannel, agent: Agent, fingerprint: bytes) -> None:
        self.has_ended = False
        self.is_open = False
        self._all_signalled = trio.Event()
        self._departed = trio.Event()
        self._goodbye: icesignal.PeerLeft | None = None
        self._is_needed = True
        self._channel = channel
        self._agent = agent
        self._fingerprint = fingerprint
        self._began_at = trio.current_time()

    def report_open(self) -> None:
        """Report to the relay's operator that the two sides reach each other, and how."""
        path = _path_of(self._agent)
        if path is None or path.direct:  # what explains others is imported for them alone
            outcome: Literal["direct", "relayed"] = "direct"
            because = None
        else:
            outcome, because = "relayed", self._agent.explain().because
        why = "" if because is None else because.value
        self._channel.report_outcome(outcome, why, trio.current_time() - self._began_at)

    def report_failed(self, why: str) -> None:
        """Report to the relay's operator that they do not."""
        self._channel.report_outcome("failed", why, trio.current_time() - self._began_at)

    async def find_path(self, nursery: trio.Nursery, progress: Progress) -> bytes:
        """Exchange descriptions and candidates until a pair is selected; return the peer's fingerprint.

        Raises:
            NoPath: there is none.
            PeerLeft, RelayError: signaling ended before.
            VersionMismatch: the peer speaks another version.
        """
        progress.enter(Stage.PEER)
        try:
            nursery.start_soon(self._tolerate, self._send_descriptions)
            peers, said = await self._first_words(progress)
            self._agent.accept(said)
            nursery.start_soon(self._tolerate, lambda: peers.hand_over(self._agent))
            progress.enter(Stage.PATH, self._agent.explain)
            await self._wait_connected()
        except BaseException as error:
            if isinstance(error, SessionError) and error.verdict is not None:
                self.report_failed("peer-left" if isinstance(error, PeerLeft) else error.verdict.kind.value)
            self._channel.close()  # the other side need not wait for what will not come
            raise
        self._is_needed = False
        return peers.fingerprint

    async def _first_words(self, progress: Progress) -> tuple[PeersDescription, Description]:
        """Return the first part of the peer's description, which takes seconds where its program runs.

        Raises:
            PeerLeft: it does not come.
        """
        with signal_errors(), _peer_left(), trio.move_on_after(SPEECH_S) as patience:

            def compare(words: Words) -> None:
                patience.deadline = trio.current_time() + COMPARE_S  # a person does, on the other side
                progress.on_words(words)

            peers = PeersDescription(self._channel, compare)
            return peers, await peers.receive()
        raise PeerLeft(
            f"the other side has proved that it has the code, and has not signalled for {SPEECH_S:.0f} s where it can "
            "be reached; its program was stopped, or the relay does not pass on what it says. Try again, with a new "
            "code"
        )

    async def _send_descriptions(self) -> None:
        await send_descriptions(self._channel, self._agent, self._fingerprint, self._all_signalled.set)

    async def watch_peer(self) -> None:
        """Until the session is open, raise once the relay says that the other side is gone, and nothing comes from it.

        Its program was killed, most likely: its system then closes the connection to the relay, and checks would say
        nothing for as long as patience lasts. A connection that went silent says nothing about the other side.

        Raises:
            PeerLeft: so it is.
        """
        with suppress(icesignal.SignalError):  # whoever waits for the next message gets it
            while True:
                await self._channel.wait_peer_gone(GONE_S)
                while self._channel.has_peer_hung_up:
                    silent_s = trio.current_time() - heard_at(self._agent)
                    if self.is_open:
                        return
                    if silent_s >= GONE_S:
                        self._channel.close()
                        raise peer_gone(self._agent, GONE_S)
                    await trio.sleep(GONE_S - silent_s)

    async def watch_departure(self) -> None:
        """Until the session is open, raise once the other side has left the conversation and the path is silent.

        It left in between: with a path, and before there was a link that could have said so.

        Raises:
            PeerLeft: so it is.
        """
        await self._departed.wait()
        while not self.is_open:
            if not self._agent.is_answering:
                left = PeerLeft("the other side left before the link was open")
                raise left_early(self._agent, left) from self._goodbye
            await trio.sleep(DEPARTURE_LOOK_S)

    async def _wait_connected(self) -> None:
        async with open_background() as nursery:
            nursery.start_soon(self._give_up)
            try:
                await self._agent.wait_connected()
            except NetworkError as error:
                raise no_path(self._agent) from error

    async def _give_up(self) -> None:
        """Give up as soon as there can be no path; the other side is to know first that we have no more candidates."""
        await wait_hopeless(self._agent)
        await self._all_signalled.wait()
        raise no_path(self._agent)

    async def _tolerate(self, talk: Callable[[], Awaitable[None]]) -> None:
        """Talk at the relay; what ends that while a path is looked for is raised; afterwards it is logged."""
        try:
            with signal_errors(), _peer_left():
                await talk()
        except SessionError as error:
            if not self._is_needed:
                reason = error.__cause__ or error
                self._note_end(reason)
                if isinstance(reason, icesignal.PeerLeft) and reason.said_goodbye:
                    self._goodbye = reason
                    self._departed.set()
            elif isinstance(error, RelayError | PeerLeft):
                raise left_early(self._agent, error) from error.__cause__
            else:
                raise
        except trio.ClosedResourceError:
            pass  # the agent was closed meanwhile

    def _note_end(self, reason: BaseException) -> None:
        """Report, once, that the relay carries no more messages; `reason` is the relay's text."""
        if not self.has_ended:
            self.has_ended = True
            when = "and the session goes on" if self.is_open else "though a path is found and the link being opened"
            _log.info("the conversation at the relay has ended, %s: %s", when, reason)


@contextmanager
def _peer_left() -> Iterator[None]:
    """A peer that leaves during the exchange was there: that is another error than nobody's coming."""
    try:
        yield
    except icesignal.PeerLeft as error:
        left = "the other side left"
        why = f": {error}" if str(error) != left else ""
        raise PeerLeft(f"{left} before a path was found{why}") from error


async def _follow_path(agent: Agent, link: QuicLink, session: Session) -> None:
    """Notify both of another path, and the session if a late candidate shows that the present one leads to a relay."""
    path = _path_of(agent)
    async for event in agent.events():
        before, path = path, _path_of(agent)
        if isinstance(event, SelectedPairChanged):
            link.notify_path_changed()
            session.notify_path_changed()
        elif path is not None and not path.same_route(before):
            session.notify_path_changed()


def _outage_reporter(session: Session, link: QuicLink) -> Callable[[Outage], None]:
    """Return a function that reports outages to a session, and at their end wakes its link, whose probes wait longer
    and longer.
    """

    def report(outage: Outage) -> None:
        session.notify_outage(outage)
        if outage.kind is OutageKind.BACK:
            link.notify_path_changed()

    return report


def _path_of(agent: Agent) -> Path | None:
    pair = agent.selected_pair
    if pair is None:
        return None
    is_relayed = CandidateType.RELAY in (pair.local.type, pair.remote.type)
    transport = f"turn-{agent.relay_transport or 'udp'}" if is_relayed else pair.local.transport
    route = (not is_relayed, transport, pair.local.path_base, pair.remote.address)
    return Path(*route, rtt_s=pair.rtt_s, because=agent.relayed_because)
