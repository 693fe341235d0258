"""What a refusal looks like: one form for all, and never a traceback."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from agent.errors import NetworkError, SlipwayError, StorageError, VerificationError
from sdk.fleet.refusals import RefusedError

log = logging.getLogger("slipway.fleet")
RETRY_S = 5
_BY_STATUS = {404: "missing", 405: "method", 408: "slow", 413: "large", 415: "encoded"}
_WORDS = {
    "missing": ("There is nothing at this address.", "Look it up: /docs"),
    "method": ("This address does not take that method.", "Look it up: /docs"),
    "slow": ("The request did not come in time.", "Try again on a better line."),
    "large": ("The request is longer than is taken.", "Send less at once."),
    "encoded": ("The request is compressed.", "Send it as it is: Content-Encoding: identity"),
    "malformed": ("The request cannot be read.", "Look the form up: /docs"),
}


class Error(BaseModel):
    """Why a request was not carried out."""

    code: str
    what: str
    cause: str = ""
    remedy: str = ""


class Refusal(BaseModel):
    """The body of every answer that is not a success."""

    error: Error
    request_seq: int | None = None
    """Of a replay: the highest number that counted."""


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer beside a success, for its description."""
    return {status: {"model": Refusal} for status in statuses}


def refuse(refused: RefusedError) -> JSONResponse:
    """A refusal, as an answer."""
    error = Error(code=refused.code, what=refused.what, cause=refused.cause, remedy=refused.remedy)
    headers = {}
    if refused.retry_after_s is not None:
        headers["Retry-After"] = str(refused.retry_after_s)
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer" if refused.code == "key" else "Signature"
    body = Refusal(error=error, request_seq=refused.request_seq)
    return JSONResponse(body.model_dump(exclude_none=True), refused.status, headers)


def as_refused(error: SlipwayError) -> RefusedError:
    """What any of our errors is to a client."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, StorageError | NetworkError):
        # The names of files and hosts here are nobody's business.
        return RefusedError(
            "down",
            "The server cannot answer now.",
            cause="Its database or its disk cannot be used, or too much is waiting.",
            remedy="Nothing was changed. Come again later.",
            retry_after_s=RETRY_S,
        )
    code = "down" if isinstance(error, VerificationError) else "impossible"
    return RefusedError(code, error.what, cause=error.cause, remedy=error.remedy)


def answer_to(error: Exception, path: str) -> JSONResponse:
    """The answer where a request ended in an error; noted in the log, unless it is the client's."""
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, SlipwayError):
        found = as_refused(error)
        level = logging.WARNING if found.status >= 500 else logging.INFO
        if found.code == "missing":  # devices look for the next root, publishers for what is new
            level = logging.DEBUG
        log.log(level, "refused", extra={"path": path, "code": found.code, "what": error.what})
        return refuse(found)
    log.error("a bug", exc_info=error, extra={"path": path})
    return refuse(
        RefusedError(
            "bug",
            "This is a bug in Slipway.",
            remedy="The server's log has the traceback; please report it.",
        )
    )


def _of_http(error: HTTPException) -> JSONResponse:
    code = _BY_STATUS.get(error.status_code, "malformed")
    what, remedy = _WORDS[code]
    answer = refuse(RefusedError(code, what, remedy=remedy))
    if error.headers:
        answer.headers.update(error.headers)
    if code in ("slow", "large", "encoded"):
        answer.headers["Connection"] = "close"  # the rest of the body is not waited for
    return answer


def handle_errors(app: FastAPI) -> None:
    """Have the app answer with refusals."""

    @app.exception_handler(SlipwayError)
    async def refused(request: Request, error: SlipwayError) -> JSONResponse:
        return answer_to(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]
        )
        return refuse(RefusedError("malformed", f"The request cannot be read: {told}."[:500]))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer_to(error, request.url.path)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return answer_to(error, request.url.path)
