from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iceagent.core.address import TransportAddress
from iceagent.net.batch import (
    MAX_BATCH,
    MAX_PAYLOAD,
    MAX_SEGMENTS,
    Arrival,
    join_arrivals,
    run_end,
)

A = TransportAddress("192.0.2.1", 1)
B = TransportAddress("192.0.2.2", 2)
sizes = st.lists(st.sampled_from([0, 1, 7, 1200, 1200, 1200, 9000, 65507]), min_size=1, max_size=200)


@given(sizes)
def test_every_run_is_one_the_kernel_can_cut_back_into_the_same_datagrams(lengths: list[int]) -> None:
    """A run that breaks the kernel's rule is refused, or worse, arrives cut elsewhere."""
    datagrams = [bytes(length) for length in lengths]
    at = 0
    while at < len(datagrams):
        end = run_end(datagrams, at)
        run = lengths[at:end]
        assert 1 <= len(run) <= MAX_SEGMENTS
        assert sum(run) <= MAX_PAYLOAD
        assert all(length == run[0] for length in run[:-1])
        assert len(run) == 1 or 0 < run[-1] <= run[0]
        at = end
    assert at == len(datagrams)


@given(
    st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from([0, 1, 5, 5, 5, 12]), st.integers(1, 3)), min_size=1)
)
def test_joined_arrivals_hold_the_same_datagrams_in_the_same_order(
    pieces: list[tuple[TransportAddress, int, int]],
) -> None:
    """Joining is for speed only: nobody may see a datagram change, move or vanish."""
    scratch = bytearray()
    arrivals: list[Arrival] = []
    expected: list[tuple[TransportAddress, bytes]] = []
    for number, (remote, size, wanted) in enumerate(pieces):
        count = wanted if size else 1
        data = bytes([number % 256]) * (size * count)
        arrivals.append((remote, size or 1, len(scratch), len(scratch) + len(data), None))
        scratch += data
        expected += [(remote, bytes([number % 256]) * size)] * count
    batches = join_arrivals(memoryview(scratch), arrivals)
    assert [(batch.remote, datagram) for batch in batches for datagram in batch.datagrams()] == expected
    assert sum(map(len, batches)) == len(expected)


def test_neighbours_of_one_size_become_one_batch() -> None:
    """A bulk flow on a system without GRO must cost the layers above one object per wake, not one per packet."""
    arrivals: list[Arrival] = [(A, 100, at, at + 100, None) for at in range(0, 5000, 100)]
    arrivals.append((A, 30, 5000, 5030, None))
    (batch,) = join_arrivals(memoryview(bytes(6000)), arrivals)
    assert (len(batch), batch.segment_size, len(batch.data)) == (51, 100, 5030)


def test_a_joined_batch_stays_within_what_the_kernel_merges() -> None:
    """Buffers of consumers are sized for 64 KiB."""
    arrivals: list[Arrival] = [(A, 1200, at, at + 1200, None) for at in range(0, 120_000, 1200)]
    batches = join_arrivals(memoryview(bytes(120_000)), arrivals)
    assert all(len(batch.data) <= MAX_BATCH for batch in batches)
    assert sum(map(len, batches)) == 100


def test_what_came_to_two_addresses_of_ours_stays_apart() -> None:
    """An answer leaves from the address that was asked: one batch has one."""
    arrivals: list[Arrival] = [(A, 5, 0, 5, "192.0.2.8"), (A, 5, 5, 10, "192.0.2.8"), (A, 5, 10, 15, "192.0.2.9")]
    batches = join_arrivals(memoryview(bytes(15)), arrivals)
    assert [(batch.local, len(batch)) for batch in batches] == [("192.0.2.8", 2), ("192.0.2.9", 1)]
