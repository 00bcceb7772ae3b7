"""Whether a path still works and the session lives: consent, keepalives, patience."""
