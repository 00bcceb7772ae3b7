"""Prepared messages are the same bytes as those made one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iceagent.core import stun
from iceagent.core.address import TransportAddress

_IDS = st.binary(min_size=12, max_size=12)
_KEYS = st.binary(min_size=1, max_size=100)


@given(
    ids=st.lists(_IDS, min_size=1, max_size=3),
    key=_KEYS,
    ufrags=st.text("abcXYZ019+/", min_size=4, max_size=60),
    priority=st.integers(0, 2**32 - 1),
    tiebreaker=st.integers(0, 2**64 - 1),
)
def test_a_prepared_check_is_the_encoded_one(
    ids: list[bytes], key: bytes, ufrags: str, priority: int, tiebreaker: int
) -> None:
    """Peers must not be able to tell which way a check was made."""
    attributes = (
        stun.Username(f"{ufrags}:abcd"),
        stun.Priority(priority),
        stun.IceControlling(tiebreaker),
        stun.UseCandidate(),
    )
    template = stun.Template(stun.MessageClass.REQUEST, stun.Method.BINDING, attributes)
    for transaction_id in ids:
        plain = stun.encode(stun.binding_request(transaction_id, *attributes), key=key)
        assert template.seal(transaction_id, key) == plain


@given(transaction_id=_IDS, key=_KEYS, address=st.ip_addresses(v=4), port=st.integers(0, 65535))
def test_a_prepared_answer_is_the_encoded_one(transaction_id: bytes, key: bytes, address: object, port: int) -> None:
    """An XORed IPv4 address does not depend on the transaction, so an answer to one peer is prepared, too."""
    mapped = stun.XorMappedAddress(TransportAddress(str(address), port))
    template = stun.Template(stun.MessageClass.SUCCESS, stun.Method.BINDING, (mapped,))
    request = stun.binding_request(transaction_id)
    assert template.seal(transaction_id, key) == stun.encode(stun.success(request, mapped), key=key)
