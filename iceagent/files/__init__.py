"""Files and folders from one side of a session to the other: what is sent, how, and where it may be written."""
