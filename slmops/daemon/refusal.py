"""A request that the daemon will not answer, and why.

It knows HTTP's status numbers and OpenAI's names for reasons, and nothing of a server.
"""

from __future__ import annotations

from typing import ClassVar

from slmops.errors import ModelError, SlmopsError

BAD_REQUEST = 400
NOT_FOUND = 404
TOO_LARGE = 413
TOO_MANY = 429
CLIENT_GONE = 499
SERVER_ERROR = 500
NOT_READY = 503


class RefusedError(SlmopsError):
    """A request to the daemon cannot be answered as it is; it is told so in OpenAI's error shape."""

    code: ClassVar[str] = "SLM-REQUEST"

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str | None = None,
        retry_after: int | None = None,
        param: str | None = None,
    ) -> None:
        """Refuse with an HTTP status; `reason` is OpenAI's `code`, `retry_after` is in seconds.

        `param` is the field of the request that is to blame.
        """
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.param = param


class WorkerLostError(ModelError):
    """The worker of a version ended, or was ended, while it was asked."""

    code: ClassVar[str] = "SLM-WORKER"
