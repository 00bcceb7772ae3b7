"""Identities, the store of peers, the five words, and pairing: what is kept, and that nobody else is ever pinned."""

from __future__ import annotations

import multiprocessing
import os
import random
import stat
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import icesignal
import pytest
import trio

import iceagent
from iceagent import Identity, IdentityError, PeerStore, RemoteError, UnknownPeer
from iceagent.session.pairing.identity import PublicIdentity, identity_path
from iceagent.session.pairing.proof import PairingExchange
from iceagent.session.pairing.store import is_name, safe_name
from iceagent.session.pairing.words import WORD_COUNT, WordsExchange

Message = dict[str, Any]


# -- the file of the identity


def test_an_identity_is_made_at_first_use_and_is_its_owners_alone(tmp_path: Path) -> None:
    """Whatever the umask is; and the next use finds the same one."""
    path = tmp_path / "deep" / "iceagent" / "identity"
    before = os.umask(0)
    try:
        made = Identity.load(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Identity.load(path).public == made.public
    assert os.listdir(path.parent) == ["identity"]
    assert made.public.fingerprint in repr(made)
    assert path.read_text().split()[-1] not in repr(made)


def test_the_file_of_the_identity_is_found_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`ICEAGENT_IDENTITY` names a file; XDG a folder, but not a relative one."""
    monkeypatch.setenv("ICEAGENT_IDENTITY", str(tmp_path / "office.key"))
    identity = Identity.load()
    assert identity.path == tmp_path / "office.key"
    assert PeerStore.beside(identity).path == tmp_path / "office.key.peers.json"
    monkeypatch.delenv("ICEAGENT_IDENTITY")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert identity_path() == tmp_path / "iceagent" / "identity"
    assert PeerStore.at(identity_path()).path == tmp_path / "iceagent" / "peers.json"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert identity_path() == tmp_path / ".local" / "share" / "iceagent" / "identity"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o777])
def test_trap_84_an_identity_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    """Whoever has read it is this user to all its peers; the sentence says what to do."""
    path = tmp_path / "identity"
    Identity.load(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        Identity.load(path)


def test_trap_84_nor_is_a_list_of_peers_that_others_can_change(tmp_path: Path) -> None:
    """Whoever can write it pins himself."""
    store = PeerStore(tmp_path / "peers.json")
    store.pin("office", Identity.generate().public)
    store.path.chmod(0o622)
    with pytest.raises(IdentityError, match="chmod 600"):
        store.peers()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 65,
        b"iceagent identity 1 ",
        b"iceagent identity 1 AAAA\n",
        b"iceagent identity 2 " + b"A" * 44,
        b"x" * 99,
    ],
)
def test_a_damaged_identity_is_told_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    """A new one in its place would cut off all peers."""
    path = tmp_path / "identity"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="no identity of iceagent, or a damaged one"):
        Identity.load(path)
    assert path.read_bytes() == content


def _link(path: Path) -> None:
    path.with_name("elsewhere").write_bytes(b"")
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("make", [_link, Path.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_no_identity(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """And nothing waits for whoever may write to a fifo."""
    path = tmp_path / "identity"
    make(path)
    with pytest.raises(IdentityError):
        Identity.load(path)


def test_a_folder_into_which_others_write_is_refused(tmp_path: Path) -> None:
    """They could take the file away, and the next use would make another identity."""
    folder = tmp_path / "iceagent"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(IdentityError, match=f"chmod 700 {folder}"):
        Identity.load(folder / "identity")


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """Such as on a disk that is full, or below a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot be"):
        Identity.load(tmp_path / "file" / "identity")


def _load(path: Path, found: Any) -> None:
    found.put(Identity.load(path).public.key)


def test_processes_that_make_an_identity_at_once_have_the_same(tmp_path: Path) -> None:
    """Two commands of a script, at first use."""
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    workers = [context.Process(target=_load, args=(tmp_path / "iceagent" / "identity", found)) for _ in range(8)]
    for worker in workers:
        worker.start()
    keys = {found.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
        worker.close()
    assert len(keys) == 1


# -- the store


def test_peers_are_pinned_renamed_and_removed(tmp_path: Path) -> None:
    """Under one name at a time; whoever is paired again under another has that one."""
    store = PeerStore(tmp_path / "iceagent" / "peers.json", now=lambda: 1_000.0)
    one, two = Identity.generate().public, Identity.generate().public
    assert store.peers() == {}
    store.pin("office", one)
    store.pin("home", two)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert store.get("office").identity == one
    assert store.get("office").paired_at == 1_000
    assert list(store.peers()) == ["home", "office"]
    store.rename("office", "work")
    store.pin("work-2", one)
    assert list(store.peers()) == ["home", "work-2"]
    store.remove("home")
    with pytest.raises(UnknownPeer, match=r"'home'.*iceagent peers"):
        store.get("home")
    for change in (lambda: store.remove("home"), lambda: store.rename("home", "x")):
        with pytest.raises(UnknownPeer):
            change()


def test_trap_83_a_pinned_name_does_not_go_to_another_key(tmp_path: Path) -> None:
    """By pairing again, or by renaming: the first has to be removed by name."""
    store = PeerStore(tmp_path / "peers.json")
    one, two = Identity.generate().public, Identity.generate().public
    store.pin("office", one)
    store.pin("home", two)
    for change in (lambda: store.pin("office", two), lambda: store.rename("home", "office")):
        with pytest.raises(IdentityError, match=r"another peer here.*remove office"):
            change()
    half = PublicIdentity(one.key, two.exchange)
    with pytest.raises(IdentityError):
        store.pin("office", half)
    assert store.free_name("office", two) == "home"
    assert store.free_name("office", Identity.generate().public) == "office-2"
    assert {name: peer.identity for name, peer in store.peers().items()} == {"office": one, "home": two}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version":1,"peers":{"7-guitar":{}}}', b"[" * 100_000])
def test_a_damaged_list_of_peers_is_told_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    """Also when something is about to be added to it."""
    store = PeerStore(tmp_path / "peers.json")
    store.path.write_bytes(content)
    store.path.chmod(0o600)
    with pytest.raises(IdentityError, match="no list of peers, or a damaged one"):
        store.pin("office", Identity.generate().public)
    assert store.path.read_bytes() == content


def test_a_list_of_a_newer_version_is_told_as_such_and_left_as_it_is(tmp_path: Path) -> None:
    """To move it away, as a damaged one, would lose all peers."""
    store = PeerStore(tmp_path / "peers.json")
    store.path.write_bytes(content := b'{"version":2,"peers":[]}')
    store.path.chmod(0o600)
    with pytest.raises(IdentityError, match=r"newer iceagent.*leave the file"):
        store.pin("office", Identity.generate().public)
    assert store.path.read_bytes() == content


@pytest.mark.parametrize("clock", [-5.0, 1e15])
def test_whatever_the_clock_says_the_list_of_peers_can_be_shown(tmp_path: Path, clock: float) -> None:
    """A date goes from 1 to 9999; a machine without a clock of its own starts anywhere."""
    store = PeerStore(tmp_path / "peers.json", now=lambda: clock)
    store.pin("office", Identity.generate().public)
    assert datetime.fromtimestamp(store.get("office").paired_at, UTC).year in (1970, 9999)


def test_a_date_that_is_none_is_a_damaged_list(tmp_path: Path) -> None:
    """And no error of the program."""
    store = PeerStore(tmp_path / "peers.json", now=lambda: 1_000.0)
    store.pin("office", Identity.generate().public)
    store.path.write_bytes(store.path.read_bytes().replace(b"1000", b"99999999999999999"))
    with pytest.raises(IdentityError, match="damaged one"):
        store.peers()


def test_a_key_with_which_nobody_can_meet_is_not_pinned() -> None:
    """Of a small order: what the two compute of it is nothing, so every meeting would fail."""
    peer = Identity.generate()
    side = PairingExchange("inviter", bytes(32), Identity.generate(), "a")
    hello = {"type": "pair", "version": 1, "key": peer.public.key, "exchange": bytes(32), "name": "b"}
    with pytest.raises(RemoteError, match="does not keep"):
        side.handle_untrusted(hello)


def _pin(path: Path, number: int) -> None:
    PeerStore(path).pin(f"peer-{number}", Identity.generate().public)


def test_two_processes_that_pair_at_once_lose_nobody(tmp_path: Path) -> None:
    """Each reads the list and writes it as a whole."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_pin, args=(tmp_path / "peers.json", number)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
        worker.close()
    assert len(PeerStore(tmp_path / "peers.json").peers()) == 12


@pytest.mark.parametrize(
    "text",
    [
        "My Laptop.local",
        "",
        "7",
        "../../etc/passwd",
        "\x1b[2J",
        "ÄÖÜ",
        "a" * 99,
        "-x",
        "Code: 7-guitar-ozone",
        "\u202e",
    ],
)
def test_whatever_a_peer_calls_itself_a_name_comes_of_it(text: str) -> None:
    """It stands in lines on a terminal, and on command lines in the place of a code."""
    assert is_name(safe_name(text))
    with pytest.raises(ValueError, match="code"):
        icesignal.parse_code(safe_name(text))


# -- the words


def run_words(one: WordsExchange, two: WordsExchange) -> None:
    queue = deque([(two, message) for message in one.begin()] + [(one, message) for message in two.begin()])
    while queue:
        side, message = queue.popleft()
        queue.extend((one if side is two else two, answer) for answer in side.handle_untrusted(message) or ())


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_both_sides_have_the_same_words_whoever_asks(first: bool, second: bool) -> None:
    """And other ones in each session, also with the same key."""
    seen = set()
    for _ in range(50):
        one = WordsExchange("inviter", bytes(32), asks=first)
        two = WordsExchange("joiner", bytes(32), asks=second)
        run_words(one, two)
        assert one.words == two.words
        assert one.words is not None
        assert len(one.words) == WORD_COUNT
        seen.add(one.words)
    assert len(seen) == 50


def test_the_words_of_different_sessions_differ() -> None:
    """Somebody in the middle has a session with each, and plays each side's messages to the other."""
    one = WordsExchange("inviter", b"a" * 32, asks=True)
    two = WordsExchange("joiner", b"b" * 32, asks=True)
    run_words(one, two)
    assert one.words is not None
    assert one.words != two.words


@pytest.mark.parametrize("asks", [True, False])
def test_trap_81_nobody_chooses_his_part_of_the_words_after_he_has_seen_the_others(asks: bool) -> None:
    """He could try values until both sides show the same: a nonce that was not committed to is refused."""
    side = WordsExchange("inviter", bytes(32), asks=asks)
    side.begin()
    honest = WordsExchange("joiner", bytes(32), asks=True)
    (commitment,) = honest.begin()
    assert side.handle_untrusted(commitment)
    with pytest.raises(RemoteError, match="cannot be compared"):
        side.handle_untrusted({"type": "verify-nonce", "nonce": b"chosen later".ljust(32)})
    assert side.words is None
    silent = WordsExchange("inviter", bytes(32), asks=False)
    with pytest.raises(RemoteError):
        silent.handle_untrusted({"type": "verify-nonce", "nonce": bytes(32)})


@pytest.mark.parametrize(
    "message",
    [
        {"type": "verify"},
        {"type": "verify", "commitment": 1},
        {"type": "verify-nonce", "nonce": "x"},
        {"type": "verify-nonce", "nonce": b"short"},
    ],
)
def test_what_is_no_word_about_the_words_is_refused(message: Message) -> None:
    """And what is about something else is left to others."""
    side = WordsExchange("inviter", bytes(32), asks=True)
    side.begin()
    with pytest.raises(RemoteError):
        side.handle_untrusted(message)
    assert side.handle_untrusted({"type": "description"}) is None
    assert side.handle_untrusted({}) is None


# -- pairing


def test_two_honest_sides_know_each_other_in_the_end() -> None:
    """In either order of their messages."""
    one, two = Identity.generate(), Identity.generate()
    sides = [PairingExchange("inviter", bytes(32), one, "a"), PairingExchange("joiner", bytes(32), two, "b")]
    queue = deque((1 - number, message) for number, side in enumerate(sides) for message in side.begin())
    while queue:
        number, message = queue.popleft()
        queue.extend((1 - number, answer) for answer in sides[number].handle_untrusted(message))
    assert [side.is_proved for side in sides] == [True, True]
    assert [side.peer for side in sides] == [two.public, one.public]
    assert [side.proposed for side in sides] == ["b", "a"]


class Middle:
    """Has the code, and so a session of its own with each side; plays what they say to each other as it likes."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.keys = [self.draw.randbytes(32), self.draw.randbytes(32)]
        self.identities = [Identity(self.draw.randbytes(32)) for _ in range(4)]
        roles = ("inviter", "joiner")
        self.honest = [PairingExchange(roles[n], self.keys[n], self.identities[n], f"side-{n}") for n in (0, 1)]
        own = [self.identities[2], self.identities[self.draw.choice((2, 3))]]
        self.own = [PairingExchange(roles[1 - n], self.keys[n], own[n], "middle") for n in (0, 1)]
        self.ready = [deque(side.begin()) for side in self.own]  # what an honest stranger would say next
        self.heard = [message for side in (*self.honest, *self.own) for message in side.begin()]
        self.hear(0, self.honest[0].begin())
        self.hear(1, self.honest[1].begin())

    def hear(self, number: int, messages: list[Message]) -> None:
        self.heard += messages
        for message in messages:
            with suppress(RemoteError):
                self.ready[number].extend(self.own[number].handle_untrusted(message))

    def run(self) -> None:
        for _ in range(self.draw.randrange(4, 24)):
            number = self.draw.randrange(2)
            try:
                self.hear(number, self.honest[number].handle_untrusted(self.message(number)))
            except RemoteError:
                return

    def message(self, number: int) -> Message:
        """Return something to say to a side: replayed, reflected, swapped, spliced, or honest words of its own."""
        kind = self.draw.randrange(8)
        message = dict(self.draw.choice(self.heard))
        if kind > 3 and self.ready[number]:
            message = self.ready[number].popleft()
            self.heard.append(message)
        elif kind == 1:  # the name of one with the keys of another
            spliced = dict(self.draw.choice(self.heard))
            for key in self.draw.sample(sorted(spliced), self.draw.randrange(len(spliced))):
                message[key] = spliced[key]
        elif kind == 2:
            victim = self.identities[self.draw.randrange(4)].public
            message = {"type": "pair", "version": 1, "key": victim.key, "exchange": victim.exchange, "name": "victim"}
            if self.draw.random() < 0.5:
                message["exchange"] = self.identities[2].public.exchange
        elif kind == 3:
            message["type"] = self.draw.choice(["pair", "pair-proof", "pair-accept", "pair-done", "x"])
        return message


@pytest.mark.parametrize("batch", range(8))
def test_trap_82_whoever_sits_in_the_middle_is_never_taken_for_the_other_side(batch: int) -> None:
    """4,000 strategies of somebody who has the code: replayed, reflected, swapped, spliced messages and signatures.

    He may be taken for who he is, which the words tell. Nobody is taken for one whose secret keys he does not have.
    """
    taken = 0
    for seed in range(batch * 500, (batch + 1) * 500):
        middle = Middle(seed)
        middle.run()
        for side in middle.honest:
            if side.is_proved:
                taken += 1
                assert side.peer is not None
                assert side.peer.key in {identity.public.key for identity in middle.identities[2:]}
                assert side.peer in {identity.public for identity in middle.identities[2:]}
    assert taken  # or it has not tried


def test_trap_82_a_proof_is_good_in_one_session_for_one_role_alone() -> None:
    """A pairing that was recorded, or another one with the same peer, is of no use to anybody."""
    one, two = Identity.generate(), Identity.generate()
    recorded = PairingExchange("joiner", b"k" * 32, two, "b")
    first = PairingExchange("inviter", b"k" * 32, one, "a")
    (hello,) = recorded.begin()
    (_, *_), (proof,) = first.begin(), recorded.handle_untrusted(first.begin()[0])
    first.handle_untrusted(hello)
    first.handle_untrusted(proof)
    assert first.is_proved
    for role, key, name in (("inviter", b"l" * 32, "a"), ("joiner", b"k" * 32, "a"), ("inviter", b"k" * 32, "c")):
        later = PairingExchange(role, key, one, name)
        later.handle_untrusted(hello)
        with pytest.raises(RemoteError, match="not proved"):
            later.handle_untrusted(proof)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "pair", "version": 1},
        {"type": "pair", "version": 2},
        {"type": "pair", "version": 1, "key": b"x", "exchange": b"y" * 32},
        {"type": "pair", "version": 1, "key": b"x" * 32, "exchange": b"y" * 32, "name": "n" * 65},
        {"type": "pair-proof", "signature": b"x" * 64},
        {"type": "pair-accept"},
        {"type": "pair-done"},
        {"type": "pair-refuse"},
        {"type": "description"},
        {"type": "netcheck"},
    ],
)
def test_what_is_no_pairing_is_refused_in_one_sentence(message: Message) -> None:
    """Another command, another version, or somebody who tries."""
    side = PairingExchange("inviter", bytes(32), Identity.generate(), "a")
    side.begin()
    with pytest.raises(RemoteError):
        side.handle_untrusted(message)
    assert not side.is_proved


def test_nobody_pairs_with_itself() -> None:
    """Two commands of the same user, or a mirror."""
    identity = Identity.generate()
    side = PairingExchange("inviter", bytes(32), identity, "a")
    with pytest.raises(RemoteError, match="this very identity"):
        side.handle_untrusted(side.begin()[0])


# -- through a relay


async def paired(
    tmp_path: Path, accept: tuple[bool, bool] = (True, True), name: str | None = None
) -> tuple[list[str], list[PeerStore]]:
    """Pair two users, of whom each accepts or not; return the words of both, and their stores."""
    identities = [Identity.load(tmp_path / side / "identity") for side in ("one", "two")]
    stores = [PeerStore.beside(identity) for identity in identities]
    words: list[str] = []

    async def run(pairing: iceagent.Pairing, number: int) -> None:
        words.append(" ".join(await pairing.wait_peer()))
        if accept[number]:
            await pairing.accept()
        else:
            await pairing.refuse()

    async def other(code: str, url: str) -> None:
        async with iceagent.pair(code, relay=url, identity=identities[1], own_name="second") as second:
            await run(second, 1)

    async with (
        icesignal.serve() as relay,
        trio.open_nursery() as nursery,
        iceagent.pair(relay=relay.url, identity=identities[0], own_name="First.local", name=name) as first,
    ):
        nursery.start_soon(other, first.code, relay.url)
        await run(first, 0)
    return words, stores


async def test_two_pairings_at_once_with_machines_of_one_name_have_two_names(tmp_path: Path) -> None:
    """Both had found `laptop` free; the second is `laptop-2`, and not pinned on one side alone."""
    identities = [Identity.load(tmp_path / side / "identity") for side in ("one", "two")]
    begun = trio.Event()

    class Watched(PeerStore):
        def check_free(self, name: str, identity: PublicIdentity) -> None:
            super().check_free(name, identity)
            begun.set()  # `accept` has looked, and waits for the other side

    store = Watched(tmp_path / "one" / "peers.json")
    async with icesignal.serve() as relay, trio.open_nursery() as nursery:

        async def other(code: str) -> None:
            async with iceagent.pair(code, relay=relay.url, identity=identities[1], own_name="laptop") as second:
                await second.wait_peer()
                await begun.wait()
                store.pin("laptop", Identity.generate().public)  # another command, while people compare words
                await second.accept()

        async with iceagent.pair(relay=relay.url, identity=identities[0], store=store, own_name="office") as first:
            nursery.start_soon(other, first.code)
            await first.wait_peer()
            assert await first.accept() == "laptop-2"
    assert sorted(store.peers()) == ["laptop", "laptop-2"]
    assert list(PeerStore.beside(identities[1]).peers()) == ["office"]


async def test_two_users_pair_through_a_relay(tmp_path: Path) -> None:
    """Both see the same words, and have each other under the name that was chosen, or proposed."""
    words, stores = await paired(tmp_path, name="office")
    assert words[0] == words[1]
    assert [list(store.peers()) for store in stores] == [["office"], ["first"]]
    again, _ = await paired(tmp_path)
    assert again != words
    assert [list(store.peers()) for store in stores] == [["office"], ["first"]]


@pytest.mark.parametrize("accept", [(True, False), (False, True)])
async def test_trap_81_who_is_not_accepted_is_not_pinned_either(tmp_path: Path, accept: tuple[bool, bool]) -> None:
    """The words differed; the other side, where nobody has looked yet, must not keep it either."""
    with pytest.raises(BaseExceptionGroup) as caught:
        await paired(tmp_path, accept)
    assert caught.group_contains(iceagent.PeerTurnedAway, match="did not accept")
    for side in ("one", "two"):
        assert PeerStore.at(tmp_path / side / "identity").peers() == {}
