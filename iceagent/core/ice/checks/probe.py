"""Checks outside of the checklist, for techniques that look for a path where no candidate is known.

A probe is a Binding request as in RFC 8445 section 7.2.2, with the peer's credentials, that belongs to no pair and no
transaction: its answer is ignored. It may cause a check of the peer, which is handled like any other. So whatever a
technique guesses, only authenticated messages change the state.
"""

from __future__ import annotations

from collections.abc import Callable

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.model.candidate import host_candidate
from iceagent.core.ice.model.candidates import Added
from iceagent.core.ice.model.credentials import KeyRing
from iceagent.core.ice.model.priority import CandidateType, candidate_priority
from iceagent.core.ice.roles import RoleKeeper


def build_probe(keys: KeyRing, roles: RoleKeeper, randbytes: Callable[[int], bytes]) -> bytes | None:
    """Return a fresh probe, or None while the peer's credentials are unknown."""
    if keys.remote is None:
        return None
    priority = stun.Priority(candidate_priority(CandidateType.PRFLX, 0, 1))
    username = stun.Username(keys.outgoing_username())
    request = stun.binding_request(randbytes(12), username, priority, roles.attribute())
    return stun.encode(request, key=keys.remote_key)


def is_check_for(keys: KeyRing, data: bytes) -> bool:
    """Return whether a datagram is an authenticated check of the peer, for these credentials; never raises."""
    if not stun.looks_like_stun(data):
        return False
    try:
        message = stun.decode(data)
    except stun.StunError:
        return False
    if message.message_class is not stun.MessageClass.REQUEST or message.method != stun.Method.BINDING:
        return False
    username = message.get(stun.Username)
    if username is None or username.value.partition(":")[0] != keys.local.ufrag:
        return False
    return message.verify_fingerprint() is True and message.verify_integrity(keys.local_key)


class Probing:
    """What techniques need of a session: probes to send, and a say about what arrives at sockets it does not know.

    Args:
        facts: of the current session.
    """

    def __init__(self, facts: SessionFacts) -> None:
        self._facts = facts

    def build(self) -> bytes | None:
        """Return a fresh probe, or None while the peer's credentials are unknown."""
        facts = self._facts
        return build_probe(facts.keys, facts.roles, facts.randbytes)

    def is_check(self, data: bytes) -> bool:
        """Return whether a datagram is an authenticated check of the peer; never raises."""
        return is_check_for(self._facts.keys, data)

    def adopt(self, base: TransportAddress) -> bool:
        """Take a socket, at which a check of the peer's has arrived, as one more base; False if there is no room.

        It becomes a host candidate of low rank that is not paired with anything: pairs come of the checks that arrive.
        """
        candidate = host_candidate(base, 0, self._facts.table.component)
        added = self._facts.table.add_local(candidate)
        if not isinstance(added, Added):
            self._facts.outbox.drop(added)
            return False
        return True
