"""Bytes on the wire, read and written by pure functions: no sockets here."""
