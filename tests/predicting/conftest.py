"""The command line in this process, as in the tests of `cli`."""

from cli.conftest import call, refused

__all__ = ["call", "refused"]
