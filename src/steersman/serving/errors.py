"""What a client is told when a request is not answered, in the shape of OpenAI's errors."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """One status and one sentence.

    Args:
        message: what is wrong and what would be right.
        status: of HTTP.
        code: a word that programs compare, such as ``context_length_exceeded``.
        param: the field that is meant.
    """

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.code, self.param = message, status, code, param

    @property
    def kind(self) -> str:
        """OpenAI's ``type`` of the error."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """As it is sent."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}
