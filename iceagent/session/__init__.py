"""From a code to a link: signaling, agent and link in one step, and the session that keeps them together."""
