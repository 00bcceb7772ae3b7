"""Two paired peers meet at a relay without a code: where, and how they find each other there.

The name of the rendezvous room and its key come from what only the two identities can compute, from who of them waits
for the other (so that both may wait for each other), and from the day, so that no name tells a relay for ever that
these two meet. Clocks may be wrong: whoever waits is in the room of its day; whoever comes tries its own day's, and
after a moment those of the days before and after. Whoever waits moves on with its day.

Relays that stand for each other are used all at once: whoever waits is at each of them, whoever comes too, and goes on
where the two meet first. The comer alone chooses: it proves itself on one channel, and the other side answers there.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import icesignal
import trio
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from icesignal.pake import Role
from icesignal.pauses import jittered
from icesignal.race import all_failed

from iceagent.net.tasks import open_background
from iceagent.session.errors import PeerNotPinned, UnknownPeer
from iceagent.session.pairing.identity import Identity, PublicIdentity
from iceagent.session.pairing.proof import MEET_PURPOSE, MeetingProof

DAY_S: Final = 86_400
NEIGHBOUR_AFTER_S: Final = 3.0  # ours: until whoever comes looks into the rooms of yesterday and of tomorrow, too
FIRST_PAUSE_S: Final = 0.5
LOOK_S: Final = 60.0  # ours: how often whoever waits looks whether its clock was set
LONGEST_PAUSE_S: Final = 30.0  # each is twice the one before
CROWDED_S: Final = 10.0  # ours: until it is said that the place where the two meet is taken
PROOF_S: Final = 30.0  # ours: for the other side's proof, which it can give at once

OpenClient = Callable[[str], AbstractAsyncContextManager[icesignal.Client]]
_log = logging.getLogger(__name__)


def rendezvous(identity: Identity, peer: PublicIdentity, role: Role, day: int) -> icesignal.Rendezvous:
    """Return where two identities meet on a day, of which one waits as `inviter`, and the key of it.

    Args:
        identity: ours.
        peer: the other one.
        role: ours.
        day: since the epoch; a clock may be before that.
    """
    first, second = (identity.public, peer) if role == "inviter" else (peer, identity.public)
    context = first.packed + second.packed + day.to_bytes(8, "big", signed=True)
    shared = identity.shared_with(peer)
    name, key = (
        HKDF(SHA256(), 32, None, b"iceagent/1 rendezvous " + label + b"\0" + context).derive(shared)
        for label in (b"name", b"key")
    )
    return icesignal.Rendezvous(role, name, key)


@dataclass(frozen=True, slots=True)
class Met:
    """The peer is there, and has proved who it is: the channel to it, and the client of the relay."""

    channel: icesignal.SealedChannel
    client: icesignal.Client


@asynccontextmanager
async def meet(
    relays: Sequence[str],
    open_client: OpenClient,
    identity: Identity,
    expected: Callable[[], PublicIdentity],
    role: Role,
    *,
    timeout_s: float | None = None,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[Met]:
    """Wait for a paired peer, or go to where it waits; yields when both have proved who they are.

    What is wrong with a relay that was there before is waited out.

    Args:
        relays: URLs.
        open_client: connects to one of them.
        identity: ours.
        expected: returns whom we expect, asked again as somebody comes: it may have been removed meanwhile.
        role: `inviter` waits, `joiner` comes.
        timeout_s: how long to wait, seconds; None without limit.
        now: Unix time, seconds.
    Raises:
        trio.TooSlowError: `timeout_s` has passed.
        PeerNotPinned: somebody is there who has the key of the meeting, and not that of the peer.
        SignalError: no relay can be used; of several it says what each has said.
    """
    meeting = _Meeting(relays, open_client, identity, expected, role, now)
    async with open_background() as nursery:
        for url in relays:
            nursery.start_soon(meeting.attend, url, 0, 0.0)
            for distance in (-1, 1) if role == "joiner" else ():
                nursery.start_soon(meeting.attend, url, distance, NEIGHBOUR_AFTER_S)
        nursery.start_soon(meeting.keep_to_the_day)
        with trio.fail_after(math.inf if timeout_s is None else timeout_s):
            await meeting.decided.wait()
        if meeting.met is None:
            assert meeting.failure is not None
            raise meeting.failure
        try:
            yield meeting.met
        finally:
            meeting.over.set()
            with trio.CancelScope(shield=True):  # it says goodbye within a bounded time
                await meeting.ended.wait()


class _Meeting:
    """The rooms of one meeting, each a task that holds its connection while it is needed."""

    def __init__(
        self,
        relays: Sequence[str],
        open_client: OpenClient,
        identity: Identity,
        expected: Callable[[], PublicIdentity],
        role: Role,
        now: Callable[[], float],
    ) -> None:
        self.met: Met | None = None
        self.failure: Exception | None = None
        self.decided = trio.Event()
        self.over = trio.Event()
        self.ended = trio.Event()
        self._relays = relays
        self._open_client = open_client
        self._identity = identity
        self._expected = expected
        self._role: Role = role
        self._now = now
        self._began_at = trio.current_time()
        self._unusable: dict[str, icesignal.SignalError] = {}
        self._has_been_there = False
        self._told: set[str] = set()
        # A comer proves itself in one room after the other, so that it is found in one; who waits hears all of them.
        self._proving = trio.CapacityLimiter(1 if role == "joiner" else math.inf)
        self._scopes: dict[trio.CancelScope, int] = {}  # each with the day that it is of

    async def attend(self, url: str, distance: int, delay_s: float) -> None:
        """Be in the rooms of one relay, those of so many days from now, until the peer is found in one of them all."""
        await trio.sleep(delay_s)
        pause_s = FIRST_PAUSE_S
        while not self.decided.is_set():
            began_at = trio.current_time()
            try:
                await self._attend_a_day(url, distance)
            except (PeerNotPinned, UnknownPeer) as error:
                self._fail(error)
            except icesignal.SignalError as error:
                self._note(url, error)
            if self.decided.is_set():
                return
            if trio.current_time() - began_at >= LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            await trio.sleep(jittered(pause_s, secrets.randbelow(256)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def keep_to_the_day(self) -> None:
        """Leave the rooms of a day that is none any more, as the clock was set: at the start of a machine, say."""
        while not self.decided.is_set():
            await trio.sleep(LOOK_S)
            today = int(self._now() // DAY_S)
            for scope, day in list(self._scopes.items()):
                if day != today and not self.decided.is_set():
                    scope.cancel()

    async def _attend_a_day(self, url: str, distance: int) -> None:
        day, seconds = divmod(self._now(), DAY_S)
        place = rendezvous(self._identity, self._expected(), self._role, int(day) + distance)
        scope, is_chosen = trio.CancelScope(deadline=trio.current_time() + DAY_S - seconds), False
        self._scopes[scope] = int(day)
        try:
            with scope:
                async with self._open_client(url) as client:
                    self._has_been_there = True
                    async with icesignal.open_rendezvous(client, place) as channel:
                        async with self._proving:
                            await self._prove(channel)
                            is_chosen = self.met is None
                            if is_chosen:
                                scope.deadline = float("inf")
                                self.met = Met(channel, client)
                                self._end_others(scope)
                        if is_chosen:
                            await self._wait_over(channel)
        finally:
            self._scopes.pop(scope, None)
            if is_chosen:
                self.ended.set()

    async def _wait_over(self, channel: icesignal.SealedChannel) -> None:
        """Stay until the conversation is over, or nobody needs it any more."""
        async with open_background() as nursery:

            async def leave() -> None:
                await channel.wait_over()
                self.over.set()

            nursery.start_soon(leave)
            await self.over.wait()

    async def _prove(self, channel: icesignal.SealedChannel) -> None:
        refusal: PeerNotPinned | UnknownPeer
        try:
            with trio.fail_after(PROOF_S):
                await self._exchange_proofs(channel)
            return
        except trio.TooSlowError:
            raise icesignal.PeerLeft(f"the other side has not proved who it is within {PROOF_S:g} s") from None
        except (PeerNotPinned, UnknownPeer) as error:
            refusal = error
        with suppress(icesignal.SignalError):  # it has left already
            await channel.send(MeetingProof.refusal())
        raise refusal

    async def _exchange_proofs(self, channel: icesignal.SealedChannel) -> None:
        proof = MeetingProof(self._role, channel.key(MEET_PURPOSE), self._identity, self._expected())
        for message in proof.begin():
            await channel.send(message)
        while not proof.is_done:
            for message in proof.handle_untrusted(await channel.receive()):
                await channel.send(message)

    def _end_others(self, scope: trio.CancelScope) -> None:
        for other in self._scopes:
            if other is not scope:
                other.cancel()
        self.decided.set()

    def _fail(self, error: Exception) -> None:
        if not self.decided.is_set():
            self.failure = error
            self.decided.set()

    def _note(self, url: str, error: icesignal.SignalError) -> None:
        """Take note of what is wrong at one relay: an error if it has been so at all of them from the start."""
        self._unusable[url] = error
        if isinstance(error, _AT_THE_RELAY) and not self._has_been_there and len(self._unusable) == len(self._relays):
            self._fail(all_failed([self._unusable[one] for one in self._relays]))
        text = _MEANWHILE.get(type(error))
        if isinstance(error, icesignal.Crowded) and trio.current_time() - self._began_at < CROWDED_S:
            return  # by others of the two peers' processes, which meet there before us and move on
        if text is not None and text not in self._told:
            self._told.add(text)
            _log.warning("at the relay %s %s", icesignal.parse_relay_url(url).shown, text)


_AT_THE_RELAY: Final = (icesignal.RelayUnreachable, icesignal.RelayRefused, icesignal.ProtocolMismatch)
_MEANWHILE: Final[dict[type[icesignal.SignalError], str]] = {
    icesignal.Crowded: "this place is taken: another process of yours waits for this peer, or goes to it. Trying again",
    icesignal.CodeWrong: "somebody stands where the two meet and does not have their key. Trying again",
}
