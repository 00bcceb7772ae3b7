"""NAT-PMP and PCP packets: bytes written out by hand from the RFCs, round trips, and whatever a network may send."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core.portmap import CodecReason, PortMappingCodecError, natpmp, pcp

PORTS = st.integers(0, 65535)
SECONDS = st.integers(0, 2**32 - 1)
V4 = st.ip_addresses(v=4).map(str)
V6: Any = st.ip_addresses(v=6)
ANY_HOST = V4 | V6.filter(lambda ip: ip.ipv4_mapped is None and ip.scope_id is None).map(str)
FIELDS = st.builds(pcp.MapFields, st.binary(min_size=12, max_size=12), st.integers(0, 255), PORTS, PORTS, ANY_HOST)
OPTIONS = st.lists(st.builds(pcp.Option, st.integers(0, 255), st.binary(max_size=40)), max_size=8).map(tuple)


def test_natpmp_requests_are_those_of_the_rfc():
    """RFC 6886 sections 3.2 and 3.3, drawn there byte by byte."""
    assert natpmp.AddressRequest().encode() == bytes.fromhex("0000")
    request = natpmp.MapRequest(natpmp.Opcode.MAP_UDP, 0x1234, 0x5678, 7200)
    assert request.encode() == bytes.fromhex("0001 0000 1234 5678 00001c20")


def test_natpmp_responses_are_read_as_the_rfc_draws_them():
    """A gateway's bytes, not ours, are what counts."""
    address = natpmp.decode_response_untrusted(bytes.fromhex("0080 0000 00000064 cb007105"))
    assert address == natpmp.AddressResponse(0, 0, 100, "203.0.113.5")
    mapping = natpmp.decode_response_untrusted(bytes.fromhex("0081 0000 00000064 1234 5678 00000e10"))
    assert mapping == natpmp.MapResponse(1, 0, 100, 0x1234, 0x5678, 3600)


def test_natpmp_error_may_be_cut_after_its_header():
    """RFC 6886 section 3.5: a gateway that does not know the version answers with 8 bytes."""
    refusal = natpmp.decode_response_untrusted(bytes.fromhex("0081 0001 00000007"))
    assert (refusal.result, refusal.epoch_s) == (natpmp.ResultCode.UNSUPPORTED_VERSION, 7)


def test_pcp_map_request_is_that_of_the_rfc():
    """RFC 6887 sections 7.1 and 11.1: 24 bytes of header with a mapped IPv4 address, 36 of MAP."""
    fields = pcp.MapFields(bytes(range(12)), pcp.PROTOCOL_UDP, 0x1234, 0x5678, "0.0.0.0")
    data = pcp.Request(pcp.Opcode.MAP, 7200, "192.168.1.2", fields).encode()
    assert data == bytes.fromhex(
        "02 01 0000 00001c20 00000000 00000000 0000ffff c0a80102"
        "000102030405060708090a0b 11 000000 1234 5678 00000000 00000000 0000ffff 00000000"
    )


def test_pcp_options_are_padded_and_their_length_is_not():
    """RFC 6887 section 7.3: the length leaves out the padding."""
    data = pcp.Request(0, 0, "::1", options=(pcp.prefer_failure(), pcp.Option(200, b"abcde"))).encode()
    assert data[24:] == bytes.fromhex("02 00 0000 c8 00 0005 6162636465 000000")
    assert pcp.remote_filter("192.0.2.0", 24, 53).value[:4] == bytes.fromhex("00 78 0035")
    assert pcp.third_party("192.0.2.1").value[-6:] == bytes.fromhex("ffff c0000201")


@given(st.sampled_from([natpmp.Opcode.MAP_UDP, natpmp.Opcode.MAP_TCP]), PORTS, PORTS, SECONDS)
def test_natpmp_requests_survive_the_round_trip(opcode, internal, suggested, lifetime):
    """Our gateway of the tests must read what our client says."""
    request = natpmp.MapRequest(opcode, internal, suggested, lifetime)
    assert natpmp.decode_request_untrusted(request.encode()) == request


@given(st.integers(0, 65535), SECONDS, V4, PORTS, PORTS, SECONDS)
def test_natpmp_responses_survive_the_round_trip(result, epoch, host, internal, external, lifetime):
    """Every field, errors included."""
    address = natpmp.AddressResponse(0, result, epoch, host)
    mapping = natpmp.MapResponse(2, result, epoch, internal, external, lifetime)
    for response in (address, mapping):
        assert natpmp.decode_response_untrusted(response.encode()) == response


@given(SECONDS, ANY_HOST, FIELDS, OPTIONS)
def test_pcp_requests_survive_the_round_trip(lifetime, client, fields, options):
    """Options and both families."""
    request = pcp.Request(pcp.Opcode.MAP, lifetime, client, fields, options)
    assert pcp.decode_request_untrusted(request.encode()) == request


@given(st.integers(0, 255), SECONDS, SECONDS, FIELDS, OPTIONS)
def test_pcp_responses_survive_the_round_trip(result, lifetime, epoch, fields, options):
    """Options of errors are not read: they are a copy of what we said."""
    options = options if result == 0 else ()
    response = pcp.Response(pcp.Opcode.MAP, result, lifetime, epoch, fields, options)
    assert pcp.decode_response_untrusted(response.encode()) == response


PACKETS = st.binary(max_size=1200) | st.builds(
    lambda head, rest: head + rest,
    st.sampled_from(
        [bytes((0, 128)), bytes((0, 129)), bytes((0, 1)), bytes((2, 0x81)), bytes((2, 1)), bytes((2, 128))]
    ),
    st.binary(min_size=6, max_size=200).map(lambda data: data[: len(data) // 4 * 4 + 2]),
)


@given(PACKETS)
def test_no_bytes_make_a_decoder_raise_anything_but_its_error(data):
    """The gateway's port is open to the whole local network."""
    decoders = (
        natpmp.decode_request_untrusted,
        natpmp.decode_response_untrusted,
        pcp.decode_request_untrusted,
        pcp.decode_response_untrusted,
    )
    for decode in decoders:
        with suppress(PortMappingCodecError):
            decode(data)


@pytest.mark.parametrize(
    ("decode", "data", "reason"),
    [
        (natpmp.decode_response_untrusted, bytes(7), CodecReason.LENGTH),
        (natpmp.decode_response_untrusted, bytes((2, 128)) + bytes(10), CodecReason.VERSION),
        (natpmp.decode_response_untrusted, bytes(12), CodecReason.OPCODE),
        (natpmp.decode_response_untrusted, bytes((0, 129)) + bytes(10), CodecReason.LENGTH),
        (natpmp.decode_request_untrusted, bytes((0, 9)), CodecReason.OPCODE),
        (natpmp.decode_request_untrusted, bytes((0, 1)), CodecReason.LENGTH),
        (natpmp.decode_request_untrusted, b"", CodecReason.LENGTH),
        (natpmp.decode_request_untrusted, bytes((9, 0)), CodecReason.VERSION),
        (pcp.decode_response_untrusted, bytes(25), CodecReason.LENGTH),
        (pcp.decode_response_untrusted, bytes(1104), CodecReason.LENGTH),
        (pcp.decode_response_untrusted, bytes(24), CodecReason.VERSION),
        (pcp.decode_response_untrusted, bytes((2, 1)) + bytes(22), CodecReason.OPCODE),
        (pcp.decode_response_untrusted, bytes((2, 0x81)) + bytes(22), CodecReason.LENGTH),
        (pcp.decode_response_untrusted, bytes((2, 0x80)) + bytes(22) + bytes((1, 0, 0, 9)), CodecReason.OPTION),
        (pcp.decode_response_untrusted, bytes((2, 0x80)) + bytes(22) + bytes((1, 0, 0, 0)) * 65, CodecReason.OPTION),
        (pcp.decode_request_untrusted, bytes((2, 77)) + bytes(22), CodecReason.OPCODE),
    ],
)
def test_broken_packets_are_told_apart(decode, data, reason):
    """Counters by reason are how a user learns what the gateway gets wrong."""
    with pytest.raises(PortMappingCodecError) as caught:
        decode(data)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "build",
    [
        lambda: natpmp.MapRequest(natpmp.Opcode.MAP_UDP, 65536, 0, 0),
        lambda: pcp.MapFields(b"short", 17, 1, 1, "::"),
        lambda: pcp.MapFields(bytes(12), 17, 70000, 1, "::"),
        lambda: pcp.MapFields(bytes(12), 17, 1, 1, "example"),
        lambda: pcp.Request(1, -1, "::1"),
        lambda: pcp.Response(1, 256, 0, 0),
        lambda: pcp.Request(0, 0, "::1", options=(pcp.Option(200, bytes(1100)),)),
    ],
)
def test_what_cannot_be_written_is_refused(build):
    """A value that is silently cut would map another port."""
    with pytest.raises(ValueError):
        build().encode()


def test_mapped_addresses_come_out_as_ipv4():
    """TransportAddress has one notation for each address."""
    assert pcp.unpack_address(ipaddress.IPv6Address("::ffff:192.0.2.9").packed) == "192.0.2.9"
