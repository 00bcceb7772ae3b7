"""One room: its two places, its log and the order of messages. Sans-IO; `rooms` has the protocol."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile

from icesignal import wire
from icesignal.sources import Levels


def other(role: wire.Role) -> wire.Role:
    """Return the other place."""
    return "joiner" if role == "inviter" else "inviter"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One accepted message. `at` is when, in seconds."""

    seq: int
    at: float
    sender: wire.Role
    client_seq: int
    payload: bytes = field(repr=False)


@dataclass(slots=True, eq=False)
class Member:
    """A session in its place. `connection` is None while it is away."""

    room: Room
    role: wire.Role
    session: bytes = field(repr=False)
    opening: bytes = field(repr=False)
    token: bytes = field(repr=False)
    previous_token: bytes | None = field(default=None, repr=False)
    connection: int | None = None
    away_at: float | None = None
    hung_up: bool = False  # how it went away: the connection was closed from its side, without a goodbye
    client_seq: int = 0
    is_settled: bool = False
    sent_seq: int = 0  # up to here the other's messages have been given to the connection
    in_flight: int = 0  # bytes given to the connection and not yet written

    @property
    def peer(self) -> Member | None:
        """The other member, if there is one."""
        return self.room.members.get(other(self.role))

    def rotate_token(self, token: bytes) -> None:
        """Make `token` the good one; the one before stays good until `confirm_token`."""
        self.previous_token, self.token = self.token, token

    def confirm_token(self) -> None:
        """Note that the client has the newest token, as it speaks on the connection that got it."""
        self.previous_token = None
        self.is_settled = True


@dataclass(slots=True, eq=False)
class Room:
    """Two places and what was said between them."""

    name: str
    epoch: int
    created_at: float
    is_rendezvous: bool
    levels: Levels = ()  # who made it
    members: dict[wire.Role, Member] = field(default_factory=dict[wire.Role, Member])
    claimed: bool = False
    inviter_said: int = 0  # messages since somebody joined
    is_confirmed: bool = False
    seq: int = 0
    log: deque[LogEntry] = field(default_factory=deque[LogEntry])
    log_bytes: int = 0
    # The newest message to each place that the log no longer holds: a position before it cannot be replayed from.
    lost_seq: dict[wire.Role, int] = field(default_factory=lambda: {"inviter": 0, "joiner": 0})

    def state_of(self, role: wire.Role) -> wire.PeerPresence:
        """Return how the member in this place is."""
        member = self.members.get(role)
        if member is None:
            return "absent"
        return "away" if member.connection is None else "present"

    def append(self, now: float, member: Member, frame: wire.Send) -> LogEntry:
        """Give a message its place in the order."""
        self.seq += 1
        member.client_seq = frame.client_seq
        entry = LogEntry(self.seq, now, member.role, frame.client_seq, frame.payload)
        self.log.append(entry)
        self.log_bytes += len(entry.payload)
        return entry

    def unsent(self, member: Member) -> list[LogEntry]:
        """Return what the other said that the member's connection has not been given, oldest first."""
        later = takewhile(lambda entry: entry.seq > member.sent_seq, reversed(self.log))
        return [entry for entry in later if entry.sender != member.role][::-1]

    def seq_of(self, sender: wire.Role, client_seq: int) -> int:
        """Return the place of a message that was accepted before; 0 when the log no longer has it."""
        return next((entry.seq for entry in self.log if (entry.sender, entry.client_seq) == (sender, client_seq)), 0)

    def trim(self, now: float, max_age_s: float, *, max_messages: int, max_bytes: int) -> None:
        """Drop what is too old or too much, oldest first."""
        while self.log and (
            self.log[0].at + max_age_s <= now or len(self.log) > max_messages or self.log_bytes > max_bytes
        ):
            entry = self.log.popleft()
            self.log_bytes -= len(entry.payload)
            self.lost_seq[other(entry.sender)] = entry.seq

    def is_over(self, now: float, resume_s: float, unjoined_s: float) -> bool:
        """Return whether a member stayed away for too long, or nobody came."""
        return self._over_at(resume_s, unjoined_s) <= now

    def next_timeout(self, log_s: float, resume_s: float, unjoined_s: float) -> float:
        """Return when something of this room ends; infinity when nothing will by itself."""
        over_at = self._over_at(resume_s, unjoined_s)
        return min(over_at, self.log[0].at + log_s) if self.log else over_at

    def _over_at(self, resume_s: float, unjoined_s: float) -> float:
        away = [member.away_at + resume_s for member in self.members.values() if member.away_at is not None]
        if not self.claimed:
            away.append(self.created_at + unjoined_s)
        return min(away, default=float("inf"))
