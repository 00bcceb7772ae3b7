"""A relay that lies, by chance: it drops, repeats, reorders, swaps, forges, adds members and brings old ones back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from icesignal import wire
from icesignal.circle import Circle
from icesignal.room_chains import HeardChain, OwnChain, Speaker
from icesignal.room_keys import MemberKey, RoomKey, make_opening, make_statement
from icesignal.room_pairs import HELLO, Pair, lp
from icesignal.room_removals import REMOVAL
from room_worlds import START, Hub, Sent, Stay, World, issue, member_key, room_key

STATES: list[wire.MemberPresence] = ["present", "away", "gone"]
EVIL = 666


class Liar:
    """One strategy: how often it does what, drawn once; then so many steps."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng = random.Random(f"liar {seed}")
        self.world = World(seed, size)
        self.done: Counter[str] = Counter()
        self._queues: dict[int, list[Sent]] = {}
        self._taken = 0
        self.lies: list[Callable[[], None]] = [
            self._drop,
            self._repeat,
            self._reorder,
            self._misdirect,
            self._rename_sender,
            self._damage,
            self._replay_old,
            self._forge_presence,
            self._mix_openings,
            self._replay_opening,
            self._add_member,
            self._steal_ticket,
            self._forge_removal,
            self._let_traitor_speak_for_others,
            self._resync,
        ]
        self._eagerness = self.rng.choice([0.1, 0.3, 0.6, 0.9])
        self._chosen = self.rng.sample(self.lies, self.rng.randint(1, len(self.lies)))
        # A view for each: whom it is told of by the relay's own will.
        self._is_split = self.rng.random() < 0.3

    def run(self, steps: int) -> None:
        """Do so many things, and then all that an honest relay would."""
        for who in range(len(self.world.ids)):
            self._enter(who)
            self._deliver(3)
        for _ in range(steps):
            if self.rng.random() < self._eagerness:
                lie = self.rng.choice(self._chosen)
                lie()
                self.done[lie.__name__] += 1
            else:
                self._go_on()

    # -- what an honest relay does

    def _go_on(self) -> None:
        """Let somebody say something, come anew, go or be removed; mostly give what is under way."""
        world, rng = self.world, self.rng
        what = rng.random()
        stay = self._anybody()
        if what < 0.35:
            self._deliver(rng.randint(1, 20))
        elif what < 0.65:
            world.say(stay)
        elif what < 0.85:
            world.say(stay, rng.sample(world.ids, rng.randint(1, len(world.ids))))
        elif what < 0.93:
            self._enter(stay.who)
        elif what < 0.96 and stay.who != 0 and len(world.removed) + 2 < len(world.ids):
            world.remove(world.current[0], stay.who)
        else:
            self._show_all(stay)

    def _enter(self, who: int) -> None:
        stay = self.world.enter(who)
        self._queues[stay.number] = []
        self._show_all(stay)

    def _show_all(self, stay: Stay) -> None:
        for other in list(self.world.current.values()):
            if other is not stay and not (self._is_split and self.rng.random() < 0.3):
                self.world.show(other, stay)
                self.world.show(stay, other)

    def _collect(self) -> None:
        sent = self.world.sent
        for one in sent[self._taken :]:
            for stay in self.world.stays:
                if stay.circle.id != one.sender and one.to in (None, stay.circle.id) and not stay.is_over:
                    self._queues[stay.number].append(one)
        self._taken = len(sent)

    def _deliver(self, count: int) -> None:
        """Give everybody that many of the messages that are under way to it."""
        for _ in range(count):
            self._collect()
            for stay in list(self.world.current.values()):
                queue = self._queues[stay.number]
                if queue:
                    self.world.give(stay, queue.pop(0))

    # -- what it does not

    def _anybody(self) -> Stay:
        return self.rng.choice(list(self.world.current.values()))

    def _any_sent(self) -> Sent | None:
        return self.rng.choice(self.world.sent) if self.world.sent else None

    def _drop(self) -> None:
        queue = self._queues[self._anybody().number]
        if queue:
            del queue[self.rng.randrange(len(queue))]

    def _repeat(self) -> None:
        stay = self._anybody()
        self._collect()
        queue = self._queues[stay.number]
        if queue:
            for _ in range(2):
                self.world.give(stay, queue[0])
            queue.pop(0)

    def _reorder(self) -> None:
        self._collect()
        self.rng.shuffle(self._queues[self._anybody().number])

    def _misdirect(self) -> None:
        sent = self._any_sent()
        if sent is not None:
            self.world.give(self._anybody(), sent)

    def _rename_sender(self) -> None:
        sent = self._any_sent()
        if sent is not None:
            self.world.give_as(self._anybody(), self.rng.choice(self.world.ids), sent.payload)

    def _damage(self) -> None:
        sent = self._any_sent()
        if sent is not None:
            payload = bytearray(sent.payload)
            payload[self.rng.randrange(len(payload))] ^= 1 << self.rng.randrange(8)
            self.world.give_as(self._anybody(), sent.sender, bytes(payload))

    def _replay_old(self) -> None:
        stay = self._anybody()
        for sent in self.rng.sample(self.world.sent, min(30, len(self.world.sent))):
            self.world.give(stay, sent)

    def _forge_presence(self) -> None:
        self.world.show(self._anybody(), self._anybody(), self.rng.choice(STATES))

    def _mix_openings(self) -> None:
        ticket, opening, member = (self.rng.choice(self.world.stays) for _ in range(3))
        self.world.show_as(
            self._anybody(), member.circle.id, ticket.ticket, opening.circle.opening, self.rng.choice(STATES)
        )

    def _replay_opening(self) -> None:
        self.world.show(self._anybody(), self.rng.choice(self.world.stays), self.rng.choice(STATES))

    def _add_member(self) -> None:
        """Be a member of one's own: with a ticket of another room's owner, under any id."""
        member = self.rng.choice([*self.world.ids, b"e" * 16])
        self._be(member, issue(room_key(EVIL), member_key(EVIL), member, expires=START + 9_999))

    def _steal_ticket(self) -> None:
        """Be a member whose ticket one has seen."""
        stolen = self.rng.choice(self.world.stays)
        self._be(stolen.circle.id, stolen.ticket)

    def _be(self, member: bytes, ticket: bytes) -> None:
        """Enter, say hello, give a chain and say something to all, as well as one can."""
        victim, evil, room = self._anybody(), member_key(EVIL), self.world.owner.public
        private = X25519PrivateKey.from_private_bytes(self.rng.randbytes(32))
        opening = make_opening(evil, self.rng.choice([room, room_key(EVIL).public]), member, private)
        self.world.show_as(victim, member, ticket, opening)
        pair = Pair(room, private, (member, opening), (victim.circle.id, victim.circle.opening))
        chain = OwnChain(Speaker(room, member, opening), evil, self.rng.randbytes)
        chain.renew()
        for plaintext in (HELLO, b"\x04" + chain.gift(), b"\x00evil"):
            self.world.give_as(victim, member, pair.seal(plaintext))
        self.world.give_as(victim, member, chain.seal(b"evil"))

    def _forge_removal(self) -> None:
        """Remove somebody without the owner's leave, with whatever ticket."""
        ways: list[tuple[RoomKey | MemberKey, bytes]] = [
            (member_key(EVIL), b""),
            (member_key(EVIL), self.rng.choice(self.world.tickets)),
            *((self.world.keys[who], self.world.tickets[who]) for who in range(1, len(self.world.ids))),
            (room_key(EVIL), b""),
        ]
        signer, ticket = self.rng.choice(ways)
        statement = make_statement(signer, self.world.owner.public, self.rng.choice(self.world.ids), ticket)
        self.world.give_as(self._anybody(), self.rng.choice(self.world.ids), REMOVAL + lp(statement))

    def _let_traitor_speak_for_others(self) -> None:
        """A member works with the relay: it has the chain of each other one, and its own key to sign with."""
        traitor = self._anybody()
        for member, peer in traitor.circle._peers.items():
            payload = forged(traitor.circle, member, peer.chain, self.world.keys[traitor.who])
            if payload is not None:
                self.world.give_as(self._anybody(), member, payload)

    def _resync(self) -> None:
        """Say that something is lost, which may be so."""
        stay = self._anybody()
        if self.rng.random() < 0.5:
            self._queues[stay.number].clear()
        stay.circle.handle_resync()
        self.world.collect(stay)

    # -- in the end

    def make_good(self) -> None:
        """Be honest: whoever enters anew is heard by all others that do, but for those that were removed."""
        world = self.world
        world.current.clear()
        hub = Hub(world)
        hub._given = len(world.sent)
        here = [who for who in range(len(world.ids)) if who not in world.removed]
        stays = [hub.enter(who) for who in here]
        for stay in stays:
            world.say(stay)
            hub.settle()
        for stay in stays:
            assert len(stay.heard) == len(stays) - 1, "an honest relay is of no use any more"


def forged(circle: Circle, member: bytes, chain: HeardChain, key: MemberKey) -> bytes | None:
    """Return what a member says in the name of another one, with the key that this one gave it; None if it has none."""
    if not chain.generation:
        return None
    speaker = Speaker(circle.room, member, circle._peers[member].opening)
    own = OwnChain(speaker, key, bytes)
    own._key, own.generation, own._index = chain._key, chain.generation, chain._expected
    return own.seal(b"forged")
