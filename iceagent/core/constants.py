"""Every timer and limit of the core, each with its source. Seconds unless the name says otherwise."""

from __future__ import annotations

from typing import Final

# Pacing and retransmission of connectivity checks.
TA_S: Final = 0.050  # RFC 8445 section 14.2: at most one new check per Ta
TA_OFFERED_S: Final = 0.020  # ours: what agents propose to each other (RFC 8445 section 14.2); see docs/timing.md
TA_MIN_S: Final = 0.005  # RFC 8445 section 14.2: no agent may pace faster than this
TA_MAX_S: Final = 10.0  # ours: what a peer may propose at most
PACER_BURST: Final = 16  # ours: checks of all agents together that may go at once after a pause
CHECK_RTO_MIN_S: Final = 0.5  # RFC 8445 section 14.3
CHECK_RTO_MAX_S: Final = (
    1.0  # ours: RFC 8445 section 14.1 warns that a large RTO lets one lost packet cost the best pair
)
CHECK_TIMEOUT_S: Final = 39.5  # RFC 8489 section 6.2.1: Rc = 7, Rm = 16 at an RTO of 500 ms
CHECK_RC: Final = 7  # RFC 8489 section 6.2.1
CHECK_RM: Final = 16  # RFC 8489 section 6.2.1
CHECK_UNREACHABLE_RC: Final = 3  # ours: sends granted to a check whose destination ICMP calls unreachable
CHECK_UNREACHABLE_RM: Final = 4  # ours: and the wait after the last of them, in RTOs
STOPPED_S: Final = 0.1  # ours: what is done so late says that we did not run; a busy machine is late by less, mostly
CHECK_STEADY_GAP_S: Final = 1.0  # ours: between the retransmissions of a check after a restart
MAX_STEADY_CHECKS: Final = 12  # ours: retransmitted so at a time; the others double their gaps

# Concluding.
NOMINATION_SLACK_S: Final = 0.030  # ours: a better pair unanswered for one RTT plus this is no longer waited for
NOMINATION_SETTLE_S: Final = 3.0  # RFC 8445 section 8.3.1: how long an aggressive peer's nominations may go on
NOMINATION_PATIENCE_S: Final = 0.5  # ours: longest wait from the first valid pair to its nomination
NOMINATION_PATIENCE_RELAYED_S: Final = 2.0  # ours: the same for a relayed pair that could not be left again
NEAR_RTT_S: Final = 0.010  # ours: a peer as near as this may be of one site, where private addresses are routed
SWITCH_FLOOR_S: Final = 0.1  # ours: no controller may switch pairs more often
SEARCH_S: Final = 10.0  # ours: failed direct pairs are checked again this long after a relayed one was selected
SEARCH_MAX_S: Final = 600.0  # ours: the wait doubles up to this
SEARCH_FLOOR_S: Final = 5.0  # ours: no controller may search more often
MAX_SEARCHED: Final = 8  # ours: failed pairs checked again in one round
NOMINATION_STEADY_SENDS: Final = 7  # ours: a nominating check is sent twice 0.5 s apart, then every second; 8 s in all
PATIENCE_S: Final = 39.5  # RFC 8863 section 4: no failure before this, with or without pairs

# Consent and keepalives.
CONSENT_INTERVAL_S: Final = 5.0  # RFC 7675 section 5.1
CONSENT_INTERVAL_LITE_S: Final = 15.0  # ours: of a lite agent, of which one machine has thousands, if not more often
CONSENT_JITTER: Final = 0.2  # RFC 7675 section 5.1: each interval is 0.8 to 1.2 times the basic one
CONSENT_GRID_S: Final = 0.1  # ours: consent checks fall on multiples of it, so that agents wake their process together
CONSENT_EXPIRY_S: Final = 30.0  # RFC 7675 section 5.1
CONSENT_SUSPICION_S: Final = 0.1  # ours: a consent check unanswered this long (plus three RTTs) starts a probing one
DISCONNECTED_AFTER_S: Final = 7.0  # ours: silence after which the path is reported disconnected; consent still stands
DISCONNECTED_PROBE_S: Final = 2.0  # ours: a probing check must have gone unanswered this long, too
DATA_SUSPICION_MIN_S: Final = 0.2  # ours: data sent and nothing heard for this long, or 1.5 RTTs and 0.1 s
DATA_SUSPICION_MAX_S: Final = 0.5  # ours: but no longer than this
PROBE_RTT_S: Final = 0.2  # ours: taken for a path whose round trip is not known
PROBE_RTO_MIN_S: Final = 0.06  # ours: between the first retransmissions of a probing check, else half an RTT
PROBE_RTO_MAX_S: Final = 0.15  # ours: but no longer than this
FALTER_SLACK_S: Final = 0.05  # ours: beside an RTT and a half, for the answer to the last of them
FALTER_SENDS: Final = 3  # ours: probing checks unanswered before another pair is nominated
FALTER_SENDS_LOSSY: Final = 6  # ours: the same on a line that is known to lose packets
PROBE_EAGER_SENDS: Final = (
    8  # ours: probing checks after those, sent more seldom; by then a line has hardly just lost them
)
PROBE_EAGER_GAP_S: Final = 0.25  # ours: between them; the rest follows every second
STRANDED_SENDS: Final = 8  # ours: probing checks unanswered, on the path and all backups, before a restart is worth it
STRANDED_SENDS_LOSSY: Final = 12  # ours: the same on a line that is known to lose packets
RESTART_INTERVAL_S: Final = 10.0  # ours: between two restarts because of that; silence beyond it is waited for
WARM_BACKUPS: Final = 2  # ours: valid pairs beside the one in use whose answers are kept fresh
SWITCH_GAIN_S: Final = 0.010  # ours: a path is clearly better if its RTT is shorter by this and by a quarter
SWITCH_GAIN: Final = 0.25  # ours
SWITCH_SAMPLES: Final = 3  # ours: RTT samples that a path needs before it counts as clearly better
SWITCH_INTERVAL_S: Final = 10.0  # ours: between two nominations for the sake of a better path
BACKUP_PROBE_S: Final = 7.5  # ours: while disconnected, the other valid pairs are checked this often
RESTART_LINGER_S: Final = 30.0  # ours: a session replaced by a restart answers checks while consent to it may last
RESTART_PATIENCE_S: Final = 10.0  # ours: how long a restart may stay unanswered once no other path is left
KEEPALIVE_S: Final = 15.0  # RFC 8445 section 11: Tr

# Limits.
MAX_PAIRS: Final = 100  # RFC 8445 section 6.1.2.5
MAX_LOCAL_CANDIDATES: Final = 64  # ours
MAX_REMOTE_CANDIDATES: Final = 128  # ours
MAX_FRUITLESS_REFLEXIVE: Final = 16  # ours: peer-reflexive candidates of one host that do not answer
MAX_EARLY_CHECKS: Final = 64  # ours: authenticated checks kept until the peer's credentials arrive
MAX_TRANSACTIONS: Final = 512  # ours: outstanding check transactions, cancelled ones included
MAX_HELD_DATAGRAMS: Final = 64  # ours: data that overtook the answer to our check
MAX_HELD_BYTES: Final = 96 * 1024  # ours
MAX_REMOTE_CREDENTIALS: Final = 32  # ours: credentials of the peer that are known again when they are repeated
MAX_RETIRED_SESSIONS: Final = 4  # ours: restarted sessions that still answer
MAX_QUEUED_TRANSMITS: Final = 1024  # ours: the shell drains after each call
MAX_QUEUED_EVENTS: Final = 4096  # ours

# Text forms, RFC 8839 section 5.
MAX_CANDIDATE_TEXT: Final = 2048  # ours: characters of one candidate attribute
MAX_CANDIDATE_EXTENSIONS: Final = 32  # ours
FOUNDATION_CHARACTERS: Final = 32  # RFC 8839 section 5.1
UFRAG_CHARACTERS: Final = (4, 256)  # RFC 8839 section 5.4: least and most
PWD_CHARACTERS: Final = (22, 256)  # RFC 8839 section 5.4: least and most

# STUN messages and client transactions.
STUN_RTO_S: Final = 0.5  # RFC 8489 section 6.2.1
STUN_RC: Final = 7  # RFC 8489 section 6.2.1: requests sent in all
STUN_RM: Final = 16  # RFC 8489 section 6.2.1: RTOs waited after the last one
STUN_TI_S: Final = 39.5  # RFC 8489 section 6.2.2: patience over reliable transports
STUN_MAX_RC: Final = 32  # ours: doublings beyond this outlast any patience
STUN_MAX_TRANSACTIONS: Final = 1024  # ours: outstanding transactions and unread events of one client
STUN_MAX_ATTRIBUTES: Final = 256  # ours: read of one message; 64 KiB could hold 16,000

# The Binding server, per source: an IPv4 address or an IPv6 /64.
STUN_SOURCE_RATE_PER_S: Final = 200.0  # ours: a carrier's NAT hides thousands behind one address
STUN_SOURCE_BURST: Final = 1000.0  # ours
STUN_FREE_BYTES: Final = 4096  # ours: sent to one source in a second beyond what came: 340 answers to bare questions
STUN_TOTAL_BYTES: Final = 256 << 10  # ours: sent to all in a second, whatever came: 5,000 clients may ask at once
STUN_MAX_SOURCES: Final = 65536  # ours: about 15 MB

# Port mapping: NAT-PMP and PCP.
PORT_MAPPING_SERVER_PORT: Final = 5351  # RFC 6886 section 3.1, RFC 6887 section 19.1
PORT_MAPPING_LIFETIME_S: Final = 7200  # RFC 6886 section 3.3: recommended; also fits RFC 6887 section 15
PORT_MAPPING_MAX_LIFETIME_S: Final = 86400  # RFC 6887 section 15.1: what is granted beyond a day is not believed
PORT_MAPPING_RENEWAL_GAP_S: Final = 4.0  # RFC 6887 section 11.2.1: renewals are at least so far apart
NATPMP_RTO_S: Final = 0.25  # RFC 6886 section 3.1: doubled with each request
NATPMP_REQUESTS: Final = 9  # RFC 6886 section 3.1: then there is no NAT-PMP here
PCP_IRT_S: Final = 3.0  # RFC 6887 section 8.1.1
PCP_MRT_S: Final = 1024.0  # RFC 6887 section 8.1.1
PCP_JITTER: Final = 0.1  # RFC 6887 section 8.1.1
PCP_ANNOUNCE_SPREAD_S: Final = 5.0  # RFC 6887 section 14.1.3: mappings are made anew within this time
PORT_MAPPING_RETRY_MIN_S: Final = 30.0  # ours: after a refusal that may pass
PORT_MAPPING_RETRY_MAX_S: Final = 1800.0  # RFC 6887 section 15: no error is believed for longer
PORT_MAPPING_FALLBACK_S: Final = 0.5  # ours: PCP's head start over NAT-PMP where the gateway is silent
PORT_MAPPING_RELEASES: Final = 3  # ours: requests of a release, NATPMP_RTO_S apart
PORT_MAPPING_MAX_EVENTS: Final = 64  # ours

# NAT behaviour discovery, RFC 5780.
DISCOVERY_RTO_S: Final = 0.25  # ours: silence is a result here, so each test may cost this wait
DISCOVERY_RC: Final = 4  # ours
DISCOVERY_RM: Final = 4  # ours: with the above, silence after 2.75 s
DISCOVERY_MAX_SERVERS: Final = 8  # ours
DISCOVERY_PADDING: Final = 1600  # ours: bytes, more than an Ethernet frame takes; RFC 5780 section 7.6
