"""The data of a session: candidates, pairs and the list of them, credentials, priorities."""
