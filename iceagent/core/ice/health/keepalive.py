"""Keepalives of valid pairs that carry no data: RFC 8445 section 11."""

from __future__ import annotations

from iceagent.core import constants, stun
from iceagent.core.ice.context import Context
from iceagent.core.ice.model.pair import CheckPair


class Keepalive:
    """Sends a Binding indication on each valid pair that has sent nothing for Tr; on the best two of them a check.

    The answers keep consent to those two, and tell their round-trip times, so that data can move there at once.

    The pair that carries data is left out: its consent checks keep it alive. Deviation from RFC 8445 section 11, by
    which keepalives end on other pairs once one is selected: those are the backups, and their NAT bindings must live.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def advance(self, now: float) -> None:
        """Send what is due."""
        context = self._context
        pairs = self._pairs()
        if not pairs or now < min(pair.last_sent_at for pair in pairs) + context.config.keepalive_s:
            return
        warm = (
            []
            if context.config.lite
            else sorted(pairs, key=lambda pair: pair.priority, reverse=True)[: constants.WARM_BACKUPS]
        )
        for pair in pairs:
            if now >= pair.last_sent_at + context.config.keepalive_s:
                pair.last_sent_at = now
                if pair in warm:
                    context.checklist.trigger(pair)
                    continue
                indication = stun.binding_indication(context.randbytes(12))
                context.outbox.send(pair.base, pair.destination, stun.encode(indication))

    def next_timeout(self) -> float | None:
        """Return when the next one is due."""
        return min((pair.last_sent_at + self._context.config.keepalive_s for pair in self._pairs()), default=None)

    def _pairs(self) -> list[CheckPair]:
        context = self._context
        if not context.running:
            return []
        if len(context.checklist.pairs) == 1 and context.data_pair is not None:
            return []
        return [pair for pair in context.checklist if pair.is_valid and pair is not context.data_pair]
