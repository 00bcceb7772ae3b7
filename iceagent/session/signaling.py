"""What two sessions say to each other at the relay: descriptions, candidates and restarts, for as long as they last.

A path is found over the first conversation, which a code or two identities led to. It may end while the session goes
on: the relay was started again, or a machine slept for longer than the relay keeps its place. Then both sides meet
again in the rendezvous room of which only they have the key, and say there what they have to say, so that a path that
dies later, or is dead already, is replaced by another one. The link above notices nothing but silence.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import icesignal
import trio
from icesignal.pauses import FIRST_PAUSE_S, LONGEST_PAUSE_S, jittered

from iceagent.agent import Agent, AgentState, Description
from iceagent.agent.outlook import heard_at, wait_hopeless
from iceagent.core.constants import CONSENT_EXPIRY_S
from iceagent.errors import LocalError, NetworkError
from iceagent.net.tasks import open_background, run_contained
from iceagent.session.description import PeersDescription, send_descriptions
from iceagent.session.endings import left_early, no_path, peer_gone
from iceagent.session.errors import PeerLeft, RelayError, SessionError
from iceagent.session.pairing.words import Words
from iceagent.session.path import path_of
from iceagent.session.progress import Progress, Stage
from iceagent.session.relay import signal_errors
from iceagent.session.renewal import Renewal, ServersOf

if TYPE_CHECKING:
    from iceagent.session.reunion import Reunion

SPEECH_S = 120.0
"""Ours: from the proof of the code to the first description; the relay holds an absent one's place so long."""
COMPARE_S = 900.0  # ours: for a person who hears five words and reads five out
GONE_S = icesignal.BACK_S  # a live peer that lost its connection to the relay, not its network, has another by then
ALONE_S = 5.0  # ours: who lost a connection, and not the network, is back sooner
BACK_LOOK_S = 1.0
LOOK_S = 0.2  # between two looks at the path of a peer that left the conversation
REFUSED_EVERY_S = 2.0  # ours: between two looks whether the peer's own relay, and so its program, is gone

_OVER = frozenset((AgentState.FAILED, AgentState.CLOSED))
_log = logging.getLogger(__name__)


class Signaling:
    """The exchange of descriptions, candidates and restarts, over one conversation after the other.

    Args:
        channel: leads to the peer at first.
        agent: describes itself, and takes what the peer says.
        fingerprint: of our certificate.
        servers_of: makes the agent's servers of what the relay names, anew where that ends; None leaves them.
        reunion: how to meet again; None where that is not possible, and the first conversation is the only one.

    Attributes:
        is_open: whether the session is open: paths may come and go now.
        has_ended: whether no conversation is under way: another path could not be agreed on now.
    """

    def __init__(
        self,
        channel: icesignal.SealedChannel,
        agent: Agent,
        fingerprint: bytes,
        servers_of: ServersOf | None = None,
        reunion: Reunion | None = None,
    ) -> None:
        self.is_open = False
        self.has_ended = False
        self._all_signalled = trio.Event()
        self._gone = trio.Event()
        self._goodbye: icesignal.SignalError | None = None
        self._seems_dead = trio.Event()
        self._is_needed = True
        self._channel = channel
        self._agent = agent
        self._fingerprint = fingerprint
        self._peers_fingerprint = b""
        self._servers_of = servers_of
        self._reunion = reunion
        self._began_at = trio.current_time()

    @property
    def is_peer_away(self) -> bool:
        """Whether the relay says that the peer's connection to it is gone; it may come back."""
        return self._channel.is_peer_away

    def look_again(self, present: Collection[str] | None = None) -> None:
        """See at once whether the connection to the relay works; see `icesignal.Client.look_again`."""
        self._channel.look_again(present)

    def close(self) -> None:
        """End the conversation for good; the peer learns that this side is done."""
        self._channel.close()

    def report_open(self) -> None:
        """Take note that the session is open, and report to the relay's operator how the two sides reach each other."""
        self.is_open = True
        path = path_of(self._agent)
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

    # Until there is a path

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
        self._peers_fingerprint = peers.fingerprint
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
        channel = self._channel
        try:
            with signal_errors(), _peer_left():
                await talk()
        except SessionError as error:
            if not self._is_needed:
                self._note_end(channel, error.__cause__ or error)
            elif isinstance(error, RelayError | PeerLeft):
                raise left_early(self._agent, error) from error.__cause__
            else:
                raise
        except trio.ClosedResourceError:
            pass  # the agent was closed meanwhile

    # Later

    async def keep(self) -> None:
        """Meet the peer again each time that the conversation has ended, for as long as the session lasts.

        Also where it goes on without the peer, or without the relay: what ended it for that side may be told here only
        minutes later, and of several relays another one may serve both.
        """
        reunion, pause_s = self._reunion, FIRST_PAUSE_S
        first = self._channel
        moves_on = reunion is not None and reunion.moves_on
        while reunion is not None and not self._gone.is_set():
            if not moves_on:
                await self._channel.wait_alone(ALONE_S)
            began_at = trio.current_time()
            try:
                async with open_background() as nursery:
                    if not moves_on:
                        nursery.start_soon(self._wait_back, self._channel, nursery.cancel_scope)
                    async with reunion.open() as channel:
                        self._channel, self.has_ended = channel, False
                        if moves_on:
                            self._leave(first)
                        await self._tolerate(self._converse)
            except icesignal.SignalError as error:
                _log.debug("the two sides have not met again: %s", error)
                self._suspect(error)
            except trio.ClosedResourceError:
                return  # the agent was closed meanwhile
            if moves_on:
                self._leave(first)
                moves_on = False
            elif not first.is_alone:  # it was taken up again as the two were about to meet elsewhere
                self._channel, self.has_ended = first, False
            if trio.current_time() - began_at >= LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            await trio.sleep(jittered(pause_s, secrets.randbelow(256)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    @staticmethod
    def _leave(first: icesignal.SealedChannel) -> None:
        """Make room where the two have met, for others.

        The joiner does so, whose link is the last to open: the other side knows that its own is. Not before the two
        have met elsewhere, since only a conversation tells that a program is gone that was killed.
        """
        if first.role == "joiner":
            first.leave()

    async def _wait_back(self, channel: icesignal.SealedChannel, reunion: trio.CancelScope) -> None:
        """Leave the reunion once the conversation there was is taken up again, unless the two have met already."""
        while channel is self._channel and not channel.is_over:
            if not channel.is_alone:
                reunion.cancel()
            await trio.sleep(BACK_LOOK_S)

    async def _converse(self) -> None:
        """Say what has to be said over another conversation, until that has ended, too.

        Raises:
            SignalError: so it has.
        """
        channel = self._channel
        _log.info("the two sides have met again at the relay")
        self._take_servers(channel)
        peers = PeersDescription(channel, fingerprint=self._peers_fingerprint)
        async with open_background() as nursery:
            nursery.start_soon(self._send_descriptions)
            nursery.start_soon(self.watch_peer)
            nursery.start_soon(self.renew)
            await peers.hand_over(self._agent)

    def _take_servers(self, channel: icesignal.SealedChannel) -> None:
        """Use the servers that are named now; where there is no path, what they saw before need not hold any more."""
        try:
            if self._servers_of is not None:
                self._agent.set_servers(self._servers_of(channel.ice_servers))
        except LocalError as error:  # such as a relay that has no TURN server any more; the present ones stay in use
            _log.warning("what the relay names now cannot be used: %s", error)
        if not self._agent.is_answering:
            self._agent.gather_again()

    async def renew(self) -> None:
        """Keep the credentials of the servers fresh while the present conversation lasts."""
        if self._servers_of is not None:
            await run_contained("fresh credentials", Renewal(self._agent, self._channel, self._servers_of).run)

    async def watch_peer(self) -> None:
        """Take note once the relay says that the other side is gone, and nothing comes from it.

        Its program was killed, most likely: its system then closes the connection to the relay, and checks would say
        nothing for as long as patience lasts. A connection that went silent says nothing about the other side.

        Raises:
            PeerLeft: so it is, and the session is not open yet. One that is open ends; see `watch_gone`.
        """
        channel, agent = self._channel, self._agent
        try:
            while True:
                await channel.wait_peer_gone(GONE_S)
                while channel.has_peer_hung_up:
                    silent_s = trio.current_time() - heard_at(agent)
                    if self.is_open and self._is_out_of_reach():
                        self._gone.set()
                        return
                    if not self.is_open and silent_s >= GONE_S:
                        channel.close()
                        raise peer_gone(agent, GONE_S)
                    await trio.sleep(max(LOOK_S, (CONSENT_EXPIRY_S if self.is_open else GONE_S) - silent_s))
        except icesignal.SignalError:
            pass  # whoever waits for the next message gets it

    async def watch_gone(self) -> None:
        """End the session once it is known that the other side will not come back, and nothing comes from it.

        It left in between: with a path, and before there was a link that could have said so; or while the path was
        away. Or its program ended without a word.

        Raises:
            PeerLeft: it left before the session was open.
        """
        await self._gone.wait()
        while self._agent.state not in _OVER:
            if not self.is_open and not self._agent.is_answering:
                left = PeerLeft("the other side left before the link was open")
                raise left_early(self._agent, left) from self._goodbye
            if self.is_open and self._is_out_of_reach():
                self._agent.give_up()
            await trio.sleep(LOOK_S)

    async def watch_suspicions(self) -> None:
        """Take note once nothing has come from the other side after the relay said what a killed program leaves."""
        while not self._gone.is_set():
            await self._seems_dead.wait()
            since, self._seems_dead = trio.current_time(), trio.Event()
            while heard_at(self._agent) <= since and not self._gone.is_set():
                if self._is_out_of_reach():
                    self._gone.set()
                await trio.sleep(LOOK_S)

    def _suspect(self, reason: BaseException) -> None:
        if isinstance(reason, icesignal.PeerLeft) and reason.is_dead:
            self._seems_dead.set()

    async def watch_peers_relay(self) -> None:
        """Take note if the other side's own relay ends, and so its program: nobody else could report that."""
        if self._reunion is None:
            return
        async for _ in self._agent.events():
            while self._is_out_of_reach() and not self._gone.is_set():
                if await self._reunion.has_peers_relay_ended():
                    self._gone.set()
                await trio.sleep(REFUSED_EVERY_S)

    def _is_out_of_reach(self) -> bool:
        """Whether consent to every path has ended, and with it all that may be sent to the peer."""
        agent = self._agent
        return agent.state not in _OVER and not agent.is_answering and (agent.silent_s or 0.0) >= CONSENT_EXPIRY_S

    def _note_end(self, channel: icesignal.SealedChannel, reason: BaseException) -> None:
        """Take note that a conversation carries no more messages; `reason` is the relay's text."""
        if channel is not self._channel:
            return  # the two have met elsewhere since
        if isinstance(reason, icesignal.PeerLeft) and reason.said_goodbye and (reason.is_done or not self.is_open):
            self._goodbye = reason
            self._gone.set()
        self._suspect(reason)
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
