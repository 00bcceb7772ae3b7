"""Signs that the two agents do not have each other's description, distinguished from noise that anybody can send.

Whoever knows an address of ours can send it checks that fail authentication. Such noise must not count. A sign counts
only if it needs knowledge that somebody off the path does not have: the random ufrags of both sides and an address that
the peer has signalled, our password, or the transaction id of a check in progress. It also counts if the packet comes
from an address and port that the peer has signalled, since only a forged source could imitate that.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CredentialSigns:
    """What the messages of one session say about who knows whose credentials.

    Attributes:
        requests_right: checks keyed with our password that name both sides rightly.
        answers_right: answers keyed with the password we hold of the peer.
        requests_keyed_wrong: checks from a host of the peer's that name both sides rightly, and fail integrity: the
            peer holds another password of ours.
        requests_naming_old: checks from a host of the peer's that name the peer, but not us: it holds an old
            description of ours.
        requests_of_nobody: checks from an address and port that the peer has signalled, which name somebody else and
            are not keyed with our password: both sides hold descriptions of others.
        requests_of_another: checks keyed with our password, by somebody whose name we do not know: we hold an old
            description of the peer's.
        answers_keyed_wrong: answers to checks of ours that fail integrity: we hold another password of the peer's.
        answers_refusing: answers 400 or 401 to checks of ours: the peer does not accept what we key them with.
    """

    requests_right: int = 0
    answers_right: int = 0
    requests_keyed_wrong: int = 0
    requests_naming_old: int = 0
    requests_of_nobody: int = 0
    requests_of_another: int = 0
    answers_keyed_wrong: int = 0
    answers_refusing: int = 0

    @property
    def ours_is_not_known(self) -> bool:
        """Whether the peer seems to hold another description of us than the present one."""
        signs = self.requests_keyed_wrong + self.requests_naming_old + self.requests_of_nobody
        return bool(signs) and not self.requests_right

    @property
    def theirs_is_not_known(self) -> bool:
        """Whether we seem to hold another description of the peer than its present one."""
        signs = self.requests_of_another + self.requests_of_nobody + self.answers_keyed_wrong + self.answers_refusing
        return bool(signs) and not self.answers_right
