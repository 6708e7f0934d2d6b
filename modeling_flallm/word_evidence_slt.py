"""
What each word of a translation was read from: the text model's attention to the visual tokens, and the seconds of these
tokens in the video.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .sign_encoder_slt import real_first

# Chinese and Japanese put no spaces between words: there, each character counts as a word.
CHARACTERS = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
PIECES_OF_TEXT = re.compile(f"[{CHARACTERS}]|[^\\s{CHARACTERS}]+")
INCOMPLETE_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class ClipTimes:
    """Seconds in the file of each sampled frame `(frames,)`, and where the part that was read starts and ends."""

    frame_seconds: np.ndarray
    start: float
    end: float

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Seconds at positions counted in sampled frames, fractions included; outside the clip, its start or end."""
        num_frames = len(self.frame_seconds)
        first, last = self.frame_seconds[0], self.frame_seconds[-1]
        step = (last - first) / (num_frames - 1) if num_frames > 1 else self.end - self.start
        seconds = np.interp(positions, np.arange(num_frames), self.frame_seconds)
        seconds = seconds + step * (np.minimum(positions, 0) + np.maximum(positions - (num_frames - 1), 0))
        return seconds.clip(self.start, self.end)


@dataclass(frozen=True)
class VisualTokenTimes:
    """
    Seconds in the file of a clip's visual tokens, each `(visual tokens,)`: those of the frame at the centre of what a
    token sees, and those halfway to the tokens before and after it.
    """

    middles: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def clip_times(metadata: Any, start: float | None) -> ClipTimes | None:
    """
    Times of the frames that were sampled; `None` without a frame rate. They count from the `start_in_seconds` that the
    video processor gives, or else from `start`.
    """
    fps = metadata["fps"]
    if fps is None:
        return None
    begin = metadata.get("start_in_seconds")
    if begin is None:
        begin = start or 0.0
    seconds = begin + np.asarray(metadata["frames_indices"]) / fps
    return ClipTimes(seconds, begin, begin + metadata["total_num_frames"] / fps)


def visual_token_centres(vision_model: Any, num_frames: int) -> np.ndarray:
    """The middle of what each visual token sees `(visual tokens,)`, in sampled frames from 0 to the last one."""
    centre, spacing = vision_model.get_centre_and_spacing()
    centres = centre + spacing * np.arange(vision_model.get_num_tokens(num_frames))
    return centres.clip(0, num_frames - 1)


def visual_token_times(vision_model: Any, num_frames: int, times: ClipTimes) -> VisualTokenTimes:
    """The seconds of the visual tokens of a clip."""
    centres = visual_token_centres(vision_model, num_frames)
    half = vision_model.get_centre_and_spacing()[1] / 2
    return VisualTokenTimes(times.at(centres), times.at(centres - half), times.at(centres + half))


def word_evidence(
    text: str, sequence: dict[str, torch.Tensor], times: VisualTokenTimes, processor: Any
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """
    The words of a text with their probabilities and seconds, as the pipeline gives them, and their attention, float32
    `(words, visual tokens)`. The `sequence` that the text was decoded from has `token_ids` `(length,)` and, from
    `replay` of the model, `log_probabilities` `(length - 1,)` and `attention` `(length - 1, visual tokens or more)`.
    """
    words, rows = [], []
    for word, tokens in words_with_tokens(text, sequence["token_ids"].tolist(), processor):
        row = sequence["attention"][tokens].mean(0)[: len(times.middles)].numpy()
        probability = float(sequence["log_probabilities"][tokens].sum().exp())
        words.append({"word": word, "probability": probability, **_interval(row, times)})
        rows.append(row)
    return words, np.stack(rows) if rows else np.zeros((0, len(times.middles)), np.float32)


def attention_to_visual_tokens(attention: torch.Tensor, is_visual: torch.Tensor) -> torch.Tensor:
    """
    Attention `(sequences, written tokens, tokens)` to all tokens, the first of which have `is_visual` `(sequences,
    tokens)` -> the attention to the visual ones `(sequences, written tokens, visual tokens)`, moved to the front.
    """
    num_visual = int(is_visual.sum(1).max())
    places = real_first(is_visual)[:, :num_visual]
    attention = attention.gather(2, places[:, None].expand(-1, attention.shape[1], -1))
    return attention * is_visual.gather(1, places)[:, None]


def _interval(attention: np.ndarray, times: VisualTokenTimes) -> dict[str, float]:
    """The seconds of the peak, and of the visual tokens around it with at least half of its attention."""
    peak = first = last = int(attention.argmax())
    while first > 0 and attention[first - 1] >= attention[peak] / 2:
        first -= 1
    while last < len(attention) - 1 and attention[last + 1] >= attention[peak] / 2:
        last += 1
    seconds = {"start": times.starts[first], "end": times.ends[last], "peak": times.middles[peak]}
    return {name: round(float(value), 3) for name, value in seconds.items()}


def words_with_tokens(text: str, token_ids: list[int], processor: Any) -> Iterator[tuple[str, list[int]]]:
    """Yield the words of a text, each with the positions of its tokens, counted after the sequence's first token."""
    spans = list(_spans_of_tokens(token_ids, processor))
    for start, end in spans_of_words(text):
        tokens = [token - 1 for first, last, group in spans if first < end and last > start for token in group]
        if tokens:
            yield text[start:end], [token for token in tokens if token >= 0]


def _spans_of_tokens(token_ids: list[int], processor: Any) -> Iterator[tuple[int, int, list[int]]]:
    """
    Yield start and end in the decoded text and the positions of the tokens that wrote it: usually one, several where
    a character is made of several tokens. A prefix of the tokens decodes to a prefix of the text.
    """
    tokenizer = processor.tokenizer
    hidden = {*tokenizer.all_special_ids, *getattr(tokenizer, "lang_code_to_id", {}).values()}
    length, group = 0, []
    for position, token_id in enumerate(token_ids):
        if token_id in hidden:
            continue
        group.append(position)
        new_length = len(processor.decode(token_ids[: position + 1]).rstrip(INCOMPLETE_CHARACTER))
        if new_length > length:
            yield length, new_length, group
            length, group = new_length, []


def spans_of_words(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each word, without the punctuation around it."""
    for piece in PIECES_OF_TEXT.finditer(text):
        start, end = piece.span()
        while start < end and _is_punctuation(text[start]):
            start += 1
        while start < end and _is_punctuation(text[end - 1]):
            end -= 1
        if start < end:
            yield start, end


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
