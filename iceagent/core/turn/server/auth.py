"""The long-term credential mechanism, server side. RFC 8489 section 9.2.4.

The order matters: the nonce is checked before any password, and the password before any attribute is decoded. Until
then the attributes are traversed by type and length, and only those that authentication needs are read, as bytes: a
server that decodes first does work for anybody. Nonces are stateless: a time and an HMAC over it and the client's
address (section 9.2).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import islice
from typing import Final

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.constants import STUN_MAX_ATTRIBUTES
from iceagent.core.stun import SecurityFeature, make_nonce
from iceagent.core.stun.errors import StunError
from iceagent.core.stun.raw import (
    FINGERPRINT,
    FINGERPRINT_LENGTH,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    SHA1_LENGTH,
    SHA256_LENGTH,
    attributes_of,
    verify_fingerprint_at,
    verify_integrity_at,
)
from iceagent.core.turn.server.limits import NONCE_LIFETIME_S
from iceagent.core.turn.server.users import Account, UserStore

_TIME_BYTES: Final = 4
_MAC_BYTES: Final = 8  # a guess costs a request each, and a good nonce is worth nothing without a password
_TICK_S: Final = 1.0


class NonceState(Enum):
    """What a nonce is worth."""

    FRESH = "fresh"
    STALE = "stale"  # ours and this client's, but too old: the client has shown that it receives what we send it
    FOREIGN = "foreign"  # made up, another client's, or from before a restart


class NonceMaker:
    """Makes and checks nonces for one server.

    A nonce is bound to transport, address and port of its client, so that one seen elsewhere is worth nothing.

    Args:
        randbytes: makes the key.
        features: announced in the nonce cookie.
        lifetime_s: after which a nonce is stale.
    """

    def __init__(
        self,
        randbytes: Callable[[int], bytes],
        *,
        features: SecurityFeature = SecurityFeature.PASSWORD_ALGORITHMS,
        lifetime_s: float = NONCE_LIFETIME_S,
    ) -> None:
        self._key = randbytes(32)
        self._features = features
        self._lifetime_s = lifetime_s
        self._prefix = make_nonce(features, "")

    def make(self, now: float, transport: str, remote: TransportAddress) -> str:
        """Return a nonce for the client at `remote`."""
        stamp = (int(now / _TICK_S) & 0xFFFFFFFF).to_bytes(_TIME_BYTES, "big")
        return self._prefix + base64.urlsafe_b64encode(stamp + self._mac(stamp, transport, remote)).decode()

    def check(self, now: float, transport: str, remote: TransportAddress, nonce: bytes) -> NonceState:
        """Return what `nonce`, as it came, is worth from the client at `remote`."""
        prefix = self._prefix.encode()
        try:
            raw = base64.urlsafe_b64decode(nonce[len(prefix) :])
        except ValueError:
            return NonceState.FOREIGN
        stamp, mac = raw[:_TIME_BYTES], raw[_TIME_BYTES:]
        if not (nonce.startswith(prefix) and hmac.compare_digest(mac, self._mac(stamp, transport, remote))):
            return NonceState.FOREIGN
        age = (int(now / _TICK_S) - int.from_bytes(stamp, "big")) & 0xFFFFFFFF
        return NonceState.FRESH if age * _TICK_S <= self._lifetime_s else NonceState.STALE

    def _mac(self, stamp: bytes, transport: str, remote: TransportAddress) -> bytes:
        covered = b"%b|%b|%b|%d" % (stamp, transport.encode(), remote.host.encode(), remote.port)
        return hmac.digest(self._key, covered, "sha256")[:_MAC_BYTES]


USERNAME: Final = 0x0006
REALM: Final = 0x0014
NONCE: Final = 0x0015
PASSWORD_ALGORITHM: Final = 0x001D
USERHASH: Final = 0x001E
PASSWORD_ALGORITHMS: Final = 0x8002

_WANTED: Final = frozenset((USERNAME, REALM, NONCE, PASSWORD_ALGORITHM, USERHASH, PASSWORD_ALGORITHMS))
_TEXT_MAX: Final = 763  # RFC 8489 sections 14.9 and 14.10


@dataclass(frozen=True, slots=True)
class UnverifiedRequest:
    """A request that is not yet authenticated: whose it claims to be, and where the proof is."""

    data: bytes
    fields: dict[int, bytes]
    integrity_at: int
    sha256_at: int

    @property
    def has_integrity(self) -> bool:
        """Whether there is a signature, true or not."""
        return self.integrity_at != 0 or self.sha256_at != 0

    @property
    def uses_sha256(self) -> bool:
        """Whether the signature that decides is MESSAGE-INTEGRITY-SHA256."""
        return self.sha256_at != 0

    def verify(self, key: bytes) -> bool:
        """Return, in constant time, whether `key` made the signature; of two the stronger decides."""
        if self.sha256_at:
            return verify_integrity_at(MESSAGE_INTEGRITY_SHA256, self.data, self.sha256_at, SHA256_LENGTH, key)
        return verify_integrity_at(MESSAGE_INTEGRITY, self.data, self.integrity_at, SHA1_LENGTH, key)


def read_unverified(data: bytes) -> UnverifiedRequest | None:
    """Return what authentication needs of a message with a STUN header; None where its attributes do not add up.

    A signature of a wrong length, an attribute that reaches past the end and a wrong fingerprint make it None.
    """
    fields: dict[int, bytes] = {}
    integrity_at = sha256_at = 0
    try:
        found = list(islice(attributes_of(data), STUN_MAX_ATTRIBUTES + 1))
    except StunError:
        return None
    if len(found) > STUN_MAX_ATTRIBUTES:
        return None
    for kind, at, size in found:
        if kind == FINGERPRINT:
            if size != FINGERPRINT_LENGTH or at + 4 + size != len(data) or not verify_fingerprint_at(data, at):
                return None
        elif kind == MESSAGE_INTEGRITY_SHA256 and not sha256_at:
            if size != SHA256_LENGTH:  # RFC 8656 allows no truncation
                return None
            sha256_at = at
        elif kind == MESSAGE_INTEGRITY and not (integrity_at or sha256_at):
            if size != SHA1_LENGTH:
                return None
            integrity_at = at
        elif kind in _WANTED and not (integrity_at or sha256_at) and kind not in fields and size <= _TEXT_MAX:
            fields[kind] = data[at + 4 : at + 4 + size]
    return UnverifiedRequest(data, fields, integrity_at, sha256_at)


ALGORITHMS: Final = (stun.SHA256, stun.MD5)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A request that is authenticated.

    Attributes:
        account: who.
        key: what the answer is signed with.
        integrity: how the answer is signed.
        is_legacy: whether the client speaks RFC 5389, as all clients of RFC 5766 do.
    """

    account: Account
    key: bytes = field(repr=False)
    integrity: stun.Integrity
    is_legacy: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that is not authenticated.

    Attributes:
        code: 400, 401 or 438.
        proven: whether it brought a nonce that we sent to this very address.
    """

    code: int
    proven: bool = False


class RequestAuthenticator:
    """Checks requests.

    Args:
        realm: of the server.
        users: who may use it.
        nonces: makes and checks them.
        algorithms: for keys, best first.
    """

    def __init__(
        self,
        realm: str,
        users: UserStore,
        nonces: NonceMaker,
        algorithms: tuple[stun.Algorithm, ...] = ALGORITHMS,
    ) -> None:
        self.realm = realm
        self._offer = stun.PasswordAlgorithms(algorithms)
        self._offer_bytes = self._offer.encode_value(bytes(12))
        self._realm = realm.encode()
        self._users = users
        self._nonces = nonces
        self._key = lru_cache(maxsize=1024)(stun.long_term_key)

    def challenge(self, now: float, transport: str, remote: TransportAddress) -> tuple[stun.Attribute, ...]:
        """Return the attributes of a 401 or 438 with which the client can try again."""
        nonce = self._nonces.make(now, transport, remote)
        return stun.Realm(self.realm), stun.Nonce(nonce), self._offer

    def check(
        self, now: float, transport: str, remote: TransportAddress, request: UnverifiedRequest
    ) -> Authenticated | Rejected:
        """Return whose request it is, or why it is not authenticated."""
        if not request.has_integrity:
            return Rejected(stun.Code.UNAUTHENTICATED)
        fields = request.fields
        nonce = fields.get(NONCE)
        if nonce is None or REALM not in fields or not (fields.keys() & {USERNAME, USERHASH}):
            return Rejected(stun.Code.BAD_REQUEST)
        state = self._nonces.check(now, transport, remote, nonce)
        if state is not NonceState.FRESH:
            return Rejected(stun.Code.STALE_NONCE, proven=state is NonceState.STALE)
        algorithm = self._algorithm(fields)
        if algorithm is None:
            return Rejected(stun.Code.BAD_REQUEST, proven=True)
        if fields[REALM] == self._realm:
            for account in self._accounts(fields):
                key = self._key(account.username, self.realm, account.password, algorithm)
                if request.verify(key):
                    integrity = stun.Integrity.SHA256 if request.uses_sha256 else stun.Integrity.SHA1
                    return Authenticated(account, key, integrity, PASSWORD_ALGORITHM not in fields)
        return Rejected(stun.Code.UNAUTHENTICATED, proven=True)

    def _accounts(self, fields: dict[int, bytes]) -> Sequence[Account]:
        if USERNAME not in fields:
            return self._users.find_hash(fields[USERHASH])
        try:
            username = stun.opaque_string(fields[USERNAME].decode())
        except ValueError:
            return ()
        return self._users.find(username)

    def _algorithm(self, fields: dict[int, bytes]) -> stun.Algorithm | None:
        """Return the password algorithm a request is signed with; None where it was tampered with or is none of ours.

        All our nonces announce password algorithms, so that a client that names none is an old one (RFC 5389) and means
        MD5; one that names only the list or only the choice, or another list than ours, is being bid down.
        """
        offered, chosen = fields.get(PASSWORD_ALGORITHMS), fields.get(PASSWORD_ALGORITHM)
        if offered is None and chosen is None:
            return stun.MD5
        if offered is None or chosen is None or offered != self._offer_bytes:
            return None
        try:
            algorithm = stun.PasswordAlgorithm.decode_value(chosen, bytes(12)).algorithm
        except stun.StunError:
            return None
        return algorithm if algorithm in self._offer.algorithms else None
