"""What is left to a controller: which pair is checked, nominated, moved to; and who asks it."""
