"""Whose turn it is: a limit for each visitor, and turns in which nobody waits for all the files of another one."""

import contextlib
import ipaddress
import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from decoding import VideoProblem

SECONDS_BETWEEN_REPORTS = 3.0


def visitor_of(request: Any) -> str:
    """The address that a request (`gr.Request`) came from; on the Hub, the one that called its proxies."""
    if os.environ.get("SPACE_ID"):
        # Each proxy adds its caller at the end; the visitor may have made up what is before that.
        for address in reversed(request.headers.get("x-forwarded-for", "").split(",")):
            if _is_public(address.strip()):
                return address.strip()
    return request.client.host if request.client else ""


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


class Visitors:
    """Counts the requests that wait or are being answered, at most `most` in all and `most_of_one` of one visitor."""

    def __init__(self, most: int, most_of_one: int):
        self.most, self.most_of_one = most, most_of_one
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one_more(self, visitor: str) -> Iterator[None]:
        """
        Raises:
            VideoProblem: if there are too many.
        """
        with self._lock:
            if self._counts[visitor] >= self.most_of_one:
                raise VideoProblem("error_too_many_of_yours", limit=self.most_of_one)
            if self._counts.total() >= self.most:
                raise VideoProblem("error_too_many")
            self._counts[visitor] += 1
        try:
            yield
        finally:
            with self._lock:
                self._counts -= Counter({visitor: 1})  # drops what is no longer above zero


class Turns:
    """
    Places that requests take in turns. The visitor whose last turn was longest ago goes first, with the oldest of their
    requests. One visitor has one place at a time.
    """

    def __init__(self, num_places: int):
        self.num_places = num_places
        self.condition = threading.Condition()
        self.waiting: list[Turn] = []
        self.served: list[Turn] = []
        self._last_turns: dict[str, int] = {}
        self._num_turns = 0

    def join(self, visitor: str) -> "Turn":
        """Join the line, until the `with` block of the returned turn ends."""
        with self.condition:
            turn = Turn(self, visitor)
            self.waiting.append(turn)
            self.serve()
        return turn

    def serve(self) -> None:
        """Give away free places; call it with the condition held."""
        while len(self.served) < self.num_places:
            served = {turn.visitor for turn in self.served}
            turn = next((turn for turn in self.line() if turn.visitor not in served), None)
            if turn is None:
                break
            self.waiting.remove(turn)
            self.served.append(turn)
            self._num_turns += 1
            self._last_turns[turn.visitor] = self._num_turns
        here = {turn.visitor for turn in [*self.waiting, *self.served]}
        self._last_turns = {visitor: turn for visitor, turn in self._last_turns.items() if visitor in here}
        self.condition.notify_all()

    def line(self) -> "list[Turn]":
        """Waiting turns in their order: first one of each visitor, then a second one of each, ..."""
        keys, counts = {}, Counter()
        for number, turn in enumerate(self.waiting):
            counts[turn.visitor] += 1
            keys[turn] = (counts[turn.visitor], self._last_turns.get(turn.visitor, 0), number)
        return sorted(self.waiting, key=keys.get)


class Turn:
    """A request that waits for its place or has it; see `Turns`."""

    def __init__(self, turns: Turns, visitor: str):
        self.turns, self.visitor = turns, visitor

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: Any) -> None:
        self.leave()

    def leave(self) -> None:
        """Release the place; may be called more than once."""
        with self.turns.condition:
            for turns in (self.turns.waiting, self.turns.served):
                if self in turns:
                    turns.remove(self)
            self.turns.serve()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the turn, at most this long. Returns whether it has come."""
        with self.turns.condition:
            return self.turns.condition.wait_for(lambda: self in self.turns.served, seconds)

    def num_before(self) -> int:
        """How many requests are ahead, if nobody else comes."""
        with self.turns.condition:
            return len(self.turns.served) + self.turns.line().index(self) if self in self.turns.waiting else 0
