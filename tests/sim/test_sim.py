"""A few worlds of `make sim` with every run of the tests, those first that once showed a bug; CI runs many more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amount import amount

sys.path.insert(0, str(Path(__file__).parent))

from sim_draw import draw
from sim_lessons import FIRST_SEED
from sim_luck import has_heard_nothing, is_for_want_of_a_server
from sim_run import run_seed
from sim_truth import OURS, THEIRS, Truth

from iceagent.agent import RelayReason, Verdict, VerdictKind
from iceagent.agent.report.events import RelayFailed, ServerFailed
from iceagent.core.address import TransportAddress
from iceagent.vnet import TraceRecord
from iceagent.vnet.packet import Packet

# What they showed: a relay with two addresses that went away, and took the agent with it; sessions that stayed relayed
# after a router's new address; a restarted server asked so hastily that a slow line never got its answer; a session
# given up for the sake of a backup pair asked long ago, though its peer had answered elsewhere; components that were
# closed for a slow relay, or for an end of candidates that a restart had overtaken; a role conflict never settled; a
# session over TCP that consent ended, as it had to; sides that both tried another port, and each closed the one that
# the other had found its way to. Lately: a NAT64 that led to a private address; one component of several that
# consent ended; other ports tried on the wrong one of two lines; a refusal over UDP that was no sign of UDP; components
# for which a line had lost a server, before and after a fault; and a server's answer so late that a limit for all was
# none for the checks that followed.
REMEMBERED = (628, 761, 30316, 32137, 32781, 40005, 40078, 7770226, 7771006, 7771164, 7771265, 20261130202, 20261206615)
LATELY = (20261222028, 20261232445, 20261232207, 20261240718, 20261242592, 20261250191, 20261260423)
TAUGHT = range(FIRST_SEED, FIRST_SEED + 12)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [*REMEMBERED, *LATELY, *range(1, 1 + amount(24, 3)), *TAUGHT[: amount(12, 3)]])
def test_what_must_hold_does(seed):
    """Whatever the network is like: agreement, the best there is, no stranger's byte, no flood, nothing left."""
    outcome = run_seed(seed)
    assert not outcome.failure, f"{outcome.failure} [{outcome.words}]"


def test_a_seed_repeats_byte_for_byte():
    """A failure that a seed does not bring back is lost."""
    digests = {run_seed(3, with_digest=True).digest for _ in range(3)}
    assert len(digests) == 1
    assert digests.isdisjoint({"", run_seed(1, with_digest=True).digest})


# In the second one a relay's permissions were asked for in the order of a set, so that six salts gave four worlds.
ORDERED = (3, 20261130180)


def test_a_seed_repeats_in_another_process_whatever_the_order_of_its_sets_is():
    """Python hashes text with a salt of each process's own; what sends in a set's order is another world each time."""
    code = (
        "import sys; from sim_run import run_seed;"
        "print([run_seed(int(one), with_digest=True).digest for one in sys.argv[1:]])"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent / "support")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, ORDERED)],
            env={**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
        )
        for salt in ("0", "1", "2")
    ]
    answers = {process.communicate()[0] for process in processes}
    assert len(answers) == 1, answers
    assert answers.pop().count(b"'") == 2 * len(ORDERED)


def untrue(seed, summary, evidence=(), because=None):
    drawn, truth = draw(seed), Truth()
    truth.look(drawn, 0.0)
    return truth.contradiction(drawn, [], 0, Verdict(VerdictKind.RELAYED, summary, evidence, because=because))


def test_a_reason_that_the_world_contradicts_fails_a_seed():
    """Each seed holds what both agents say against the routers; what could not fail would show nothing."""
    plain, symmetric = 20000005, 20000002  # one home that maps all alike; both below a carrier that does not
    for reason in (RelayReason.ONE_MAPS_PER_DESTINATION, RelayReason.BOTH_MAP_PER_DESTINATION):
        assert untrue(plain, "", because=reason)
        assert not untrue(symmetric, "", because=reason)
    for words in (OURS, THEIRS):
        assert untrue(plain, "", (words,))
        assert not untrue(symmetric, "", (words,))
    assert untrue(plain, "Relayed, because UDP does not get out of this network.")
    assert not untrue(plain, "Relayed.", because=RelayReason.NO_DIRECT_ANSWER)


def made(**facts: Any) -> Any:
    """Return something with these attributes, in place of a world or an agent."""
    return SimpleNamespace(**facts)


def side(*paths, lost=()):
    """Return an agent of one stream; `lost` has the component, the time and the event of servers that gave nothing."""
    parts = []
    for number, has_path in enumerate(paths, 1):
        entries = [(at_s, event) for component, at_s, event in lost if component == number]
        driver = made(timeline=made(entries=entries.copy))
        parts.append(made(stream=0, id=number, selected_pair=has_path or None, driver=driver))
    return made(streams=[made(components=parts)])


SILENT = RelayFailed("turn:turn.example", "udp", "no answer within 10 s", None)


def test_only_the_component_that_a_line_has_cost_its_server_is_bad_luck():
    """Whatever else fails is a failure, and so is all on lines that lose nothing."""
    lossy, clean = made(is_clean=False), made(is_clean=True)
    unlucky = [side(True, False), side(True, False, lost=[(2, 10.0, SILENT)])]
    assert is_for_want_of_a_server(lossy, unlucky)
    assert not is_for_want_of_a_server(clean, unlucky)
    assert not is_for_want_of_a_server(lossy, [side(True, True), side(True, True, lost=[(2, 10.0, SILENT)])])
    assert not is_for_want_of_a_server(lossy, [side(False, True), side(True, True, lost=[(2, 10.0, SILENT)])])
    assert not is_for_want_of_a_server(lossy, [side(False, False), side(True, True, lost=[(2, 10.0, SILENT)])])
    dead = RelayFailed("turn:dead.example", "udp", "no answer within 10 s", None)
    refused = RelayFailed("turn:turn.example", "udp", "refused", 486)
    for event in (dead, refused):
        assert not is_for_want_of_a_server(lossy, [side(True, False, lost=[(2, 10.0, event)])])


def test_after_a_fault_only_servers_count_that_were_asked_after_it():
    """What was asked during an outage cannot have been answered, and has to be asked again."""
    lossy = made(is_clean=False)
    quiet = ServerFailed("stun:stun.example", 4, TransportAddress("192.168.1.2", 5), "no answer within 5 s")
    for event, budget_s in ((SILENT, 10.0), (quiet, 5.0)):
        for late_s, is_bad_luck in ((budget_s, True), (budget_s - 0.1, False)):
            fails = [side(True, False, lost=[(2, 100.0 + late_s, event)])]
            assert is_for_want_of_a_server(lossy, fails, 100.0) is is_bad_luck


def test_nothing_heard_over_udp_is_nothing_but_a_strangers():
    """An agent may say that UDP does not get out if that is all it can know; one datagram of anybody's is enough."""
    server, ours, stranger = (TransportAddress(host, 9) for host in ("203.0.113.2", "192.168.1.2", "203.0.113.9"))
    sent = TraceRecord(0.0, "alice", "send", Packet(ours, server, b"?"), "")

    def trial(*records, is_clean=False, sent_before=0):
        net = made(trace=[sent, *records], statistics=lambda: made(packets_sent=1 + sent_before))
        mallory = made(addresses=lambda: [stranger.host])
        hosts = [made(name="alice"), made(name="bob")]
        return has_heard_nothing(made(net=net, mallory=mallory, hosts=hosts, is_clean=is_clean), 0)

    assert trial()
    assert trial(TraceRecord(1.0, "alice", "deliver", Packet(stranger, ours, b"!"), ""))
    assert trial(TraceRecord(1.0, "bob", "deliver", Packet(server, ours, b"!"), ""))
    assert not trial(TraceRecord(1.0, "alice", "deliver", Packet(server, ours, b"!"), ""))
    assert not trial(is_clean=True)
    assert not trial(sent_before=1)
