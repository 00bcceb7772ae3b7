"""Through NATs that hide where a peer has to send: nothing of it runs unless `AgentConfig.hard_nat` asks for it."""
