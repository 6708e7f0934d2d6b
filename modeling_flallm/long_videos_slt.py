"""Long videos of several sentences: translated piece by piece, then put together."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .dataset_rows_slt import values_of_row, with_content
from .handedness_slt import AUTO
from .word_evidence_slt import spans_of_words

METADATA_OF_TIMES = ("fps", "total_num_frames", "frames_indices", "duration", "start_in_seconds")
TIMES_OF_A_PIECE = ("video_metadata", "start", "end")
# Overlap of the parts of a piece that is too long for the model, as a fraction of the piece.
OVERLAP_OF_PARTS = 0.2
PIECES_THAT_SHOW_THE_HAND = 5  # ours


class LongVideoTranslation:
    """Mixin for `SignLanguageTranslationPipeline`, whose calls do the work."""

    def translate_long(
        self,
        video: Any,
        segments: Sequence[Any] | None = None,
        start: float | None = None,
        end: float | None = None,
        source_fps: float | None = None,
        **arguments: Any,
    ) -> Iterator[dict[str, Any]]:
        """
        Translate a video longer than one sentence piece by piece, in memory that does not grow with its length.

        Args:
            video: One video in any form that the pipeline takes and that can be read twice, or a row of a data set,
                whose `start`, `end` and `source_fps` take precedence.
            segments: The pieces, `(start, end)` in seconds or what `split_at_rests` of the processor's modality gives,
                in order of time; they may overlap. Default: what `split_at_rests(video, start, end, source_fps)` gives.
            start, end, source_fps: As in a call.
            **arguments: Every other argument of a call.

        Returns:
            An iterator over the answers of `translate_pieces`, empty if nobody moves. Call
            `split_at_rests` yourself to know their number in advance.

        Example:

        ```python
        >>> segments = translator.processor.modality.split_at_rests("talk.mp4")
        >>> for answer in translator.translate_long("talk.mp4", segments):
        ...     print(f"{answer['piece'] + 1} of {len(segments)}", answer["start"], answer["translation_text"])
        ```
        """
        modality = self.processor.modality
        if isinstance(video, dict):
            row = values_of_row(video, (), modality.column_names, modality.has_parts)
            start, end, source_fps = row.get("start", start), row.get("end", end), row.get("source_fps", source_fps)
            video = modality.with_row(with_content(row["video"]), video)
        if segments is None:
            segments = modality.split_at_rests(video, start, end, source_fps)
        elif start is not None or end is not None:
            raise ValueError("`start` and `end` say where to look for segments. With `segments` leave them out.")
        return self.translate_pieces(modality.read_segments(video, segments, source_fps), **arguments)

    def translate_pieces(self, pieces: Iterable[dict[str, Any]], **arguments: Any) -> Iterator[dict[str, Any]]:
        """
        Translate the pieces of one long video, and put the sentences together.

        Args:
            pieces: Pieces as `read_segments` of the processor's modality yields them, in order of time: `{
                "pixel_values_videos": ..., "video_metadata": ..., "start": ..., "end": ..., "caption_start": ...,
                "caption_end": ...}`, for a model of poses with `"pose_values"`. Without the last two, `start` and `end`
                are the times of the caption. Pieces are taken one at a time; with `left_handed="auto"` the first five
                come together, and decide for the whole video.
            **arguments: Arguments of a call except `start`, `end` and `source_fps`. The pieces are read one after the
                other in this process, whatever `num_workers` says.

        Returns:
            An iterator over the answers of a call, each with the `"start"` and `"end"` of its caption in seconds and
            with `"piece"`, the index of its piece. The times increase and do not overlap. Where two pieces overlap,
            words that the second one repeats are removed from it; its text may then be empty. A piece too short for
            the model is extended with its last frame; one too long for it is translated in overlapping parts, each with
            its own answer.
        """
        _check_num_workers(arguments.get("num_workers"))
        left_handed = arguments.get("left_handed", self._forward_params.get("left_handed", False))
        if left_handed == AUTO:
            pieces = iter(pieces)
            first = list(itertools.islice(pieces, PIECES_THAT_SHOW_THE_HAND))
            language = arguments.get("spoken_language", self._forward_params.get("spoken_language"))
            # As a tensor, it is told in the answers also where it is False.
            arguments["left_handed"] = torch.tensor(self.is_signer_left_handed(first, language))
            pieces = itertools.chain(first, pieces)
        spans: deque[tuple[int, float, float]] = deque()
        answers = self(self._parts(pieces, spans), **(arguments | {"num_workers": 0}))
        said, said_until = [], -math.inf
        for answer in answers:
            piece, start, end = spans.popleft()
            alternatives = answer if isinstance(answer, list) else [answer]
            if start < said_until:
                alternatives = [without_repeated_words(alternative, said) for alternative in alternatives]
            span = {"start": round(max(start, said_until), 3), "end": round(end, 3), "piece": piece}
            said, said_until = folded_words(alternatives[0]["translation_text"]), end
            alternatives = [alternative | span for alternative in alternatives]
            yield alternatives if isinstance(answer, list) else alternatives[0]

    def is_signer_left_handed(self, pieces: Iterable[dict[str, Any]], spoken_language: str | None = None) -> bool:
        """
        Whether the model is surer of pieces, as `translate_pieces` takes them, in a mirror: of the first five of them
        together, which are read one after the other. For a prompt, pass the `spoken_language`.
        """
        first = itertools.islice(pieces, PIECES_THAT_SHOW_THE_HAND)
        clips = (self._ready_clip(part, None, None, None) for part in self._parts(first, deque()))
        return sum(self.hand_margins([clip], spoken_language)[0] for clip in clips) > 0

    def _parts(
        self, pieces: Iterable[dict[str, Any]], spans: deque[tuple[int, float, float]]
    ) -> Iterator[dict[str, Any]]:
        """Yield clips short enough for the model, and append the index, start and end of each to `spans`."""
        earlier = (-math.inf, -math.inf)
        values_name = self.processor.modality.input_names[0]
        keys = (values_name, *TIMES_OF_A_PIECE)
        for index, piece in enumerate(pieces):
            missing = [name for name in keys if piece.get(name) is None]
            if missing:
                raise ValueError(f"Each piece must be a dictionary with {', '.join(keys)}, got one without {missing}.")
            if piece["start"] < earlier[0] or piece["end"] <= earlier[1]:
                raise ValueError(
                    f"Pieces must come in order of time, got {piece['start']:g} to {piece['end']:g} seconds after "
                    f"{earlier[0]:g} to {earlier[1]:g}."
                )
            earlier = (piece["start"], piece["end"])
            num_frames = len(piece[values_name])
            for first, stop in self.spans_that_fit(0, num_frames):
                seconds = np.interp([first, stop], [0, num_frames], earlier).tolist()
                start = piece.get("caption_start", earlier[0]) if first == 0 else seconds[0]
                end = piece.get("caption_end", earlier[1]) if stop == num_frames else seconds[1]
                spans.append((index, start, end))
                yield self._held_at_its_end(_part_of_clip(piece, values_name, first, stop), values_name)

    def spans_that_fit(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Halve a span of frames, with an overlap, until the model takes its parts."""
        try:
            self._check_num_tokens(stop - first)
        except ValueError:
            reach = math.ceil((stop - first) * (1 + OVERLAP_OF_PARTS) / 2)
            if reach >= stop - first:
                raise
            yield from self.spans_that_fit(first, first + reach)
            yield from self.spans_that_fit(stop - reach, stop)
        else:
            yield first, stop

    def _held_at_its_end(self, clip: dict[str, Any], values_name: str) -> dict[str, Any]:
        """Repeat the last frame, mostly hands at rest, until the clip is long enough for the model."""
        values, metadata = clip[values_name], clip["video_metadata"]
        num_missing = max(0, self.model.vision_model.get_min_num_frames() - len(values))
        if num_missing == 0:
            return clip
        indices = list(metadata["frames_indices"])
        values = torch.cat([values, values[-1:].expand(num_missing, *values.shape[1:])])
        metadata = {**metadata, "frames_indices": indices + indices[-1:] * num_missing}
        return {**clip, values_name: values, "video_metadata": metadata}


def _check_num_workers(num_workers: Any) -> None:
    if num_workers is not None and not (isinstance(num_workers, int) and num_workers >= 0):
        raise ValueError(f"`num_workers` must be a whole number of 0 or more, got {num_workers!r}.")


def _part_of_clip(clip: dict[str, Any], values_name: str, first: int, stop: int) -> dict[str, Any]:
    """The frames from `first` to `stop` (exclusive) of a processed clip. Of a part, the metadata is cut to the times:
    whatever else it has is of the whole clip."""
    metadata = clip["video_metadata"]
    if stop - first < len(clip[values_name]):
        metadata = {name: metadata[name] for name in METADATA_OF_TIMES if name in metadata}
    return {
        values_name: torch.as_tensor(clip[values_name])[first:stop],
        "video_metadata": {**metadata, "frames_indices": list(metadata["frames_indices"])[first:stop]},
        "start": clip["start"],
    }


def folded_words(text: str) -> list[str]:
    return [text[start:end].casefold() for start, end in spans_of_words(text)]


def without_repeated_words(answer: dict[str, Any], said: list[str]) -> dict[str, Any]:
    """Remove from the beginning of an answer the words with which the previous one ended."""
    text = answer["translation_text"]
    words, spans = folded_words(text), list(spans_of_words(text))
    lengths = range(min(len(said), len(words)), 0, -1)
    num_repeated = next((length for length in lengths if said[-length:] == words[:length]), 0)
    if num_repeated == 0 or len("".join(words[:num_repeated])) < 2:  # one Chinese character is no evidence
        return answer
    behind = spans[num_repeated][0] if num_repeated < len(spans) else len(text)
    rest = {name: answer[name][num_repeated:] for name in ("words", "attention") if name in answer}
    return answer | {"translation_text": text[behind:]} | rest
