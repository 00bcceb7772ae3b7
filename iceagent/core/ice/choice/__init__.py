"""The choices of a controller (which pair to check, to nominate, to move to), and the code that asks it."""
