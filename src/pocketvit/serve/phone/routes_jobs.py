"""Addresses below ``/phone`` with which a page measures: it says hello, asks for jobs, and posts what it found.

Each request carries the pairing token of the address that was printed, and all but the first the session that hello
gave. What is posted is read within limits of size and time, and refused in words where it is not what was asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from pocketvit.serve.http.bodies import Bodies
from pocketvit.serve.http.refusal import Refusal
from pocketvit.serve.phone.jobs import Job, Jobs
from pocketvit.serve.phone.messages import Failed, Hello, Progress, Rows, parsed

MOST_BODY, MOST_HELD = 160_000_000, 400_000_000
"""Bytes of a body: the answer to a photo of 12 megapixels; and of all that are read at once."""
BODY_S = 120.0
MOST_MESSAGE = 65_536
"""Bytes of a message that is neither outputs nor rows."""
POLL_S = 0.1
LONGEST_POLL_S = 25.0
_NO_STORE = {"Cache-Control": "no-store"}
_JSON, _BYTES = "application/json", "application/octet-stream"
Message = TypeVar("Message", bound=BaseModel)


@dataclass
class Desk:
    """What the routes work with: ``app.state.desk``."""

    jobs: Jobs
    token: str
    bodies: Bodies = field(default_factory=lambda: Bodies(MOST_BODY, MOST_HELD, BODY_S))

    def check(self, authorization: str) -> None:
        """Raise ``Refusal`` unless the header holds the token; how long that takes tells nothing of it."""
        scheme, _, given = authorization.strip().partition(" ")
        same = hmac.compare_digest(*(hashlib.sha256(text.encode()).digest() for text in (given.strip(), self.token)))
        if scheme.lower() != "bearer" or not same:
            text = "this is not the address that was printed; open that one, with all that stands behind the #."
            raise Refusal(401, text, {"WWW-Authenticate": "Bearer"})


router = APIRouter(prefix="/phone", tags=["Phone"], include_in_schema=False)
Token = Annotated[str, Header(alias="Authorization", max_length=512)]
Session = Annotated[str, Header(alias="X-Phone-Session", max_length=64)]


def _desk(request: Request, token: str) -> Desk:
    desk: Desk = request.app.state.desk
    desk.check(token)
    return desk


async def _message(desk: Desk, request: Request, kind: type[Message], most: int = MOST_MESSAGE) -> Message:
    async with desk.bodies.read(request.headers, request.receive) as body:
        if len(body) > most:
            raise Refusal(413, f"the message is longer than {most} bytes.")
        return parsed(kind, body)


@router.post("/hello")
async def hello(request: Request, authorization: Token = "") -> Response:
    """A page has opened; the answer is its session."""
    desk = _desk(request, authorization)
    said = await _message(desk, request, Hello)
    return JSONResponse({"session": desk.jobs.greet(said)}, headers=_NO_STORE)


@router.get("/jobs/next")
async def following(
    request: Request,
    authorization: Token = "",
    session: Session = "",
    wait: Annotated[float, Query(ge=0, le=LONGEST_POLL_S)] = 20.0,
) -> Response:
    """The next job, as soon as there is one; 204 where there was none in ``wait`` seconds, 410 where all is done."""
    desk = _desk(request, authorization)
    end = asyncio.get_running_loop().time() + wait
    while (job := desk.jobs.next(session)) is None:
        if asyncio.get_running_loop().time() >= end or await request.is_disconnected():
            return Response(status_code=204, headers=_NO_STORE)
        await asyncio.sleep(POLL_S)
    return JSONResponse(job.document(), headers=_NO_STORE)


@router.get("/jobs/{job_id}/files/{sha256}")
async def file(
    request: Request, job_id: str, sha256: str, authorization: Token = "", session: Session = ""
) -> Response:
    """A model file or pixels of the page's job."""
    job = _desk(request, authorization).jobs.leased(session, job_id)
    if sha256 not in job.files:
        raise Refusal(404, "the job has no such file.")
    return Response(job.files[sha256], media_type=_BYTES, headers=_NO_STORE)


@router.post("/jobs/{job_id}/progress")
async def progress(request: Request, job_id: str, authorization: Token = "", session: Session = "") -> Response:
    """How far the job is; also the page's sign of life."""
    desk = _desk(request, authorization)
    desk.jobs.progress(session, job_id, await _message(desk, request, Progress))
    return Response(status_code=204)


@router.post("/jobs/{job_id}/error")
async def error(request: Request, job_id: str, authorization: Token = "", session: Session = "") -> Response:
    """The job cannot be done."""
    desk = _desk(request, authorization)
    desk.jobs.fail(session, job_id, await _message(desk, request, Failed))
    return Response(status_code=204)


@router.post("/jobs/{job_id}/rows")
async def rows(request: Request, job_id: str, authorization: Token = "", session: Session = "") -> Response:
    """The times of a job of kind ``time``."""
    desk = _desk(request, authorization)
    _of_kind(desk, session, job_id, "time")
    desk.jobs.finish(session, job_id, await _message(desk, request, Rows, MOST_BODY))
    return Response(status_code=204)


@router.post("/jobs/{job_id}/outputs")
async def outputs(request: Request, job_id: str, authorization: Token = "", session: Session = "") -> Response:
    """The answer to a job of kind ``run``: see :func:`pocketvit.serve.phone.messages.unframed`."""
    desk = _desk(request, authorization)
    _of_kind(desk, session, job_id, "run")
    async with desk.bodies.read(request.headers, request.receive) as body:
        desk.jobs.finish(session, job_id, body)
    return Response(status_code=204)


def _of_kind(desk: Desk, session: str, job_id: str, kind: str) -> Job:
    """The page's job, before anything large is read for it."""
    job = desk.jobs.leased(session, job_id)
    if job.kind != kind:
        raise Refusal(409, f"the job is of kind {job.kind}.")
    return job
