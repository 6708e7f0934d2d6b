"""What a client did wrong, or why it has to wait: a plain sentence with the status of HTTP, and nothing of our own."""

from typing import Any

SECONDS_UNTIL_NEXT_TRY = 5


class Problem(Exception):
    """
    Args:
        status: of HTTP.
        kind: one word for the metrics.
        retry_after_seconds: when to try again, for those who only have to wait.
    """

    def __init__(self, status: int, kind: str, detail: str, retry_after_seconds: int | None = None):
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self):
        return Problem, (self.status, self.kind, self.detail, self.retry_after_seconds)

    @property
    def headers(self) -> dict[str, str] | None:
        return None if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}

    @property
    def content(self) -> dict[str, Any]:
        waiting = {} if self.retry_after_seconds is None else {"retry_after_seconds": self.retry_after_seconds}
        return {"detail": self.detail, **waiting}


def full(what: str) -> Problem:
    detail = f"The server is busy: {what}. Try again in {SECONDS_UNTIL_NEXT_TRY} seconds."
    return Problem(503, "full", detail, SECONDS_UNTIL_NEXT_TRY)


def internal() -> Problem:
    return Problem(500, "internal", "The server could not translate this. Its log says why.")
