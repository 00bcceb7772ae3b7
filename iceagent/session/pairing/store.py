"""The peers this user has paired with: a name of our choice, and the identity that must show itself under it.

One JSON file beside the identity, 0600, replaced as a whole; two processes that change it take turns.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec

from iceagent.core.checked import checked
from iceagent.session.errors import IdentityError, UnknownPeer
from iceagent.session.pairing.files import locked, make_folder, read_private, write_private
from iceagent.session.pairing.identity import KEY_BYTES, Identity, PublicIdentity

MAX_PEERS: Final = 1_000  # ours
MAX_NAME: Final = 32
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")  # unlike a code it begins with a letter
_VERSION: Final = 1
_LATEST: Final = 253_402_300_799  # the end of the year 9999, which is all that a date can say

_Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]


class Peer(msgspec.Struct, frozen=True):
    """A paired peer.

    Attributes:
        key, exchange: its public keys, ed25519 and X25519.
        paired_at: Unix time, seconds.
    """

    key: _Key
    exchange: _Key
    paired_at: Annotated[int, msgspec.Meta(ge=0, le=_LATEST)] = 0

    @property
    def identity(self) -> PublicIdentity:
        """Who it is."""
        return PublicIdentity(self.key, self.exchange)


class _Head(msgspec.Struct):
    version: int


class _File(msgspec.Struct):
    version: int
    peers: dict[str, Peer]


def is_name(text: str) -> bool:
    """Return whether a peer can have this name."""
    return _NAME.match(text) is not None


def check_name(text: str) -> str:
    """Return a name that a peer can have.

    Raises:
        IdentityError: it is none.
    """
    if not is_name(text):
        raise IdentityError(
            f"a peer's name begins with a letter and has small letters, digits, - and _, {MAX_NAME} at most, as in "
            "office-2"
        )
    return text


def safe_name(text: str) -> str:
    """Return a name like what a peer proposes, which may be anything: `My Laptop.local` gives `my-laptop`."""
    first = text.casefold().partition(".")[0]
    name = re.sub(r"[^a-z0-9_]+", "-", first).strip("-_").lstrip("0123456789-_")[:MAX_NAME].rstrip("-_")
    return name or "peer"


class PeerStore:
    """The peers of one identity."""

    @checked
    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """`path` is the file; it need not be there. `now` returns Unix time, seconds."""
        self.path = path
        self._now = now

    @classmethod
    def beside(cls, identity: Identity) -> PeerStore:
        """Return the store of an identity: `peers.json` beside the file `identity`, `NAME.peers.json` beside NAME.

        Raises:
            IdentityError: the identity is in no file.
        """
        if identity.path is None:
            raise IdentityError("this identity is in no file, so it has no store of peers; name one")
        return cls.at(identity.path)

    @classmethod
    def at(cls, identity_path: Path) -> PeerStore:
        """Return the store that belongs to the identity in a file, which need not be there yet."""
        name = identity_path.name
        return cls(identity_path.with_name("peers.json" if name == "identity" else f"{name}.peers.json"))

    def peers(self) -> dict[str, Peer]:
        """Return all peers by name, sorted.

        Raises:
            IdentityError: the file is damaged, or not this user's alone.
        """
        content = read_private(self.path)
        if content is None:
            return {}
        try:
            if (version := msgspec.json.decode(content, type=_Head).version) > _VERSION:
                raise IdentityError(
                    f"{self.path} was written by a newer iceagent (version {version} of the list of peers, this one "
                    f"reads {_VERSION}); install that one here, and leave the file as it is"
                )
            file = msgspec.json.decode(content, type=_File)
            if file.version != _VERSION or not all(map(is_name, file.peers)) or len(file.peers) > MAX_PEERS:
                raise ValueError
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise IdentityError(
                f"{self.path} is no list of peers, or a damaged one; restore it from a copy, or move it away and pair "
                "again"
            ) from None
        return dict(sorted(file.peers.items()))

    def get(self, name: str) -> Peer:
        """Return a peer.

        Raises:
            UnknownPeer: none has this name.
            IdentityError: as for `peers`.
        """
        found = self.peers().get(name)
        if found is None:
            shown = f"{name!r}" if is_name(name) else "this name"
            raise UnknownPeer(
                f"no paired peer is called {shown}; `iceagent peers` lists them, `iceagent pair` makes one"
            )
        return found

    def free_name(self, wanted: str, identity: PublicIdentity) -> str:
        """Return the name under which an identity can be pinned: the one it has, `wanted`, or one like it."""
        peers = self.peers()
        for name, peer in peers.items():
            if peer.identity == identity:
                return name
        if wanted not in peers:
            return wanted
        numbered = (f"{wanted[: MAX_NAME - 5]}-{number}" for number in range(2, MAX_PEERS + 2))
        return next(name for name in numbered if name not in peers)

    def check_free(self, name: str, identity: PublicIdentity) -> None:
        """Refuse a name that another identity has.

        Raises:
            IdentityError: so it is.
        """
        found = self.peers().get(check_name(name))
        if found is not None and found.identity != identity:
            raise IdentityError(
                f"{name!r} is the name of another peer here; take another (--name), or if its machine has a new "
                f"identity run `iceagent peers remove {name}` first"
            )

    def pin(self, name: str, identity: PublicIdentity) -> Peer:
        """Pin an identity under a name; under the name that it had it is found no more.

        Raises:
            IdentityError: another identity has this name, or the file cannot be written.
        """
        make_folder(self.path.parent)
        with locked(self.path):
            self.check_free(name, identity)
            return self._pin(name, identity)

    def pin_like(self, wanted: str, identity: PublicIdentity) -> str:
        """Pin an identity under the name that it has, `wanted`, or one like it; return which.

        Raises:
            IdentityError: the file cannot be written.
        """
        make_folder(self.path.parent)
        with locked(self.path):
            name = self.free_name(wanted, identity)
            self._pin(name, identity)
        return name

    def _pin(self, name: str, identity: PublicIdentity) -> Peer:
        peer = Peer(identity.key, identity.exchange, min(max(0, int(self._now())), _LATEST))
        others = {known: one for known, one in self.peers().items() if one.identity != identity}
        if len(others) >= MAX_PEERS:
            raise IdentityError(f"there are {MAX_PEERS} peers already; remove some with `iceagent peers remove`")
        self._write({**others, name: peer})
        return peer

    def rename(self, name: str, new_name: str) -> None:
        """Give a peer another name.

        Raises:
            UnknownPeer: none has the first name.
            IdentityError: another one has the second, or it can be no name.
        """
        with self._changing(name) as (peer, peers):
            self.check_free(new_name, peer.identity)
            self._write({**{known: one for known, one in peers.items() if known != name}, new_name: peer})

    def remove(self, name: str) -> None:
        """Forget a peer: it cannot connect any more.

        Raises:
            UnknownPeer: none has this name.
        """
        with self._changing(name) as (_, peers):
            self._write({known: one for known, one in peers.items() if known != name})

    @contextmanager
    def _changing(self, name: str) -> Iterator[tuple[Peer, dict[str, Peer]]]:
        self.get(name)  # before anything is made
        with locked(self.path):
            yield self.get(name), self.peers()

    def _write(self, peers: dict[str, Peer]) -> None:
        content = msgspec.json.encode(_File(_VERSION, dict(sorted(peers.items()))))
        write_private(self.path, msgspec.json.format(content) + b"\n", replaces=True)
