"""What a client is told when something is wrong: a status, and OpenAI's form of errors."""

from __future__ import annotations

from ..errors import DeviceLostError, ImageError, RequestError, UserError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        code: one word for programs.
        message: for people: what is wrong, and how to mend it.
        param: the field it is about.
        retry_after: seconds after which another try may succeed.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, object]:
        """The body of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Those that belong to the error."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def problem_of(error: UserError) -> ApiError:
    """The pipeline's error as a client sees it."""
    for kind, status, code in _KNOWN:
        if isinstance(error, kind):
            return ApiError(status, code, str(error))
    return ApiError(500, "internal_error", "the server failed; its log has more")


#: The first that fits counts. Any other error may name files of the server, and is not shown.
_KNOWN: tuple[tuple[type[UserError], int, str], ...] = (
    (DeviceLostError, 503, "device_lost"),
    (ImageError, 400, "invalid_image"),
    (RequestError, 400, "invalid_request"),
)


def cancelled() -> ApiError:
    """The client took its request back."""
    return ApiError(409, "cancelled", "the request was cancelled")


def too_late() -> ApiError:
    """The time a request may take is over."""
    return ApiError(408, "timeout", "the server was too busy to answer in time (try again later)", retry_after=10)


def out_of_memory() -> ApiError:
    """The device has too little memory, whatever was tried."""
    return ApiError(503, "out_of_memory", "the device's memory ran out (ask for a smaller picture)", retry_after=10)


def stopping() -> ApiError:
    """The server is being stopped."""
    return ApiError(503, "stopping", "the server is being stopped (try again later)", retry_after=10)
