"""A relay that lies by chance to two peers who share a code: the clients are the real ones, the sockets are missing."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

import trio
import trio.testing
from icesignal import pake, wire
from icesignal.client import Client
from icesignal.client_session import ClientSession
from icesignal.keeper import Keeper, RelayState
from icesignal.secretbox import Sealer
from icesignal.url import parse_relay_url

ROLES: list[wire.Role] = ["inviter", "joiner"]
NAMEPLATE = "7"


class ToldKeeper:
    """A connection to a relay that says what it is told to; what is said to it is kept."""

    def __init__(self, rng: random.Random) -> None:
        self.url = parse_relay_url("ws://relay.example:8080")
        self.state = RelayState.CONNECTED
        self.timeout_s = 10.0
        self.randbytes = rng.randbytes
        self.session: ClientSession | None = None
        self.connection = None
        self.ways: list[object] = []
        self.frames: list[wire.Frame] = []
        self.entry: wire.Frame | None = None
        self._changed = trio.Event()

    def begin(self, session: ClientSession) -> None:
        self.session = session
        self.entry = session.begin(None)
        self.notify()

    def abandon(self) -> None:
        self.session = None

    def transmit(self, frame: wire.Frame) -> None:
        self.frames.append(frame)

    def close(self, reason: wire.CloseReason) -> None:
        if self.session is not None and self.session.over is None:
            Keeper.close(cast("Keeper", self), reason)

    def notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_change(self) -> None:
        await self._changed.wait()

    def hear(self, frame: wire.Frame) -> None:
        """Have the client hear a frame; what it answers is kept."""
        if self.session is not None and self.session.over is None:
            answers, _ = self.session.handle_frame(frame)
            self.frames.extend(answers)
            self.notify()

    def client(self) -> Client:
        return Client(cast("Keeper", self))


class PairLiar:
    """One strategy against one inviter and one joiner."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"pair liar {seed}")
        self.keepers = {role: ToldKeeper(self.rng) for role in ROLES}
        self.said: dict[str, list[bytes]] = {role: [] for role in ROLES}
        self.given: Counter[str] = Counter()
        self.seq: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.lies_in_openings = self.rng.random() < 0.5
        self.eagerness = self.rng.choice([0.0, 0.2, 0.5, 0.9])
        self.forged: dict[str, pake.SessionKeys] = {}
        self.own = {role: pake.Pake(role, "zebra-zebra", randbytes=self.rng.randbytes) for role in ROLES}
        lies = [
            self._drop,
            self._repeat,
            self._swap,
            self._reflect,
            self._damage,
            self._forge,
            self._resync,
            self._news,
        ]
        self.lies = self.rng.sample(lies, self.rng.randint(1, len(lies)))

    async def run(self, steps: int) -> None:
        """Let both in, with whatever openings, and give them what one likes."""
        for role in ROLES:
            while self.keepers[role].entry is None:
                await trio.testing.wait_all_tasks_blocked()
            self._let_in(role)
        self.keepers["inviter"].hear(self._peer("inviter", "present"))
        for _ in range(steps):
            await trio.testing.wait_all_tasks_blocked()
            self._collect()
            role = self.rng.choice(ROLES)
            lie = self.rng.choice(self.lies) if self.rng.random() < self.eagerness else self._give
            lie(role)
            self.done[lie.__name__] += 1
        for role in ROLES:
            await trio.testing.wait_all_tasks_blocked()
            self.keepers[role].hear(wire.Closed(reason="left"))

    # -- what it says

    def _opening_for(self, role: wire.Role) -> bytes:
        """Return what a side is told that the other one has said: the truth, or one's own, or its own, or none."""
        mine, theirs = self.keepers[role].entry, self.keepers[_other(role)].entry
        truth = b"" if theirs is None else _opening(theirs)
        if not self.lies_in_openings:
            return truth
        return self.rng.choice(
            [truth, self.own[_other(role)].message, self.own[role].message, _opening(mine), b"x" * 33]
        )

    def _let_in(self, role: wire.Role) -> None:
        keeper = self.keepers[role]
        keeper.hear(
            wire.Joined(
                room=NAMEPLATE,
                role=role,
                token=bytes(16),
                epoch=1,
                seq=0,
                peer="absent" if role == "inviter" else "present",
                opening=b"" if role == "inviter" else self._opening_for(role),
                client_seq=0,
                resume_s=120,
            )
        )

    def _peer(self, role: wire.Role, state: wire.PeerPresence) -> wire.Peer:
        return wire.Peer(state=state, opening=self._opening_for(role))

    def _collect(self) -> None:
        for role in ROLES:
            keeper = self.keepers[role]
            for frame in keeper.frames:
                if isinstance(frame, wire.Send) and frame.client_seq > self.acknowledged[role]:
                    self.acknowledged[role] = frame.client_seq
                    self.said[role].append(frame.payload)
                    keeper.hear(wire.Ack(client_seq=frame.client_seq, epoch=1, seq=0))
            keeper.frames.clear()

    def _message(self, role: wire.Role, payload: bytes) -> None:
        self.seq[role] += 1
        self.keepers[role].hear(wire.Message(epoch=1, seq=self.seq[role], payload=payload))

    def _give(self, role: wire.Role) -> None:
        """Give a side the next that the other one has said."""
        said = self.said[_other(role)]
        if self.given[role] < len(said):
            self._message(role, said[self.given[role]])
            self.given[role] += 1

    # -- lies

    def _drop(self, role: wire.Role) -> None:
        self.given[role] = min(self.given[role] + 1, len(self.said[_other(role)]))

    def _repeat(self, role: wire.Role) -> None:
        said = self.said[_other(role)]
        if said:
            self._message(role, self.rng.choice(said))

    def _swap(self, role: wire.Role) -> None:
        said, at = self.said[_other(role)], self.given[role]
        if at + 1 < len(said):
            said[at], said[at + 1] = said[at + 1], said[at]

    def _reflect(self, role: wire.Role) -> None:
        if self.said[role]:
            self._message(role, self.rng.choice(self.said[role]))

    def _damage(self, role: wire.Role) -> None:
        said = self.said[_other(role)]
        if said:
            payload = bytearray(self.rng.choice(said))
            payload[self.rng.randrange(len(payload))] ^= 1 << self.rng.randrange(8)
            self._message(role, bytes(payload))

    def _forge(self, role: wire.Role) -> None:
        """Say what the other side would, with the keys of an exchange with other words."""
        if role not in self.forged:
            opening = _opening(self.keepers[role].entry)
            self.forged[role] = self.own[_other(role)].finish(opening, room=NAMEPLATE)
        keys = self.forged[role]
        sealer = Sealer(keys.derive(f"seal {pake.other(role)}"), keys.transcript)
        sealer.counter = self.rng.randrange(4)
        self._message(
            role, self.rng.choice([b"\x01" + keys.confirmation(), sealer.seal(b"\0\x80"), b"\x01" + bytes(32)])
        )

    def _resync(self, role: wire.Role) -> None:
        self.keepers[role].hear(
            wire.Resync(
                room=NAMEPLATE,
                role=role,
                token=bytes(16),
                epoch=1,
                seq=self.seq[role],
                peer="present",
                opening=self._opening_for(role),
                client_seq=self.acknowledged[role],
                resume_s=120,
            )
        )

    def _news(self, role: wire.Role) -> None:
        self.keepers[role].hear(self._peer(role, self.rng.choice(["present", "away", "absent"])))


def _other(role: wire.Role) -> wire.Role:
    return "joiner" if role == "inviter" else "inviter"


def _opening(entry: Any) -> bytes:
    opening: bytes = entry.opening
    return opening
