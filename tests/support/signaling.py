"""What signaling does, by hand: one agent's credentials and candidates are carried to another, as text."""

from __future__ import annotations

from iceagent.agent import Agent


async def carry(sender: Agent, receiver: Agent) -> None:
    """Carry credentials, then each candidate as it comes, to their end."""
    receiver.set_remote_credentials(sender.credentials)
    async for candidate in sender.local_candidates():
        receiver.add_remote_candidate(candidate.to_sdp())
    receiver.add_remote_candidate(None)


async def carry_all(sender: Agent, receiver: Agent) -> None:
    """Carry what comes after that end, too, for as long as there may be any."""
    await carry(sender, receiver)
    async for candidate in sender.late_candidates():
        receiver.add_remote_candidate(candidate.to_sdp())
