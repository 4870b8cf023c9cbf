"""What people and programs may know about updates: ``GET /v1/updates``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from pocketvit.serve.http.routes_v2 import ERRORS, services_of

router = APIRouter(prefix="/v1", tags=["Updates"])


class Following(BaseModel):
    """How an artifact and its channel stand."""

    name: str
    version: str = Field(description="What runs.")
    counter: int = Field(description="Of what runs; 0 is what the server was started with.")
    highest: int = Field(description="The highest counter that was seen with a good signature.")
    previous: int = Field(description="Counter that a roll back leads to; 0 is what the server was started with.")
    refused: dict[str, str] = Field(description="SHA-256 of a manifest -> why that version is not taken.")
    polled: str | None = Field(description="When the channel was looked at last, in UTC.")
    error: str | None = Field(description="What went wrong then.")


@router.get("/updates", responses=ERRORS)
async def updates(request: Request) -> list[Following]:
    """Every artifact that follows a channel: the version that runs, what was refused and why, and the last look."""
    return [Following.model_validate(channel.status()) for channel in services_of(request).channels.values()]
