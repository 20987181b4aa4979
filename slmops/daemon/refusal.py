"""A request that the daemon will not answer, and why.

It knows HTTP's status numbers and OpenAI's names for reasons, and nothing of a server.
"""

from __future__ import annotations

from typing import Any, ClassVar

from slmops.errors import ModelError, SlmopsError

BAD_REQUEST = 400
UNKNOWN = 401
FORBIDDEN = 403
NOT_FOUND = 404
LATE = 408
TOO_LARGE = 413
UNSUPPORTED = 415
TOO_MANY = 429
CLIENT_GONE = 499
SERVER_ERROR = 500
NOT_READY = 503
KINDS = {
    UNKNOWN: "authentication_error",
    FORBIDDEN: "permission_error",
    TOO_MANY: "rate_limit_error",
    SERVER_ERROR: "server_error",
    NOT_READY: "server_error",
}
"""OpenAI's `type` of an error, by status; all others are invalid_request_error."""


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


def error_body(
    status: int, message: str, reason: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return an error in OpenAI's shape; `param` is the field of the request that is to blame."""
    kind = KINDS.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": reason}}


class WorkerLostError(ModelError):
    """The worker of a version ended, or was ended, while it was asked."""

    code: ClassVar[str] = "SLM-WORKER"
