"""What a session is about: candidates, pairs and the list of them, credentials, priorities."""
