"""Sockets of one machine reached from another: forwards over TCP, UDP and Unix sockets, and the pipe, over a link."""
