"""How old a message is, though its sender's clock may be wrong."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 10.0
"""How long the smallest difference counts; after two of these a clock that was set is believed."""
JUMP_S: Final = 30.0
"""Nothing is on its way for so long: whose difference grows by more has had its clock set."""
MAX_SENDERS: Final = 10_000


@dataclass(slots=True)
class _Differences:
    """The smallest differences between our clock and a sender's: of this window, and of the one before."""

    since: float
    now: float
    before: float


class MessageAges:
    """Ages by sender. Times are Unix seconds: ours of the receipt, theirs of the sending."""

    def __init__(self) -> None:
        self._senders: OrderedDict[str, _Differences] = OrderedDict()

    def age_s(self, sender: str, sent_at: float, received_at: float) -> float:
        """How much later than the quickest of its sender's messages this one has come, in seconds.

        The first one of a sender counts as new: its clock is not known yet, nor is one that was set.
        """
        difference = received_at - sent_at
        known = self._senders.get(sender)
        if known is None or difference - min(known.now, known.before) > JUMP_S:
            known = self._senders[sender] = _Differences(received_at, difference, difference)
            if len(self._senders) > MAX_SENDERS:
                self._senders.popitem(last=False)
        elif received_at - known.since >= WINDOW_S:
            known.since, known.before, known.now = received_at, known.now, difference
        known.now = min(known.now, difference)
        self._senders.move_to_end(sender)
        return difference - min(known.now, known.before)
