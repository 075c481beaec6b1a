"""Bodies of POST requests as closed records (a vote is `round.Submission`), and the endpoint that parses them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steersman.errors import UserError
from steersman.rating.round import Id, Written
from steersman.rating.store import Refused
from steersman.types import Record

RowId = Annotated[int, Field(ge=0, lt=2**53)]
Sender = TypeVar("Sender")
Body = TypeVar("Body", bound=Record)


class Empty(Record):
    """No fields."""


class Join(Record):
    """A rater uses a link; without ``consent``, to go on after an earlier one."""

    token: str
    consent: bool = False


class JoinShared(Record):
    """A participant uses the shared link."""

    key: str
    participant: str
    study: str = ""
    session: str = ""
    consent: bool = False


class Undo(Record):
    """A rater undoes the last vote; ``submission`` names this act, as in `round.Submission`."""

    submission: Id


class Reply(Record):
    """A rater answers a query of the administrator."""

    query: RowId
    text: Annotated[Written, Field(max_length=4_000)]


class Enter(Record):
    """The administrator logs in."""

    token: str


class Invite(Record):
    """The administrator invites a rater."""

    name: Written
    group: Written = ""


class RaterRef(Record):
    """The administrator acts on a rater."""

    rater: RowId


class Ask(Record):
    """The administrator sends a query to the raters of an item."""

    item: RowId
    text: Annotated[Written, Field(max_length=2_000)]


def posted(
    body: type[Body],
    sender: Callable[[Request], Sender],
    handle: Callable[[Sender, Body], Response],
    *,
    invalid: int = 422,
) -> Callable[[Request], Awaitable[Response]]:
    """A POST endpoint: identifies the sender, parses the JSON body, and calls ``handle`` in a thread.

    Args:
        invalid: the status for a body that does not parse.
    """

    async def endpoint(request: Request) -> Response:
        try:
            content = await request.json()
        except (ValueError, RecursionError):
            content = None
        return await run_in_threadpool(respond, request, content)

    def respond(request: Request, content: object) -> Response:
        known = sender(request)  # before the body: strangers learn nothing of its form
        try:
            parsed = body.model_validate(content)
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in detail["loc"])
            raise Refused(f"{where}: {detail['msg']}" if where else detail["msg"], status=invalid) from error
        return handle(known, parsed)

    return endpoint


def refusal(request: Request, error: Exception) -> JSONResponse:
    """The exception handler of `Refused` and of the user's mistakes."""
    if isinstance(error, Refused):
        return JSONResponse({"error": error.reason}, status_code=error.status)
    assert isinstance(error, UserError)
    return JSONResponse({"error": str(error)}, status_code=422)
