"""Asking STUN servers how they see our sockets: each server and family by itself, so that a dead one delays nothing.

A question is one server in one family. It has a budget, after which its silence counts as failure and nobody waits for
it any more; but it stays open for as long as its STUN transactions last, since an answer that comes late is an answer.

Source: RFC 8445 section 5.1.1.2, RFC 8489 section 6.2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Final

import trio

from iceagent.agent.config import AgentConfig
from iceagent.agent.driver import Driver
from iceagent.agent.gather.mdns import Names
from iceagent.agent.gather.nat64 import Nat64, is_ipv4
from iceagent.agent.gather.queries import Query
from iceagent.agent.gather.servers import IceServer
from iceagent.agent.report.events import ServerAnswered, ServerFailed
from iceagent.core import ice
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.constants import STUN_TI_S, TA_MIN_S
from iceagent.net.api import Network
from iceagent.net.staggered import first_of
from iceagent.net.tasks import contained

QUESTION_S: Final = STUN_TI_S
"""For so long a question stays open, name lookup included: as long as a transaction, and as a peer's patience lasts."""


@dataclass(frozen=True, slots=True)
class Base:
    """A bound socket and the local preference of its candidates, unique per address."""

    address: TransportAddress
    local_preference: int


@dataclass(slots=True, eq=False)
class ServerQuery:
    """One server, asked in one family.

    Attributes:
        bases: the sockets it is asked about; those that cannot reach it are taken out once its address is known.
        answered: those of them it has answered about, also with a refusal.
        targets: its addresses, once they are known.
        asked_at: when its addresses became known.
        helped: whether any answer had a mapped address.
        late: its budget is spent.
        over: no result can come any more.
    """

    server: IceServer
    family: int
    bases: list[Base]
    answered: set[TransportAddress] = field(default_factory=set)
    targets: list[TransportAddress] = field(default_factory=list)
    asked_at: float | None = None
    helped: bool = False
    late: bool = False
    over: bool = False

    @property
    def is_answered(self) -> bool:
        """Whether the server has reported an address, and has answered for each socket."""
        return self.helped and all(base.address in self.answered for base in self.bases)


class Reflexive:
    """The server-reflexive candidates of one agent.

    Args:
        network: where names are looked up.
        config: servers and budget.
        driver: takes queries and candidates.
        bases: returns the sockets there are.
        names: informed of addresses that are hidden, but seen by servers.
        nat64: translates the addresses of servers that have IPv4 only.
    """

    def __init__(
        self,
        network: Network,
        config: AgentConfig,
        driver: Driver,
        bases: Callable[[], Sequence[Base]],
        names: Names,
        nat64: Nat64,
    ) -> None:
        self._network = network
        self._config = config
        self._driver = driver
        self._bases = bases
        self._names = names
        self._nat64 = nat64
        self._mapped: dict[tuple[TransportAddress, TransportAddress], None] = {}
        self.questions: list[ServerQuery] = []

    def begin(self) -> list[ServerQuery]:
        """Return the questions that are to be asked now; `ask` each."""
        self.questions = [
            ServerQuery(server, family, [base for base in self._bases() if base.address.family == family])
            for server in self._servers()
            for family in self._families(server)
        ]
        return self.questions

    def unanswered_families(self) -> set[int]:
        """Return the families in which no server has answered about all sockets yet, but one still may."""
        families = {question.family for question in self.questions}
        answered = {question.family for question in self.questions if question.is_answered}
        open_ones = {question.family for question in self.questions if not question.over}
        return (families - answered) & open_ones

    @property
    def has_answer(self) -> bool:
        """Whether any server has reported an address."""
        return any(question.helped for question in self.questions)

    def all_asked_at(self) -> float:
        """Return since when all servers of which something is still to come have been asked; infinity before."""
        waiting = [question.asked_at for question in self.questions if not question.over]
        return max((inf if at is None else at for at in waiting), default=inf)

    def paths(self) -> Iterable[tuple[TransportAddress, TransportAddress]]:
        """Return base and server of each mapping to be kept alive."""
        return [path for path in self._mapped if path[0] in self._driver.sockets]

    async def ask(self, question: ServerQuery) -> None:
        """Ask one server about all our sockets of one family, `QUESTION_S` at most: a dead server delays nothing."""
        with trio.move_on_after(QUESTION_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_budget, question)
                with contained(question.server.url):
                    question.targets = await self._resolve(question)
                    if question.targets:
                        await self._ask_all(question)
                nursery.cancel_scope.cancel()
        question.over = True
        self._driver.changed.unpark_all()

    async def _watch_budget(self, question: ServerQuery) -> None:
        """Note once the budget is spent what has not been answered; an answer may still come."""
        budget_s = min(self._config.gather_budget_s, QUESTION_S)
        await trio.sleep(budget_s)
        question.late = True
        reason = f"no answer within {budget_s:g} s"
        if not question.targets:
            self._driver.note(ServerFailed(question.server.url, question.family, None, f"name lookup: {reason}"))
        for base in question.bases if question.targets else ():
            if base.address not in question.answered:
                self._driver.note(ServerFailed(question.server.url, question.family, base.address, reason))
        self._driver.changed.unpark_all()

    async def _resolve(self, question: ServerQuery) -> list[TransportAddress]:
        host, port = question.server.endpoint()
        if question.family == 6 and is_ipv4(host):
            host = await self._nat64.translate(host) or host
        try:
            found = await self._network.resolve(host, port, family=question.family)
        except OSError as error:
            found, reason = [], f"name lookup: {error}"
        else:
            reason = f"no IPv{question.family} address"
        allowed = [one for one in found if self._driver.policy.permits_server(one, question.server)]
        if allowed:
            return allowed
        if found:
            reason = "its address is forbidden by the policy"
        if not question.late:
            self._driver.note(ServerFailed(question.server.url, question.family, None, reason))
        return []

    async def _ask_all(self, question: ServerQuery) -> None:
        question.bases = [base for base in question.bases if _within_reach(base, question)]
        question.asked_at = trio.current_time()
        self._driver.changed.unpark_all()
        async with trio.open_nursery() as nursery:
            for number, base in enumerate(question.bases):
                nursery.start_soon(self._ask_from, question, base, number * TA_MIN_S)

    async def _ask_from(self, question: ServerQuery, base: Base, delay_s: float) -> None:
        """Learn how a server sees one socket; of several addresses that of the first to answer (RFC 5928 section 3).

        The requests of one server start 5 ms apart, as RFC 8445 section 14.2 asks of new transactions at the least;
        servers do not wait for each other, lest a dead one delay a live one.
        """
        await trio.sleep(delay_s)
        url = question.server.url
        targets = _within_reach(base, question)
        try:
            query = await first_of(targets, partial(self._query, base.address), discard=_forget)
        except OSError as error:
            question.answered.add(base.address)
            if not question.late:  # else it has been reported already
                self._driver.note(ServerFailed(url, question.family, base.address, str(error)))
            self._driver.changed.unpark_all()
            return
        question.answered.add(base.address)
        question.helped = True
        assert query.mapped is not None
        rtt_s = trio.current_time() - query.started_at
        self._driver.note(ServerAnswered(url, base.address, query.mapped, rtt_s, query.server))
        self._add_mapped(query.mapped, base, query.server)

    async def _query(self, base: TransportAddress, target: TransportAddress) -> Query:
        """Ask at one address of a server.

        Raises:
            OSError: it refuses, is silent, or its answer is of no use.
        """
        query = self._driver.queries.start(trio.current_time(), base, target)
        try:
            self._driver.mutate(lambda now: None)
            await query.done.wait()
        finally:
            self._driver.queries.cancel(query)
        if query.mapped is None:
            raise OSError(query.failure)
        return query

    def _add_mapped(self, mapped: TransportAddress, base: Base, server: TransportAddress) -> None:
        self._mapped[base.address, server] = None
        shows_hosts = self._driver.policy.has_type(ice.CandidateType.HOST)
        component = self._driver.ice.component
        candidate = ice.srflx_candidate(mapped, base.address, server.host, base.local_preference, component)
        if mapped == base.address and shows_hosts:
            # No NAT in between: redundant with the host candidate (RFC 8445 section 5.1.3), unless that is hidden.
            self._names.note_public(mapped, candidate)
            return
        if not shows_hosts:
            candidate = replace(candidate, related_address=None)
        self._driver.mutate(lambda now: self._driver.ice.add_local_candidate(now, candidate))

    def _servers(self) -> list[IceServer]:
        """Return whom to ask: a TURN server over UDP is a STUN server, too."""
        if not self._driver.policy.has_type(ice.CandidateType.SRFLX):
            return []
        found: dict[tuple[str, int], IceServer] = {}
        for server in self._driver.servers:
            if "udp" in server.transports():
                found.setdefault(server.endpoint(), server)
        return list(found.values())

    def _families(self, server: IceServer) -> list[int]:
        """Return the families to ask a server in: those of our sockets, or for a literal its own alone."""
        ours = sorted({base.address.family for base in self._bases()})
        try:
            literal = make_address(*server.endpoint()).family
        except ValueError:
            return ours
        if ours == [6] and self._nat64.is_wanted:
            return ours  # a NAT64 may lead to a server of IPv4
        return [family for family in ours if family == literal]


def _within_reach(base: Base, question: ServerQuery) -> list[TransportAddress]:
    """Return the addresses of a server as one socket sees them: in its own zone they have none (`net.sockaddr`)."""
    zone = base.address.host.partition("%")[2]
    targets = [target for target in question.targets if can_reach(base.address, target)]
    if not zone:
        return targets
    in_zone = [target for target in targets if target.host.partition("%")[2] in ("", zone)]
    return [TransportAddress(target.host.partition("%")[0], target.port) for target in in_zone]


async def _forget(query: Query) -> None:
    """Two addresses of a server that answered together: one answer is enough."""
    await trio.lowlevel.cancel_shielded_checkpoint()


def can_reach(base: TransportAddress, server: TransportAddress) -> bool:
    """Return whether a packet from `base` can get to `server` at all: loopback and link-local stay among themselves."""
    here, there = base.ip, server.ip
    return (here.is_loopback, here.is_link_local) in (
        (there.is_loopback, there.is_link_local),
        (False, there.is_link_local),
    )
