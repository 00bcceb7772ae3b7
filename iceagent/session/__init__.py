"""From a code to a link: signaling, agent and link in one step, and what keeps them together."""
