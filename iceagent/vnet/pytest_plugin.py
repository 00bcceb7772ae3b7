"""The pytest fixture `vnet`."""
