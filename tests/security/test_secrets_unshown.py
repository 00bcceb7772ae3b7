"""Trap 67: what is secret is in no `repr()`. Those end up in logs, in tracebacks and in bug reports."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import icesignal
import msgspec
import pytest
from icesignal import wire
from icesignal.code import Code

import iceagent
from iceagent.agent import AgentConfig, IceServer
from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.ice.model.credentials import Credentials
from iceagent.core.sdp import IceAttributes
from iceagent.core.turn.client_values import AllocationRequest
from iceagent.core.turn.credentials import TurnCredentials
from iceagent.core.turn.server.allocation import Signing
from iceagent.core.turn.server.auth import Authenticated
from iceagent.core.turn.server.users import Account
from iceagent.link import generate_identity
from iceagent.servers.turn_options import TurnOptions
from iceagent.session.description import DescriptionMessage

SECRET = re.compile(
    r"(^|_)(pwd|password|passwd|passphrase|credentials?|secrets?|tokens?|keys?|words|tickets?|opening)$"
)
# Fields of such a name that hold nothing secret.
HARMLESS = {
    "iceagent.servers.turn_options.TlsFiles.key": "the path of a file",
    "icesignal.config.TlsTable.key": "the path of a file",
    "iceagent.vnet.nat.Mapping.key": "an address of the virtual network",
    "icesignal.sources.Bucket.tokens": "how many requests are left",
    "icesignal.room.AnyRoom.key": "under what a table keeps a room: what its members call it",
    "icesignal.room.RoomOfTwo.key": "the same",
    "icesignal.room.RoomOfMany.key": "the same",
    "icesignal.room.Member.key": "a public key",
    "icesignal.tickets.Ticket.key": "a public key",
    "icesignal.room_events.RoomMember.public_key": "a public key",
    "icesignal.room_keys._Removal.ticket": "of use to nobody but its owner, and known to all in the room",
    "icesignal.room_invitations._Admission.ticket": "the same",
    "icesignal.room_invitations._Request.key": "a public key",
    "iceagent.session.pairing.identity.PublicIdentity.key": "a public key",
    "iceagent.session.pairing.store.Peer.key": "a public key",
    "iceagent.session.pairing.proof._Hello.key": "a public key",
    "iceagent.core.ice.events.Restarted.credentials": "a value that keeps its own secret",
    "iceagent.agent.description.StreamDescription.credentials": "a value that keeps its own secret",
    "iceagent.core.turn.client_requests.PendingRequest.credentials": "a value that keeps its own secret",
}


def classes() -> Iterator[type]:
    for package in (iceagent, icesignal):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                module = importlib.import_module(found.name)
                yield from (
                    one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == found.name
                )


def shown_fields(one: type) -> Iterator[str]:
    """Give the names of the fields that a `repr()` shows which nobody wrote: of dataclasses, structs, named tuples."""
    if dataclasses.is_dataclass(one):
        if not _written_by_hand(one):
            yield from (field.name for field in dataclasses.fields(one) if field.repr)
    elif issubclass(one, msgspec.Struct):
        if one.__repr__ is msgspec.Struct.__repr__:
            yield from one.__struct_fields__
    elif issubclass(one, tuple) and not _written_by_hand(one):
        yield from getattr(one, "_fields", ())


def _written_by_hand(one: type) -> bool:
    """Tell whether a `repr()` stands in the source; its words are looked at below, in values."""
    return "def __repr__" in inspect.getsource(one)


def test_trap_67_no_field_of_a_secret_is_shown() -> None:
    """A new field with such a name is `field(repr=False)`, or stands in the list above with its reason."""
    found = {f"{one.__module__}.{one.__qualname__}.{name}" for one in classes() for name in shown_fields(one)}
    secret = {name for name in found if SECRET.search(name.rpartition(".")[2])}
    assert secret - HARMLESS.keys() == set()
    assert len(found) > 500, "the walk has found the classes"


MARK = "hunter2hunter2hunter2hunter2"  # 28 characters: long enough for a password of ICE
RAW = MARK.encode()
VALUES = [
    Code("7", (MARK, MARK)),
    Credentials("abcd", MARK),
    IceAttributes("abcd", MARK),
    DescriptionMessage(1, "abcd", MARK, bytes(32)),
    IceServer("turn:192.0.2.1", username="u", credential=MARK),
    AgentConfig(servers=(IceServer("turn:192.0.2.1", username="u", credential=MARK),)),
    AgentConfig(credentials=Credentials("abcd", MARK)),
    TurnCredentials("u", MARK),
    Account("u", "u", MARK),
    Authenticated(Account("u", "u", MARK), RAW, stun.Integrity.SHA1, is_legacy=False),
    Signing(RAW, stun.Integrity.SHA1),
    AllocationRequest(reservation_token=b"hunter2h"),
    stun.ReservationToken(b"hunter2h"),
    TurnOptions(listen=(TransportAddress("127.0.0.1", 0),), users={"u": MARK}, secrets=(MARK,)),
    wire.Send(client_seq=1, payload=RAW),
    wire.RTCIceServer(urls=["turn:192.0.2.1"], username="u", credential=MARK),
    icesignal.Rendezvous("inviter", RAW, RAW),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_trap_67_no_value_shows_its_secret(value: object) -> None:
    """As itself, inside a container, and inside a sentence."""
    texts = [repr(value), repr([value]), f"{value!r}", ascii(value)]
    if not isinstance(value, Code):  # whose text is the code: what the other person is told
        texts.append(str(value))
    for text in texts:
        assert "hunter2" not in text
        assert RAW.hex() not in text


def test_trap_67_an_identity_shows_no_private_key() -> None:
    """It signs for this machine."""
    identity = generate_identity()
    assert "PRIVATE" not in repr(identity)
