"""
What each word of a translation was read from: the text model's attention to the visual tokens, and the seconds of these
tokens in the video.
"""

import copy
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

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
    Seconds in the file of a clip's visual tokens, each `(visual tokens,)`: those of the frame in the middle of what a
    token sees, and those halfway to the tokens before and behind it.
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


def replay(model: PreTrainedModel, sequences: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Read generated sequences `(sequences, length)` once more in one pass, which gives for each token but the first the
    log probability `(sequences, length - 1)` and the attention `(sequences, length - 1, visual tokens)` with which it
    was written, whatever the way of decoding. `inputs` are those of `generate`, once for each clip.

    Raises:
        ValueError: for a text model that gives no attention weights.
    """
    replay_inputs = _replay_prompt if model.system.is_prompted else _replay_decoder
    return replay_inputs(model, sequences, **inputs)


def _replay_decoder(
    model: PreTrainedModel, sequences: torch.Tensor, encoder_outputs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `replay`, for the decoder of an encoder-decoder and its attention to the encoder's outputs."""
    repeats = len(sequences) // len(encoder_outputs.last_hidden_state)
    encoder_outputs = type(encoder_outputs)(
        last_hidden_state=encoder_outputs.last_hidden_state.repeat_interleave(repeats, 0),
        attention_mask=encoder_outputs.attention_mask.repeat_interleave(repeats, 0),
    )
    output = _eager_twin(model.text_model)(
        encoder_outputs=encoder_outputs,
        attention_mask=encoder_outputs.attention_mask,
        decoder_input_ids=sequences[:, :-1],
        output_attentions=True,
        use_cache=False,
        return_dict=True,
    )
    log_probabilities = -torch.nn.functional.cross_entropy(
        output.logits.float().transpose(1, 2), sequences[:, 1:], reduction="none"
    )
    attention = torch.stack([layer.float().mean(1) for layer in output.cross_attentions]).mean(0)
    return log_probabilities, attention


def _replay_prompt(
    model: PreTrainedModel,
    sequences: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    visual_features: torch.Tensor,
    visual_attention_mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `replay`, for a text model that reads prompt and sentence as one text."""
    repeats = len(sequences) // len(input_ids)
    written = sequences[:, 1:]
    prompts = input_ids.repeat_interleave(repeats, 0)
    prompt_mask = attention_mask.repeat_interleave(repeats, 0)
    output = _eager_twin(model)(
        input_ids=torch.cat([prompts, written[:, :-1]], 1),
        attention_mask=torch.cat([prompt_mask, torch.ones_like(written[:, :-1])], 1),
        visual_features=visual_features.repeat_interleave(repeats, 0),
        visual_attention_mask=visual_attention_mask.repeat_interleave(repeats, 0),
        output_attentions=True,
        use_cache=False,
    )
    if not output.attentions or any(layer is None for layer in output.attentions):
        raise ValueError(
            f"The text model {model.config.text_config.model_type!r} gives no attention weights, so its words "
            "cannot be given seconds. Leave out `return_timestamps` and `return_attention`."
        )
    num_written = written.shape[1]
    log_probabilities = -torch.nn.functional.cross_entropy(
        output.logits[:, -num_written:].float().transpose(1, 2), written, reduction="none"
    )
    attention = torch.stack([layer[:, :, -num_written:].float().mean(1) for layer in output.attentions]).mean(0)
    return log_probabilities, _to_visual_tokens(attention, prompts == model.config.video_token_id)


def _eager_twin(model: PreTrainedModel) -> PreTrainedModel:
    """
    A copy with all parameters and buffers shared and attention computed step by step: sdpa and flash attention give no
    attention weights. The model itself stays untouched, also for what runs beside this in another thread.
    """
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")
    return twin


def _to_visual_tokens(attention: torch.Tensor, is_visual: torch.Tensor) -> torch.Tensor:
    """
    Attention `(sequences, written tokens, tokens)` to all tokens, of which the first are prompts with `is_visual`
    `(sequences, prompt tokens)` -> what of it goes to the visual tokens `(sequences, written tokens, visual tokens)`,
    moved to the front, with rows of sum 1.
    """
    num_visual = int(is_visual.sum(1).max())
    places = (~is_visual).long().argsort(dim=1, stable=True)[:, :num_visual]
    attention = attention.gather(2, places[:, None].expand(-1, attention.shape[1], -1))
    attention = attention * is_visual.gather(1, places)[:, None]
    return attention / attention.sum(2, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)


def word_evidence(
    text: str, sequence: dict[str, torch.Tensor], times: VisualTokenTimes, processor: Any
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """
    The words of a text with their probabilities and seconds, as the pipeline gives them, and their attention, float32
    `(words, visual tokens)`. The `sequence` that the text was decoded from has `token_ids` `(length,)` and, from
    `replay`, `log_probabilities` `(length - 1,)` and `attention` `(length - 1, visual tokens or more)`.
    """
    words, rows = [], []
    for word, tokens in words_with_tokens(text, sequence["token_ids"].tolist(), processor):
        row = sequence["attention"][tokens].mean(0)[: len(times.middles)].numpy()
        probability = float(sequence["log_probabilities"][tokens].sum().exp())
        words.append({"word": word, "probability": probability, **_interval(row, times)})
        rows.append(row)
    return words, np.stack(rows) if rows else np.zeros((0, len(times.middles)), np.float32)


def _interval(attention: np.ndarray, times: VisualTokenTimes) -> dict[str, float]:
    """The visual tokens around the highest one that get at least half of its attention, in seconds."""
    peak = first = last = int(attention.argmax())
    while first > 0 and attention[first - 1] >= attention[peak] / 2:
        first -= 1
    while last < len(attention) - 1 and attention[last + 1] >= attention[peak] / 2:
        last += 1
    seconds = {"start": times.starts[first], "end": times.ends[last], "peak": times.middles[peak]}
    return {name: round(float(value), 3) for name, value in seconds.items()}


def words_with_tokens(text: str, token_ids: list[int], processor: Any) -> Iterator[tuple[str, list[int]]]:
    """Yield the words of a text, each with the positions of its tokens behind the first token of the sequence."""
    spans = list(_spans_of_tokens(token_ids, processor))
    for start, end in spans_of_words(text):
        tokens = [token - 1 for first, last, group in spans if first < end and last > start for token in group]
        if tokens:
            yield text[start:end], [token for token in tokens if token >= 0]


def _spans_of_tokens(token_ids: list[int], processor: Any) -> Iterator[tuple[int, int, list[int]]]:
    """
    Yield start and end in the decoded text and the positions of the tokens that wrote it: mostly one, several where
    a character is made of several tokens. The text of the first tokens is the beginning of the whole text.
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
