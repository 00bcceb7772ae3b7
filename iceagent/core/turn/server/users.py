"""Who may use the relay: a list of users, or everybody with a credential that was derived from a shared secret."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from iceagent.core import stun
from iceagent.core.turn.credentials import shared_secret_expiry, shared_secret_password


@dataclass(frozen=True, slots=True)
class Account:
    """What a username stands for.

    Attributes:
        user: whom quotas and allocations belong to.
        username: as it is hashed into keys.
        password: for the long-term mechanism.
        expired: whether its time is over: it keeps what it has and gets nothing new.
    """

    user: str
    username: str
    password: str = field(repr=False)
    expired: bool = False


class UserStore(Protocol):
    """Finds accounts. It is asked for each request, so that it must not take long."""

    hides_names: bool
    """Whether users can be found by USERHASH (RFC 8489 section 9.2.3)."""

    def find(self, username: str) -> Sequence[Account]:
        """Return the accounts a username may stand for; several while a secret is being replaced."""
        ...

    def find_hash(self, userhash: bytes) -> Sequence[Account]:
        """Return the accounts a USERHASH may stand for."""
        ...


class StaticUsers:
    """Users from a list.

    Args:
        passwords: by username.
        realm: what USERHASH is made with.

    Raises:
        ValueError: a name or password is empty or holds a code point that is not allowed.
    """

    hides_names = True

    def __init__(self, passwords: Mapping[str, str], realm: str) -> None:
        self._accounts = {name: Account(name, name, password) for name, password in passwords.items()}
        self._hashes = {stun.userhash(name, realm): account for name, account in self._accounts.items()}
        for account in self._accounts.values():
            stun.long_term_key(account.username, realm, account.password)

    def find(self, username: str) -> Sequence[Account]:
        """Return the account of that name, if there is one."""
        account = self._accounts.get(username)
        return () if account is None else (account,)

    def find_hash(self, userhash: bytes) -> Sequence[Account]:
        """Return the account of that hash, if there is one."""
        account = self._hashes.get(userhash)
        return () if account is None else (account,)


class SharedSecretUsers:
    """Users who bring `expiry:id` and its HMAC, as coturn's `use-auth-secret`; source: draft-uberti-behave-turn-rest.

    Args:
        secrets: any of which is good; the first is the one that new credentials are made with.
        unix_time: returns the seconds since 1970, in which expiries are given.

    Raises:
        ValueError: there is no secret, or an empty one.
    """

    hides_names = False

    def __init__(self, secrets: Sequence[str], unix_time: Callable[[], float]) -> None:
        if not secrets or not all(secrets):
            raise ValueError("shared-secret credentials need a secret that is not empty")
        self._secrets = tuple(secret.encode() for secret in secrets)
        self._unix_time = unix_time

    def find(self, username: str) -> Sequence[Account]:
        """Return an account per secret if the name begins with a time."""
        expiry = shared_secret_expiry(username)
        if expiry is None:
            return ()
        expired = expiry <= self._unix_time()
        name = username.partition(":")[2]
        return [
            Account(name or username, username, shared_secret_password(secret, username), expired)
            for secret in self._secrets
        ]

    def find_hash(self, userhash: bytes) -> Sequence[Account]:
        """Return nothing: names are not known before they are used."""
        return ()

    def person(self, source: str) -> str:
        """Return a name for whoever is at a source of requests: always the same, and it does not reveal the source."""
        return hmac.digest(self._secrets[0], b"person " + source.encode(), "sha256")[:8].hex()

    def make(self, name: str, lifetime_s: float) -> tuple[str, str]:
        """Return username and password for a user that may allocate for `lifetime_s` from now."""
        username = f"{int(self._unix_time() + lifetime_s)}:{name}"
        return username, shared_secret_password(self._secrets[0], username)


class AnyUsers:
    """Several stores as one: the first that knows a name decides.

    Args:
        stores: asked in order.
    """

    def __init__(self, stores: Sequence[UserStore]) -> None:
        self._stores = tuple(stores)
        self.hides_names = bool(stores) and all(store.hides_names for store in stores)

    def find(self, username: str) -> Sequence[Account]:
        """Return what the first store that knows the name says."""
        return next((found for store in self._stores if (found := store.find(username))), ())

    def find_hash(self, userhash: bytes) -> Sequence[Account]:
        """Return what the first store that knows the hash says."""
        return next((found for store in self._stores if (found := store.find_hash(userhash))), ())
