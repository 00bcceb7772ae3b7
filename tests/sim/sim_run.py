"""One seed: build its world, let two agents find each other in it, and hold what happened against what must hold."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import chain, repeat

import trio
from sim_draw import TURN_PORT, Drawn, draw
from sim_faults import CRASHES, ServerSwitch, carry_out, is_on_the_network
from sim_lessons import draw_lessons
from sim_luck import components, is_for_want_of_a_server, lost_servers
from sim_truth import Truth

from iceagent import vnet
from iceagent.agent import Agent, AgentConfig, Component, IceServer, open_agent
from iceagent.agent.report.events import RelayAllocated
from iceagent.core import ice, stun
from iceagent.core.address import TransportAddress
from iceagent.core.constants import CONSENT_EXPIRY_S
from iceagent.core.ice import AgentState, Role
from iceagent.errors import NetworkError
from iceagent.net import tasks
from iceagent.servers.stun import open_stun_server
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.vnet import Reachability, reachability

# Documentation and benchmarking prefixes are the internet here, and a careful server denies them.
ALLOWED_PEERS = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "198.18.0.0/15", "2001:db8::/32")
USER, PASSWORD = "sim", "simulated password"
DECIDED_WITHIN_S = (
    100.0  # of the last candidate: a check takes 39.5 s (RFC 8489), and one side's last draws the other's
)
TALK_WITHIN_S = 30.0
SWITCH_WITHIN_S = 20.0
RECOVER_WITHIN_S = 60.0
GONE_WITHIN_S = 60.0
LOST = {"consent-lost", "restart-unanswered", "no-path", "peer-never-checked", "no-udp-egress"}
CHECKS_PER_S = 20 + 12  # one per Ta of 50 ms; nomination, probes and consent come besides
USERNAME = b"\x00\x06"  # what a check begins with
MORE_PER_S = 12  # of these, for each further component
REQUESTS_PER_S = 120  # retransmissions of all that is under way included
ANNOY_S = (1.0, 1.0, 1.0, 5.0)  # from one round of a stranger's packets to the next: what is early finds most
BROKEN = b"\x80mallory was here"
FAILURES = {
    "no-path",
    "peer-never-checked",
    "no-udp-egress",
    "no-common-family",
    "waiting-for-candidates",
    "filtered-by-policy",
    "no-local-address",
    "unusable-candidates",  # the peer has none, or none that fits: what it says has to be true, see `Truth`
    "relay-unreachable",
    "relay-refused",  # a good server sends to no private address, and the peer has no others
    "no-name-resolution",
    "stun-ipv4-only",
    "stun-ipv6-only",
    "both-map-per-destination",
    "one-maps-per-destination",
    "peer-never-answered",
}


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Outcome:
    """What came of one seed."""

    seed: int
    words: str = ""
    expected: str = ""
    found: str = ""
    is_lucky: bool = False
    is_settled_for_less: bool = False
    failure: str = ""
    connected_after_s: float | None = None
    packets: int = 0
    digest: str = ""


@dataclass
class Run:
    """One seed under way."""

    drawn: Drawn
    outcome: Outcome
    agents: list[Agent] = field(default_factory=list)
    heard: list[set[bytes]] = field(default_factory=lambda: [set(), set()])
    targets: set[TransportAddress] = field(default_factory=set)
    news: trio.Event = field(default_factory=trio.Event)
    turn: ServerSwitch = field(default_factory=ServerSwitch)
    stun: ServerSwitch = field(default_factory=ServerSwitch)
    is_idle: bool = False
    truth: Truth = field(default_factory=Truth)
    budget: trio.CancelScope = field(default_factory=trio.CancelScope)

    def note_told(self) -> None:
        """Take note that one side has told the other of a candidate, which has to be tried before it gives up."""
        self.budget.deadline = max(self.budget.deadline, trio.current_time() + DECIDED_WITHIN_S)

    def hold_to_truth(self) -> None:
        """Fail if an agent gives a reason that the world contradicts."""
        if what := self.truth.lie(self.drawn, self.agents):
            raise Broken(what)


def run_seed(seed: int, *, with_digest: bool = False) -> Outcome:
    """Return what came of a seed; never raises. `with_digest`: say also what its packets were, one and all."""
    outcome = Outcome(seed)
    drawn = draw(seed)
    draw_lessons(drawn, seed)
    tasks._seen.clear()
    try:
        vnet.run(partial(_simulate, outcome, drawn), seed=seed)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome.failure = _innermost(error)
    if tasks._seen and not outcome.failure:
        outcome.failure = f"unforeseen: {', '.join(map(' '.join, tasks._seen))}"
    if with_digest:
        outcome.digest = sha256(drawn.net.trace_bytes()).hexdigest()
    return outcome


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    place = ""
    if not isinstance(error, Broken):
        frames = deque(inspect.getinnerframes(error.__traceback__), maxlen=1) if error.__traceback__ else ()
        place = "".join(f" at {frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}{place}: {error}".replace("\n", " ")


async def _simulate(outcome: Outcome, drawn: Drawn) -> None:
    outcome.words = str(drawn)
    expected = reachability(*drawn.sides())
    outcome.expected = "direct" if expected.is_direct else "relayed" if expected.is_possible else "none"
    run = Run(drawn, outcome)
    before = trio.lowlevel.current_statistics().tasks_living
    async with drawn.net, trio.open_nursery() as servers:
        await servers.start(run.stun.serve, partial(_open_stun, drawn))
        await servers.start(run.turn.serve, partial(_open_turn, drawn))
        async with trio.open_nursery() as nursery, _open_agents(run):
            nursery.start_soon(_annoy, run)
            await _meet(run, expected)
            nursery.cancel_scope.cancel()
        await trio.sleep(1)  # a release may still be on its way
        before_s = max((record.at_s for record in drawn.net.trace), default=-1.0)
        await trio.sleep(30)
        if _sent_by_agents(drawn, after_s=before_s):
            raise Broken("packets after close")
        servers.cancel_scope.cancel()
    statistics = drawn.net.statistics()
    outcome.packets = statistics.packets_sent
    if statistics.sockets_left_open:
        raise Broken(f"{statistics.sockets_left_open} sockets left open")
    if trio.lowlevel.current_statistics().tasks_living != before:
        raise Broken("tasks left running")
    _check_pacing(drawn)


async def _open_stun(drawn: Drawn, stack: AsyncExitStack) -> None:
    for family, wildcard in ((4, "0.0.0.0"), (6, "::")):
        if drawn.stun is not None and drawn.stun.addresses(family):
            await stack.enter_async_context(open_stun_server(wildcard, network=drawn.stun))


async def _open_turn(drawn: Drawn, stack: AsyncExitStack) -> None:
    if drawn.turn is not None:
        listen = [TransportAddress(host, TURN_PORT) for host in drawn.turn.addresses()]
        options = TurnOptions(
            listen, users={USER: PASSWORD}, allow_peers=ALLOWED_PEERS, tcp_listen=listen if drawn.turn_tcp else ()
        )
        await stack.enter_async_context(open_turn_server(options, network=drawn.turn, randbytes=drawn.turn.randbytes))


@asynccontextmanager
async def _open_agents(run: Run) -> AsyncIterator[None]:
    drawn = run.drawn
    servers = [IceServer(f"stun:{drawn.names['stun']}")] if drawn.stun else []
    if drawn.dead_stun:
        drawn.net.add_name("dead.example", "203.0.113.250", "2001:db8::dead")
        servers.append(IceServer("stun:dead.example"))
    if drawn.dead_turn:
        drawn.net.add_name("deadturn.example", "203.0.113.251", "2001:db8::deae")
        servers.append(IceServer("turn:deadturn.example", username=USER, credential=PASSWORD))
    if drawn.nameless_server:
        servers.append(IceServer("stun:nameless.example"))
    if drawn.turn is not None:
        transport = "" if drawn.turn_tcp else "?transport=udp"
        servers.append(IceServer(f"turn:{drawn.names['turn']}{transport}", username=USER, credential=PASSWORD))
    roles = (Role.CONTROLLING, Role.CONTROLLING if drawn.same_role else Role.CONTROLLED)
    async with AsyncExitStack() as stack:
        for number, (host, families, role) in enumerate(zip(drawn.hosts, drawn.families, roles, strict=True)):
            config = AgentConfig(
                servers=servers,
                families=families,
                network=host,
                randbytes=host.randbytes,
                auto_restart=bool(drawn.fault),
                **drawn.techniques,
                **({"transport_policy": "relay"} if drawn.relay_only else {}) | drawn.policies[number],
            )
            run.agents.append(await stack.enter_async_context(open_agent(config, role=role)))
            await trio.sleep(drawn.late_s if not run.agents[1:] else 0)
        yield


async def _signal(run: Run, source: Agent, target: Agent) -> None:
    """Carry one side's description and candidates to the other, as late as drawn."""
    await trio.sleep(run.drawn.signaling_s)
    if run.drawn.trickles:
        target.set_remote_credentials(source.credentials, options=source.options)
    async with trio.open_nursery() as streams:
        for stream in range(len(run.drawn.streams)):
            streams.start_soon(_signal_stream, run, source, target, stream)


async def _signal_stream(run: Run, source: Agent, target: Agent, stream: int) -> None:
    held, credentials = [], source.credentials
    async with trio.open_nursery() as carriers:
        async for candidate in source.local_candidates(stream):
            _note_target(run, candidate)
            await trio.sleep(run.drawn.signaling_s)
            if run.drawn.trickles:
                carriers.start_soon(_carry, run, candidate, target, stream)
            else:
                held.append(candidate)
    if not run.drawn.trickles:
        target.set_remote_credentials(source.credentials, options=source.options)
        for candidate in held:
            target.add_remote_candidate(candidate.to_sdp(), stream=stream)
    if source.credentials == credentials:  # else a restart has ended these; `_signal_restarts` carries the others
        target.add_remote_candidate(None, stream=stream)
    async for candidate in source.late_candidates(stream):
        _note_target(run, candidate)
        await trio.sleep(run.drawn.signaling_s)
        target.add_remote_candidate(candidate.to_sdp(), stream=stream)
        run.note_told()


def _note_target(run: Run, candidate: ice.Candidate) -> None:
    if candidate.transport == "udp" and not candidate.address.host.endswith(".local"):
        run.targets.add(candidate.address)


async def _carry(run: Run, candidate: ice.Candidate, target: Agent, stream: int) -> None:
    """Deliver one candidate, perhaps after others that were found later."""
    if run.drawn.trickle_s:
        await trio.sleep(run.drawn.more.random() * run.drawn.trickle_s)
    target.add_remote_candidate(candidate.to_sdp(), stream=stream)


async def _signal_restarts(run: Run, source: Agent, target: Agent) -> None:
    """Carry new credentials and candidates to the other side, when both have a network."""

    async def carry(event: ice.Restarted) -> None:
        await _reach(run)
        target.set_remote_credentials(event.credentials, options=source.options)
        async with trio.open_nursery() as streams:
            for stream in range(len(run.drawn.streams)):
                streams.start_soon(carry_stream, event, stream)

    async def carry_stream(event: ice.Restarted, stream: int) -> None:
        async for candidate in source.local_candidates(stream):
            _note_target(run, candidate)
            await _reach(run)
            if source.credentials == event.credentials:
                target.add_remote_candidate(candidate.to_sdp(), stream=stream)
        if source.credentials == event.credentials:
            target.add_remote_candidate(None, stream=stream)

    async with trio.open_nursery() as nursery:
        async for event in source.events():
            if isinstance(event, ice.Restarted):
                nursery.start_soon(carry, event)


async def _reach(run: Run) -> None:
    await trio.sleep(run.drawn.signaling_s)
    while not all(map(is_on_the_network, run.drawn.hosts)):
        await trio.sleep(0.1)


async def _annoy(run: Run) -> None:
    """Be a stranger who knows all addresses and the ufrags, and sends data and checks keyed with a guess."""
    mallory = run.drawn.mallory
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(await mallory.open_udp(host))) for host in mallory.addresses()]
        await _annoy_from(run, sockets)


async def _annoy_from(run: Run, sockets: list[vnet.VirtualUdpSocket]) -> None:
    mallory = run.drawn.mallory
    for pause_s in chain(ANNOY_S, repeat(ANNOY_S[-1])):
        for agent in run.agents:
            names = stun.Username(f"{agent.credentials.ufrag}:mall")
            priority = stun.Priority(2130706431)
            request = stun.binding_request(mallory.randbytes(12), names, priority, stun.UseCandidate())
            check = stun.encode(request, key=stun.short_term_key("a guess of a password"))
            for target in sorted(run.targets):
                for sock in sockets:
                    if sock.local_address.family == target.family:
                        sock.send_nowait([BROKEN, check], target)
        await trio.sleep(60 if run.is_idle else pause_s)


async def _meet(run: Run, expected: Reachability) -> None:
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number, agent in enumerate(run.agents):
            nursery.start_soon(_signal, run, agent, run.agents[1 - number])
            nursery.start_soon(_signal_restarts, run, agent, run.agents[1 - number])
            for component in components(agent):
                nursery.start_soon(_listen, run, number, component)
        results = await _decide(run)
        run.hold_to_truth()
        if all(results):
            run.outcome.connected_after_s = trio.current_time() - start
        await _judge(run, expected, results)
        nursery.cancel_scope.cancel()


async def _decide(run: Run) -> list[bool]:
    """Return for each side whether it connected; both must make up their minds."""
    results = [False, False]

    async def wait(number: int) -> None:
        try:
            await run.agents[number].wait_connected()
        except NetworkError:
            return
        results[number] = True

    with run.budget:
        run.budget.deadline = trio.current_time() + DECIDED_WITHIN_S
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, 0)
            nursery.start_soon(wait, 1)
    if run.budget.cancelled_caught:
        raise Broken(f"undecided {DECIDED_WITHIN_S} s after the last candidate: {_states(run)}")
    return results


async def _judge(run: Run, expected: Reachability, results: list[bool]) -> None:
    run.outcome.found = "none"
    right = FAILURES
    if not expected.is_possible and _refuses_relays(run):
        # A check from the peer's relay looks like any other until its candidate is told, which may take seconds here;
        # from then on it is refused. So there may be a path for a while, even for one side alone, until consent ends.
        with trio.move_on_after(GONE_WITHIN_S):
            while any(_has_path(agent) for agent in run.agents):
                await trio.sleep(0.5)
            results, right = [False, False], FAILURES | {"consent-lost"}
    if results[0] != results[1]:
        # One has given up, for the other's end of candidates, the component that the other found no server for.
        if is_for_want_of_a_server(run.drawn, run.agents):
            run.outcome.found = "unlucky"
            return
        raise Broken(f"one connected, the other failed: {_states(run)}")
    surest = run.drawn.surest()
    if not results[0]:
        if expected.is_possible and (lost_servers(run.drawn, run.agents) or not surest.is_possible):
            run.outcome.found = "unlucky"
            return
        if expected.is_possible:
            paths = sorted({path.kinds for path in expected.paths})
            raise Broken(f"failed where the oracle sees {paths}: {_states(run)}")
        with trio.move_on_after(DECIDED_WITHIN_S):  # the first component to fail has told; the others follow
            while not all(agent.state is AgentState.FAILED for agent in run.agents):
                await trio.sleep(0.5)
        run.hold_to_truth()
        ends = [component for agent in run.agents for component in components(agent)]
        kinds = {end.explain().kind.value for end in ends if end.state is AgentState.FAILED}
        if not kinds or not kinds <= right:
            raise Broken(f"wrong verdict: {kinds}")
        return
    await _await_agreement(run)
    if surest.is_direct:
        await _await_switch(run)
    is_direct = _is_direct(run)
    run.outcome.found = "direct" if is_direct else "relayed"
    run.outcome.is_lucky = not expected.is_possible or (is_direct and not expected.is_direct)
    for number, agent in enumerate(run.agents):
        own = agent.selected_pair
        if run.drawn.is_relay_only(number) and own is not None and own.local.type.value != "relay":
            raise Broken(f"relay only, and yet {own.local.type.value}")
    if expected.is_direct and not is_direct:
        run.outcome.is_settled_for_less = True
        if run.drawn.is_clean and surest.is_direct:
            raise Broken(f"relayed where the oracle sees {sorted(expected.kinds)}: {_states(run)}")
    await _talk(run, b"first", TALK_WITHIN_S)
    if await (_break(run) if run.drawn.fault else _disturb(run)) and run.drawn.idle_s:
        await _idle(run)


def _is_direct(run: Run) -> bool:
    """Whether neither side uses a relay; each knows its own, while the other's may still look peer-reflexive."""
    pairs = [agent.selected_pair for agent in run.agents]
    return all(pair is not None and pair.local.type.value != "relay" for pair in pairs)


async def _await_switch(run: Run) -> None:
    """Give the agents time to leave a relay for a direct path that was found later, both of them.

    One may be on a direct path still, or already, while its nomination of a relayed pair is under way to the other.
    """
    with trio.move_on_after(SWITCH_WITHIN_S):
        while not (_is_direct(run) and _agree(run)):
            run.hold_to_truth()
            await trio.sleep(0.5)
    await _await_agreement(run)


def _refuses_relays(run: Run) -> bool:
    """Whether one side wants no relays, and takes whom its checks come from for what they seem."""
    return any("relay" not in side.kinds for side in run.drawn.sides())


def _has_path(agent: Agent) -> bool:
    return any(component.selected_pair is not None for component in components(agent))


async def _await_agreement(run: Run) -> None:
    """Wait until both have selected the same pair: what one calls local is what the other calls remote."""
    with trio.move_on_after(10):
        while not _agree(run):
            run.hold_to_truth()
            await trio.sleep(0.1)
        return
    raise Broken(f"no agreement on a pair: {_states(run)}")


def _agree(run: Run) -> bool:
    return all(_agree_on(run, *ends) for ends in zip(*map(components, run.agents), strict=True))


def _agree_on(run: Run, *ends: Component) -> bool:
    one, other = (end.selected_pair for end in ends)
    if one is None or other is None:
        return False
    if one.local.transport == other.local.transport == "tcp":
        return True  # the port of an active candidate is none
    if any(home.nat64 is not None for host in run.drawn.hosts for home in _routers(host)):
        return True  # the two ends of a NAT64 have no address in common
    return (one.local.address, one.remote.address) == (other.remote.address, other.local.address)


def _routers(host: vnet.Host) -> list[vnet.Router]:
    return [interface.router for interface in host.attachments() if interface.router is not None]


async def _listen(run: Run, number: int, component: Component) -> None:
    """Take all that an agent hands up: only what the peer has sent may be among it."""
    while True:
        try:
            datagram = await component.receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        if b"mallory" in datagram and not run.drawn.has_corruption:
            raise Broken("a stranger's bytes reached the user")
        if not datagram.startswith(_mark(1 - number, component)) and not run.drawn.has_corruption:
            raise Broken(f"bytes that nobody sent reached the user: {datagram[:40]!r}")
        run.heard[number].add(datagram)
        run.news.set()
        run.news = trio.Event()


def _mark(number: int, component: Component) -> bytes:
    return b"from %d.%d.%d " % (number, component.stream, component.id)


async def _talk(run: Run, topic: bytes, within_s: float) -> None:
    """Have each component of each side say something until its peer has heard it."""

    async def say(number: int, component: Component) -> None:
        words = _mark(number, component) + topic
        while words not in run.heard[1 - number]:
            run.hold_to_truth()
            with trio.move_on_after(0.2):
                await component.send(words)
                await run.news.wait()

    with trio.move_on_after(within_s):
        try:
            async with trio.open_nursery() as nursery:
                for number, agent in enumerate(run.agents):
                    for component in components(agent):
                        nursery.start_soon(say, number, component)
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Broken(f"the session broke while talking ({topic.decode()}): {_states(run)}") from error
        return
    raise Broken(f"no words came through within {within_s} s ({topic.decode()}): {_states(run)}")


async def _disturb(run: Run) -> bool:
    """Let something mild happen; return whether the two still talk."""
    drawn = run.drawn
    if drawn.disturbance == "cut":
        may_end = _uses_tcp(run)
        drawn.hosts[1].partition()
        await trio.sleep(15)
        drawn.hosts[1].heal()
        if may_end and await _ends_by_consent(run):
            run.outcome.found = "unlucky"
            return False
    elif drawn.disturbance == "nat reboot":
        # Nobody restarts here, so the ports must be the same afterwards. Those of a gateway that takes input for itself
        # belong to whoever speaks first, the peer outside or we inside; behind its firewall it never hears of others.
        if not all(_keeps_ports(home) for home in drawn.homes):
            return True
        drawn.homes[0].reboot()
    else:
        return True
    await _talk(run, b"after " + drawn.disturbance.encode(), RECOVER_WITHIN_S)
    return True


def _keeps_ports(home: vnet.Router) -> bool:
    """Whether a port that is mapped again after a reboot is the one it was, whoever speaks first."""
    nat = home.nat
    return nat is None or (nat.port_allocation == "preserving" and not nat.accepts_input)


def _uses_tcp(run: Run) -> bool:
    """Whether what the two say goes over TCP somewhere: between themselves, or to a relay."""
    rooms = [component for agent in run.agents for component in components(agent)]
    events = [event for component in rooms for _, event in component.driver.timeline.entries()]
    over_tcp = {event.address for event in events if isinstance(event, RelayAllocated) and event.transport != "udp"}
    pairs = [agent.selected_pair for agent in rooms]
    return any(pair and (pair.local.transport == "tcp" or pair.local.base in over_tcp) for pair in pairs)


async def _ends_by_consent(run: Run) -> bool:
    """Whether the session ends within what consent had left when the cable came back, and says why.

    Without a restart a path that gives no answer for 30 s has to be given up (RFC 7675 section 5.1). The cut takes 15
    of them. TCP has doubled its wait by then, and needs the others where its next retransmission is lost, too: by the
    line, or because it left just before the cable came back.
    """
    with trio.move_on_after(CONSENT_EXPIRY_S - 15 + 1):  # the last answer may have come as the cut began
        ends = [component for agent in run.agents for component in components(agent)]
        while not any(end.state is AgentState.FAILED for end in ends):  # of several, one alone may have ended
            await trio.sleep(0.5)
        kinds = {end.explain().kind.value for end in ends if end.state is AgentState.FAILED}
        if kinds != {"consent-lost"}:
            raise Broken(f"wrong verdict on a path without an answer: {kinds}")
        return True
    return False


async def _idle(run: Run) -> None:
    """Say nothing for long; what both have is there still."""
    was_direct, run.is_idle = _is_direct(run), True
    await trio.sleep(run.drawn.idle_s)
    run.is_idle = False
    await _talk(run, b"after a long silence", TALK_WITHIN_S)
    if run.drawn.is_clean and was_direct and not _is_direct(run):
        raise Broken(f"relayed after a long silence: {_states(run)}")


async def _break(run: Run) -> bool:
    """Let the fault happen, hold what comes of it against what the oracle now says; return whether they still talk."""
    drawn = run.drawn
    await carry_out(drawn, run.turn, run.stun)
    if drawn.fault == "gone":
        await _await_end(run)
        return False
    expected = drawn.surest()
    if not expected.is_possible:
        return False
    over_s = trio.current_time()
    try:
        await _talk(run, b"after " + drawn.fault.encode(), RECOVER_WITHIN_S)
    except Broken:
        if drawn.fault not in CRASHES and is_for_want_of_a_server(drawn, run.agents, over_s):
            run.outcome.found = "unlucky"
            return False
        raise
    if drawn.is_clean and expected.is_direct:
        await _await_switch(run)
        if not _is_direct(run):
            raise Broken(f"after {drawn.fault} relayed where the oracle sees {sorted(expected.kinds)}: {_states(run)}")
    return True


async def _await_end(run: Run) -> None:
    """The peer is gone: consent ends, and the verdict says so."""
    with trio.move_on_after(GONE_WITHIN_S):
        while run.agents[0].state is not AgentState.FAILED:
            await trio.sleep(0.5)
        if run.agents[0].explain().kind.value not in LOST:
            raise Broken(f"wrong verdict on a peer that is gone: {_states(run)}")
        return
    raise Broken(f"the peer is gone, and nobody noticed within {GONE_WITHIN_S} s: {_states(run)}")


def _states(run: Run) -> str:
    texts = []
    for agent in run.agents:
        pair = agent.selected_pair
        shown = "-" if pair is None else f"{pair.local.type.value}>{pair.remote.type.value}"
        if pair is not None:
            shown += f" {pair.local.address}>{pair.remote.address}"
        verdict = "" if agent.state in (AgentState.CONNECTED, AgentState.COMPLETED) else agent.explain().kind.value
        texts.append(f"{agent.state.value} {shown} {verdict}".strip())
    return " | ".join(texts)


def _sent_by_agents(drawn: Drawn, *, after_s: float) -> int:
    """Count datagrams. The last segments of a closed TCP connection, and ICMP, are the system's affair."""
    names = {host.name for host in drawn.hosts}
    late = [record for record in drawn.net.trace if record.at_s > after_s]  # it forgets the oldest, so no sums
    sent = [record for record in late if record.event == "send" and record.place in names]
    return sum(1 for record in sent if not record.packet.is_tcp and record.packet.quote is None)


def _check_pacing(drawn: Drawn) -> None:
    """Count checks in every window of a second: new ones and all."""
    if "hard_nat" in drawn.techniques:
        return  # which sends hundreds of packets, as it was asked to
    components = sum(drawn.streams)
    for host in drawn.hosts:
        seen: set[bytes] = set()
        fresh: deque[float] = deque()
        every: deque[float] = deque()
        for record in drawn.net.trace:
            packet = record.packet
            if record.event != "send" or record.place != host.name or packet.data[:2] != b"\x00\x01":
                continue
            if packet.data[20:22] != USERNAME:
                continue  # a question to a STUN server, living or dead
            _slide(every, record.at_s, REQUESTS_PER_S * components, "requests")
            if packet.data[8:20] not in seen:
                seen.add(packet.data[8:20])
                _slide(fresh, record.at_s, CHECKS_PER_S + MORE_PER_S * (components - 1), "new checks")


def _slide(window: deque[float], at_s: float, limit: int, what: str) -> None:
    window.append(at_s)
    while window[0] <= at_s - 1:
        window.popleft()
    if len(window) > limit:
        raise Broken(f"{len(window)} {what} within the second before {at_s:.3f} s")
