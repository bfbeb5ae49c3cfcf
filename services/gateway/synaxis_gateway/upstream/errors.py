"""What can go wrong between us and a provider before there is an answer to read."""

from __future__ import annotations


class UpstreamError(Exception):
    """No answer, or no more of it. The message is ours: it holds nothing that the provider sent."""


class NoConnection(UpstreamError):
    """The provider never got the request: name, address, connection or TLS failed."""


class Reset(UpstreamError):
    """The provider closed the connection without a byte of an answer, or in the midst of one."""

    def __init__(self, message: str, *, had_begun: bool = True) -> None:
        super().__init__(message)
        self.had_begun = had_begun
        """Whether any byte of an answer had come."""


class Unreadable(UpstreamError):
    """What came is not HTTP, breaks off against its own word, or is larger than we take."""


class TooLate(Exception):
    """The permit for a request was over when the connection was there: nothing has been sent."""
