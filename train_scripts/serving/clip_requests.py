"""From the file of a request to its answer: kept for a while, read in another process, translated in its turn."""

import asyncio
import math
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from fastapi import UploadFile

from modeling_flallm import SignLanguageTranslationPipeline
from modeling_flallm.clip_translation_slt import ClipLengthError
from modeling_flallm.word_evidence_slt import clip_times

from ..languages.languages import check_spoken_language
from .file_readers import FileReaders, Places
from .metrics import Metrics
from .model_thread import ModelThread
from .problems import Problem

MOST_BEAMS = 16


@dataclass(frozen=True)
class ClipOptions:
    """The fields of a request beside its file."""

    start: float | None = None
    end: float | None = None
    num_beams: int | None = None
    left_handed: bool | Literal["auto"] = False
    spoken_language: str | None = None

    def checked(self, pipeline: SignLanguageTranslationPipeline) -> "ClipOptions":
        """
        Raises:
            Problem: for values that are impossible for this model.
        """
        for name in ("start", "end"):
            second = getattr(self, name)
            if second is not None and not (math.isfinite(second) and second >= 0):
                raise Problem(422, "options", f"`{name}` must be a number of seconds, 0 or more, got {second}.")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise Problem(422, "options", f"`start` must come before `end`, got {self.start:g} and {self.end:g}.")
        if self.num_beams is not None and not 1 <= self.num_beams <= MOST_BEAMS:
            raise Problem(422, "options", f"`num_beams` must be from 1 to {MOST_BEAMS}, got {self.num_beams}.")
        if self.spoken_language is not None:
            _check_language(self.spoken_language, pipeline)
        if self.left_handed is not False:
            try:
                pipeline.model.vision_model.check_can_be_mirrored()
            except ValueError as error:
                raise Problem(422, "options", str(error)) from error
        return self

    @property
    def writing(self) -> dict[str, Any]:
        """Arguments of `write_sentences`."""
        given = {"num_beams": self.num_beams, "spoken_language": self.spoken_language}
        return {"return_scores": True, **{name: value for name, value in given.items() if value is not None}}

    @property
    def of_stream(self) -> dict[str, Any]:
        """Arguments of a `StreamingTranslator`."""
        return {**self.writing, "left_handed": self.left_handed}


class ClipRequests:
    """Translates the files of requests."""

    def __init__(
        self, model: ModelThread, readers: FileReaders, places: Places, metrics: Metrics, folder: Path | None = None
    ):
        self.model, self._readers, self.places, self._metrics = model, readers, places, metrics
        self._folder = Path(tempfile.mkdtemp(prefix="flallm_serve_", dir=folder))
        metrics.watch("clips", lambda: places.num_taken)

    async def translate(self, file: UploadFile, options: ClipOptions) -> dict[str, Any]:
        """
        The pipeline's answer.

        Raises:
            Problem: if there is no place, or something is wrong with the file.
        """
        modality = self.model.pipeline.processor.modality
        name = Path(file.filename or "").name
        if not modality.is_file(name):
            words = modality.words
            detail = f"The model takes {words.clips}, in files such as {words.example}. Got the name {name!r}."
            raise Problem(415, "unsupported", detail)
        with self.places, self._metrics.time_of("clip"):
            return await self._translate_file(file, Path(name).suffix.lower(), options)

    async def translate_all(self, files: Iterable[UploadFile], options: ClipOptions) -> list[dict[str, Any] | Problem]:
        """The answer for each file, or what is wrong with it."""

        async def one(file: UploadFile) -> dict[str, Any] | Problem:
            try:
                return await self.translate(file, options)
            except Problem as problem:
                return problem

        return await asyncio.gather(*map(one, files))

    def close(self) -> None:
        self._readers.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _translate_file(self, file: UploadFile, suffix: str, options: ClipOptions) -> dict[str, Any]:
        path = await asyncio.to_thread(self._keep, file, suffix)
        try:
            with self._metrics.time_of("read"):
                clip = await asyncio.to_thread(self._read, path, options)
        finally:
            path.unlink(missing_ok=True)
        answers = await asyncio.wrap_future(self.model.translate(clip, options.left_handed, options.writing))
        return answers[0]

    def _keep(self, file: UploadFile, suffix: str) -> Path:
        """A copy on disk under a name of our own."""
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=suffix, delete=False) as copy:
            shutil.copyfileobj(file.file, copy)
        return Path(copy.name)

    def _read(self, path: Path, options: ClipOptions) -> dict[str, Any]:
        values, metadata = self._readers.read(path, options.start, options.end)
        try:
            self.model.pipeline.check_length(len(values), "The clip")
        except ClipLengthError as error:
            raise Problem(422, error.reason, str(error)) from error
        return {
            "frames": torch.from_numpy(values),
            "times": clip_times(metadata, options.start),
            "metadata": metadata,
        }


def _check_language(tag: str, pipeline: SignLanguageTranslationPipeline) -> None:
    if not pipeline.model.prompt_input_names:
        raise Problem(422, "options", "This model writes one language. Leave `spoken_language` out.")
    try:
        check_spoken_language(tag)
    except ValueError as error:
        raise Problem(422, "options", "`spoken_language` must be the tag of a written language, such as de.") from error
