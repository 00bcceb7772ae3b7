"""The options of an ICE session. The defaults are those of the RFCs."""

from __future__ import annotations

from dataclasses import dataclass, field

from iceagent.core import constants
from iceagent.core.ice.choice.controller import Controller, DefaultController


@dataclass(frozen=True, slots=True)
class IceConfig:
    """Settings of one `IceAgent`.

    Attributes:
        ta_s: pacing of new checks, seconds; at least 5 ms (RFC 8445 section 14.2).
        max_pairs: size of the checklist (RFC 8445 section 6.1.2.5).
        max_local_candidates: further ones are refused and counted.
        max_remote_candidates: further ones are refused and counted, peer-reflexive ones included.
        patience_s: no failure before this, seconds (RFC 8863).
        consent_interval_s: basic period of consent checks, seconds; at least 5 s (RFC 7675 section 5.1).
        consent_expiry_s: a pair without a valid answer for this long is dead, seconds.
        disconnected_after_s: silence after which the state becomes DISCONNECTED, seconds.
        outage_s: how long an agent whose paths are all lost may still be restarted, seconds since the peer's last
            answer; 0: it fails as its last path does. What the restarts need has to be signalled.
        keepalive_s: Tr of RFC 8445 section 11, seconds; at least 15 s.
        controller: decides what to check, nominate and switch to.
        lite: be a lite implementation (RFC 8445 section 2.5): answer checks, send none but those that ask for consent
            where the peer has nominated, and use what it nominates. For hosts with a public address; the peer must be a
            full implementation, and be informed.
        renomination: whether another pair may be nominated later, where the peer can do that, too.

    Raises:
        ValueError: a value is outside the bounds named here.
    """

    ta_s: float = constants.TA_S
    max_pairs: int = constants.MAX_PAIRS
    max_local_candidates: int = constants.MAX_LOCAL_CANDIDATES
    max_remote_candidates: int = constants.MAX_REMOTE_CANDIDATES
    patience_s: float = constants.PATIENCE_S
    consent_interval_s: float = constants.CONSENT_INTERVAL_S
    consent_expiry_s: float = constants.CONSENT_EXPIRY_S
    disconnected_after_s: float = constants.DISCONNECTED_AFTER_S
    outage_s: float = 0.0
    keepalive_s: float = constants.KEEPALIVE_S
    controller: Controller = field(default_factory=DefaultController)
    lite: bool = False
    renomination: bool = True

    def __post_init__(self) -> None:
        if not constants.TA_MIN_S <= self.ta_s <= 10:
            raise ValueError(f"ta_s {self.ta_s} is not within {constants.TA_MIN_S} and 10 seconds")
        if self.consent_interval_s < constants.CONSENT_INTERVAL_S:
            raise ValueError(
                f"consent_interval_s {self.consent_interval_s} is below 5: RFC 7675 allows no faster checks"
            )
        if not self.consent_interval_s * 2 <= self.consent_expiry_s <= constants.CONSENT_EXPIRY_S:
            raise ValueError(f"consent_expiry_s {self.consent_expiry_s} is not within two consent intervals and 30 s")
        if not self.outage_s >= 0:
            raise ValueError(f"outage_s {self.outage_s} is no number of seconds")
        if self.keepalive_s < constants.KEEPALIVE_S:
            raise ValueError(f"keepalive_s {self.keepalive_s} is below 15: RFC 8445 section 11 allows no faster ones")
        if min(self.max_pairs, self.max_local_candidates, self.max_remote_candidates) < 1:
            raise ValueError("a session needs room for one candidate of each side and one pair")
