"""The long-term credential mechanism, server side. RFC 8489 section 9.2.4.

The order matters: the nonce is checked before any password, and the password before any attribute is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import preauth
from iceagent.core.turn.server.nonces import NonceMaker, NonceState
from iceagent.core.turn.server.preauth import UnverifiedRequest
from iceagent.core.turn.server.users import Account, UserStore

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
        nonce = fields.get(preauth.NONCE)
        if nonce is None or preauth.REALM not in fields or not (fields.keys() & {preauth.USERNAME, preauth.USERHASH}):
            return Rejected(stun.Code.BAD_REQUEST)
        state = self._nonces.check(now, transport, remote, nonce)
        if state is not NonceState.FRESH:
            return Rejected(stun.Code.STALE_NONCE, proven=state is NonceState.STALE)
        algorithm = self._algorithm(fields)
        if algorithm is None:
            return Rejected(stun.Code.BAD_REQUEST, proven=True)
        if fields[preauth.REALM] == self._realm:
            for account in self._accounts(fields):
                key = self._key(account.username, self.realm, account.password, algorithm)
                if request.verify(key):
                    integrity = stun.Integrity.SHA256 if request.uses_sha256 else stun.Integrity.SHA1
                    return Authenticated(account, key, integrity, preauth.PASSWORD_ALGORITHM not in fields)
        return Rejected(stun.Code.UNAUTHENTICATED, proven=True)

    def _accounts(self, fields: dict[int, bytes]) -> Sequence[Account]:
        if preauth.USERNAME not in fields:
            return self._users.find_hash(fields[preauth.USERHASH])
        try:
            username = stun.opaque_string(fields[preauth.USERNAME].decode())
        except ValueError:
            return ()
        return self._users.find(username)

    def _algorithm(self, fields: dict[int, bytes]) -> stun.Algorithm | None:
        """Return the password algorithm a request is signed with; None where it was tampered with or is none of ours.

        All our nonces announce password algorithms, so that a client that names none is an old one (RFC 5389) and means
        MD5; one that names only the list or only the choice, or another list than ours, is being bid down.
        """
        offered, chosen = fields.get(preauth.PASSWORD_ALGORITHMS), fields.get(preauth.PASSWORD_ALGORITHM)
        if offered is None and chosen is None:
            return stun.MD5
        if offered is None or chosen is None or offered != self._offer_bytes:
            return None
        try:
            algorithm = stun.PasswordAlgorithm.decode_value(chosen, bytes(12)).algorithm
        except stun.StunError:
            return None
        return algorithm if algorithm in self._offer.algorithms else None
