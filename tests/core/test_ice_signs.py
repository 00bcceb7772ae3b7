"""Who holds whose credentials: signs that a stranger cannot make, told from noise that anybody can."""

from __future__ import annotations

import pytest
from ice_harness import A4, B4, PEER, answer, connected_pair, lone, request, transmits_of

from iceagent.core import ice
from iceagent.core.address import make_address

STRANGER = make_address("203.0.113.66", 6666)
WRONG = "w" * 24


def test_noise_of_a_stranger_is_no_sign() -> None:
    """Else anybody who knows an address of ours could make us blame the credentials."""
    one = lone()
    ours = one.credentials.ufrag
    for username in (f"{ours}:peer", f"{ours}:else", "else:peer", "else:else", None):
        one.handle_datagram(0.01, A4, STRANGER, request(one, pwd=WRONG, username=username))
    other_port = make_address(B4.host, 4242)
    one.handle_datagram(0.01, A4, other_port, request(one, pwd=WRONG, username=f"{ours}:else"))
    one.handle_datagram(0.01, A4, other_port, request(one, pwd=WRONG, username="else:else"))
    assert one.signs == ice.CredentialSigns()


def test_a_check_from_the_very_address_of_the_peer_that_names_nobody_is_a_sign() -> None:
    """Both sides hold descriptions of third parties; whoever pretends this has to forge source addresses."""
    one = lone()
    one.handle_datagram(0.01, A4, B4, request(one, pwd=WRONG, username="else:else"))
    assert one.signs.requests_of_nobody == 1
    assert one.signs.ours_is_not_known
    assert one.signs.theirs_is_not_known


def test_our_own_check_that_comes_back_is_no_sign() -> None:
    """In two networks of the same numbers the peer's address may be our own, port and all."""
    one = lone()
    (check,) = transmits_of(one)
    one.handle_datagram(0.01, A4, B4, check.data)
    assert one.signs == ice.CredentialSigns()


def test_what_was_damaged_on_its_way_is_no_sign() -> None:
    """A flipped bit breaks FINGERPRINT, or makes it an attribute that nobody knows."""
    one = lone()
    wrong = request(one, pwd=WRONG)
    for damaged in (wrong[:-8] + b"\xff" + wrong[-7:], wrong[:-1] + bytes([wrong[-1] ^ 1])):
        one.handle_datagram(0.01, A4, B4, damaged)
    assert one.signs == ice.CredentialSigns()
    other = lone()
    (check,) = transmits_of(other)
    wrong = answer(check, ice.Credentials("peer", WRONG))
    other.handle_datagram(0.01, A4, B4, wrong[:-8] + b"\xff" + wrong[-7:])
    assert other.signs == ice.CredentialSigns()


def test_a_check_from_the_peers_host_that_names_both_and_fails_is_a_sign() -> None:
    """The peer uses another password of ours than the present one; its port may be one that its NAT has chosen."""
    one = lone()
    mapped = make_address(B4.host, 4242)
    one.handle_datagram(0.01, A4, mapped, request(one, pwd=WRONG))
    assert one.signs.requests_keyed_wrong == 1
    assert one.signs.ours_is_not_known
    one.handle_datagram(0.02, A4, B4, request(one))
    assert not one.signs.ours_is_not_known, "the right one came, too: so the peer has our password"


def test_a_check_of_the_peer_that_names_us_as_before_is_a_sign() -> None:
    """The peer holds an old description of ours, as when a code is used twice."""
    one = lone()
    one.handle_datagram(0.01, A4, B4, request(one, username="olds:peer"))
    assert one.signs.requests_naming_old == 1
    assert one.signs.ours_is_not_known


def test_an_authentic_check_of_somebody_we_do_not_know_is_a_sign() -> None:
    """It is keyed with our password, so somebody has our description, and we have another one than its."""
    one = lone()
    one.handle_datagram(0.01, A4, B4, request(one, username=f"{one.credentials.ufrag}:newpeer"))
    assert one.signs.requests_of_another == 1
    assert one.signs.theirs_is_not_known


@pytest.mark.parametrize("code", [400, 401])
def test_an_answer_that_refuses_our_key_is_a_sign(code: int) -> None:
    """Other stacks answer so (RFC 8489 section 9.1.3); only who saw the check knows its transaction id."""
    one = lone()
    (check,) = transmits_of(one)
    one.handle_datagram(0.01, A4, STRANGER, answer(check, PEER, code=code, signed=False))
    assert one.signs == ice.CredentialSigns(), "not from where the check went"
    one.handle_datagram(0.01, A4, B4, answer(check, PEER, code=code, signed=False))
    assert one.signs.answers_refusing == 1
    assert one.signs.theirs_is_not_known


def test_an_answer_keyed_otherwise_is_a_sign_until_a_right_one_comes() -> None:
    """A wrong answer proves little once the right one is there: somebody on the path forges."""
    one = lone()
    (check,) = transmits_of(one)
    one.handle_datagram(0.01, A4, B4, answer(check, ice.Credentials("peer", WRONG)))
    assert one.signs.theirs_is_not_known
    one.handle_datagram(0.02, A4, B4, answer(check, PEER))
    assert not one.signs.theirs_is_not_known


def test_pairs_report_what_they_have_counted() -> None:
    """The counters of the W3C's RTCIceCandidatePairStats: requests without retransmissions, consent apart."""
    world, a, b = connected_pair()
    world.run(60.0)
    ((ours,), (theirs,)) = a.pair_reports(), b.pair_reports()
    assert ours.selected
    assert ours.path == (A4, B4)
    assert (ours.local_ufrag, ours.remote_ufrag) == (a.credentials.ufrag, b.credentials.ufrag)
    assert ours.requests_sent in (2, 3), "the check, the nomination, and perhaps a triggered check"
    assert 9 <= ours.consent_requests_sent <= 13, "every 4 to 6 s"
    assert ours.checks_sent == ours.requests_sent + ours.consent_requests_sent
    assert ours.checks_sent - theirs.requests_received in (0, 1), "one may be on its way"
    assert theirs.responses_sent == theirs.requests_received
    assert ours.responses_received - ours.checks_sent in (0, -1)
    assert ours.rtt_last_s == pytest.approx(0.020)
    assert ours.rtt_total_s == pytest.approx(0.020 * ours.rtt_samples)
