"""What the server answers, for its OpenAPI description."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE = {"translation_text": "tonight the doctor will carry a red chair .", "score": -0.08, "confidence": 0.93}


class Translation(BaseModel):
    """What the pipeline says of a clip, which may be more than this: see `return_scores` and `left_handed` there."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{**EXAMPLE, "is_familiar": True, "is_measured": True}]}
    )

    translation_text: str = Field(description="The sentence.")
    score: float = Field(description="Mean log probability of its tokens.")
    confidence: float | None = Field(
        default=None, description="How probably the sentence is correct, 0 to 1. Only of models that are calibrated."
    )
    left_handed: bool | None = Field(default=None, description="Whether the clip was mirrored, if that was asked.")


class Error(BaseModel):
    """What was wrong, or why to wait."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"detail": "The file is not a video."}]})

    detail: str = Field(description="A sentence for people.")
    retry_after_seconds: int | None = Field(default=None, description="When to try again, if waiting helps.")


class OneOfABatch(BaseModel):
    """The translation of one of several files, or what was wrong with it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"file": "clip.mp4", "translation": EXAMPLE, "error": None},
                {"file": "notes.txt", "translation": None, "error": {"detail": "The file is not a video."}},
            ]
        }
    )

    file: str = Field(description="Name of the file, as it was sent.")
    translation: Translation | None = None
    error: Error | None = None


class Health(BaseModel):
    """Whether the server works, and how much of it is in use."""

    status: str = Field(description='"ready", or "failed" with the status 503.')
    model: str = Field(description="Name of the model.")
    streams: int = Field(description="Streams that are open.")
    max_streams: int
    clips: int = Field(description="Clips in work or waiting.")
    max_waiting_clips: int


# Of an endpoint that can fail in each of these ways.
RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "A file that cannot be read."},
    413: {"model": Error, "description": "Too many bytes, pixels or seconds."},
    415: {"model": Error, "description": "A file of a kind that the model does not take."},
    422: {"model": Error, "description": "A field with an impossible value, or a clip that is too short or too long."},
    500: {"model": Error, "description": "A mistake of the server."},
    503: {"model": Error, "description": "Full. `Retry-After` says when to try again."},
}
