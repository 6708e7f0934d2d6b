"""Where descriptions of clips come from: a vision-language model that looks at frames, or a column of the data set."""

import hashlib
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torchvision.transforms.functional import to_pil_image
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_flallm.own_processing import ClipValues, Modality
from modeling_flallm.pretrained_vision_slt import source_of

from ..arguments.description_arguments import DescriberArguments
from ..clips.feature_store import digest_of_file
from .damaged_models import read_model, reading_model
from .quantization import bitsandbytes_config, quantize_linear_layers

FILES_OF_A_MODEL = (".json", ".safetensors", ".bin", ".jinja", ".py", ".model", ".txt")
FRAMES_PER_SECOND = 25.0  # ours, for clips without times
# A list of objects, or an empty one, or an object; other texts in brackets are texts.
LOOKS_LIKE_SEGMENTS = re.compile(r'\s*(\[\s*(\{|\]\s*$)|\{\s*")')
HOW_TO_GET_ONE = "Name a model of transformers for image-text-to-text or video-text-to-text with a chat template."


@dataclass(frozen=True)
class ModelOrigin:
    """
    Args:
        name: on the Hub, or of its folder without the path, which is private.
        revision: the commit on the Hub that it was loaded from, if it was; `license`: as in its card.
        fingerprint: digest of what it is.
    """

    name: str
    revision: str | None
    license: str | None
    fingerprint: str


def origin_of_describer(name_or_path: str) -> ModelOrigin:
    """
    What is known of a describer before it is loaded. Its fingerprint is that of the commit on the Hub, or of the files
    in its folder, which one process reads.

    Raises:
        ValueError: if there is no such model.
    """
    try:
        with reading_model(name_or_path):
            source = source_of(name_or_path, {})
    except (OSError, ValueError) as error:
        raise ValueError(f"{name_or_path!r} has no describer that can be loaded: {error}") from error
    revision = source.get("revision")
    fingerprint = _digest([source["name"], revision]) if revision else _fingerprint_of_folder(Path(name_or_path))
    return ModelOrigin(source["name"], revision, source.get("license"), fingerprint)


def _fingerprint_of_folder(folder: Path) -> str:
    found: list[str | None] = [None]
    if PartialState().is_main_process:
        files = sorted(path for path in folder.iterdir() if path.suffix in FILES_OF_A_MODEL)
        found = [_digest([[path.name, digest_of_file(path)] for path in files])]
    return broadcast_object_list(found)[0]


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


@dataclass(frozen=True)
class ReadClip:
    """
    A clip that is to be described.

    Args:
        num_frames: of the clip.
        frames: of each description the first frame and the one after the last.
        material: what a `Describer` makes each description from.
    """

    num_frames: int
    frames: list[tuple[int, int]]
    material: list[Any]


class Describer(ABC):
    """
    Args:
        modality: of the clips, which are videos: what prepares them for a sign encoder is not needed.
    """

    def __init__(self, modality: type[Modality]):
        self.modality = modality(None)

    def load(self, device: torch.device, dtype: torch.dtype) -> None:  # noqa: B027
        """Load what describes; by default nothing."""

    @abstractmethod
    def content(self, row: dict[str, Any]) -> str:
        """What the descriptions of a clip depend on beside its video and the settings."""

    @abstractmethod
    def count(self, row: dict[str, Any]) -> int:
        """
        Number of descriptions of a clip, from the header of its video.

        Raises:
            ValueError: for a clip that cannot be described.
        """

    @abstractmethod
    def read(self, row: dict[str, Any]) -> ReadClip:
        """
        Raises:
            ValueError: for a clip that cannot be described.
        """

    @abstractmethod
    def texts_of(self, clip: ReadClip) -> Iterator[list[str]]:
        """The descriptions of a clip, in batches."""

    def _decode(self, row: dict[str, Any], wanted: Callable[[int], list[int]]) -> tuple[int, ClipValues]:
        """-> number of frames of the clip, and those that are wanted of it, uint8 `(frames, 3, height, width)`"""
        lengths: list[int] = []

        def sample(length: int, rate: float | None) -> list[int]:
            lengths.append(length)
            return wanted(length)

        values = self.modality.read(row, sample)
        return lengths[-1], values


class ColumnDescriber(Describer):
    """Descriptions by people or other tools, in a column of the data set; see `segments_of`."""

    def __init__(self, modality: type[Modality], column: str):
        super().__init__(modality)
        self.column = column

    def content(self, row: dict[str, Any]) -> str:
        return json.dumps(row[self.column], sort_keys=True)

    def count(self, row: dict[str, Any]) -> int:
        segments = segments_of(row[self.column])
        return 1 if isinstance(segments, str) else len(segments)

    def read(self, row: dict[str, Any]) -> ReadClip:
        num_frames, _ = self._decode(row, lambda length: [0])
        segments = segments_of(row[self.column])
        if isinstance(segments, str):
            return ReadClip(num_frames, [(0, num_frames)], [segments])
        end = 0
        for segment in segments:
            if segment["start"] < end or segment["end"] > num_frames:
                raise ValueError(
                    f"descriptions must follow each other within the {num_frames} frames of the clip, got one of "
                    f"frames {segment['start']} to {segment['end']} after frame {end}"
                )
            end = segment["end"]
        frames = [(segment["start"], segment["end"]) for segment in segments]
        return ReadClip(num_frames, frames, [segment["text"] for segment in segments])

    def texts_of(self, clip: ReadClip) -> Iterator[list[str]]:
        yield clip.material


def segments_of(value: Any) -> str | list[dict[str, Any]]:
    """
    What a column says of a clip: a text about the whole clip, or descriptions of its frames, each with `start`, `end`
    (the frame after the last) and `text`; as JSON in a table, or as a list on the Hub. Nothing is an empty list.

    Raises:
        ValueError: for anything else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str) and not LOOKS_LIKE_SEGMENTS.match(value):
        return value.strip()
    try:
        segments = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its descriptions are not valid JSON: {error}") from error
    if not isinstance(segments, list) or not all(map(_is_segment, segments)):
        raise ValueError(
            f'descriptions must be a text or [{{"start": 0, "end": 4, "text": "..."}}, ...] with frames, got '
            f"{str(value)[:100]!r}"
        )
    return segments


def _is_segment(value: Any) -> bool:
    if not isinstance(value, dict) or not {"start", "end", "text"} <= value.keys():
        return False
    are_frames = all(type(value[name]) is int for name in ("start", "end"))
    has_text = isinstance(value["text"], str) and bool(value["text"].strip())
    return are_frames and has_text and 0 <= value["start"] < value["end"]


class ModelDescriber(Describer):
    """
    A vision-language model that is asked about every Nth frame, or about segments of a clip, one at a time (MMSLT,
    Section 3.1, asks about single images of every frame; the stride is ours). It decodes greedily.

    Args:
        modality, settings: `load` loads the model that the settings name.
    """

    def __init__(self, modality: type[Modality], settings: DescriberArguments):
        super().__init__(modality)
        self.settings = settings
        self.model: Any = None
        self.processor: Any = None

    def content(self, row: dict[str, Any]) -> str:
        return ""

    def count(self, row: dict[str, Any]) -> int:
        return len(self._bounds(self.modality.count(row)))

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        """
        Raises:
            ValueError: if it is no model for the task, its repository needs remote code that is not allowed, or
                bitsandbytes is needed and missing.
        """
        name, quantization = self.settings.describer_name_or_path, self.settings.quantization
        options: dict[str, Any] = {"trust_remote_code": self.settings.trust_remote_code, "dtype": dtype}
        if quantization == "int8" and device.type == "cpu":
            options["dtype"] = torch.float32
        elif quantization is not None:
            options |= {"quantization_config": bitsandbytes_config(quantization, dtype), "device_map": str(device)}
        try:
            with reading_model(name):
                self.processor = AutoProcessor.from_pretrained(name, trust_remote_code=options["trust_remote_code"])
            self.model = read_model(AutoModelForImageTextToText, name, **options)
        except (OSError, ValueError, ImportError) as error:  # some processors need a package more
            raise ValueError(f"{name!r} has no describer that can be loaded: {error} {HOW_TO_GET_ONE}") from error
        self._check_processor(name)
        self.model.requires_grad_(False).eval()
        if quantization == "int8" and device.type == "cpu":
            quantize_linear_layers(self.model.get_decoder(), self.model.get_output_embeddings())
        elif quantization is None:
            self.model.to(device)
        self._decode_greedily()

    def _check_processor(self, name: str) -> None:
        tokenizer = getattr(self.processor, "tokenizer", None)
        if tokenizer is None or getattr(self.processor, "chat_template", None) is None:
            raise ValueError(f"{name!r} has no processor with a chat template. {HOW_TO_GET_ONE}")
        if self.settings.segment_frames is not None and getattr(self.processor, "video_processor", None) is None:
            raise ValueError(
                f"--segment_frames needs a describer that takes videos, but {name!r} takes images. Leave it out."
            )
        tokenizer.padding_side = "left"  # so that new tokens follow the last of the prompt
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    def _decode_greedily(self) -> None:
        """Whatever the model's own settings are: a run that goes on must write what the interrupted one would have."""
        config = self.model.generation_config
        config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None, max_length=None)
        config.max_new_tokens = self.settings.max_new_tokens
        if config.pad_token_id is None:
            config.pad_token_id = self.processor.tokenizer.pad_token_id

    def read(self, row: dict[str, Any]) -> ReadClip:
        stride = self.settings.description_stride
        shown: list[list[int]] = []

        def wanted(length: int) -> list[int]:
            shown[:] = [list(range(first, end, stride)) for first, end in self._bounds(length)]
            return [index for indices in shown for index in indices]

        num_frames, clip = self._decode(row, wanted)
        pictures = clip.values.split([len(indices) for indices in shown])
        return ReadClip(num_frames, self._bounds(num_frames), [(each, clip.rate) for each in pictures])

    def _bounds(self, num_frames: int) -> list[tuple[int, int]]:
        step = self.settings.segment_frames or self.settings.description_stride
        return [(first, min(first + step, num_frames)) for first in range(0, num_frames, step)]

    @torch.inference_mode()
    def texts_of(self, clip: ReadClip) -> Iterator[list[str]]:
        for batch in self._batches(clip):
            options: dict[str, Any] = {"padding": True}
            if self.settings.segment_frames is not None:
                options |= {"do_sample_frames": False, "video_metadata": [self._times(*each) for each in batch]}
            inputs = self.processor.apply_chat_template(
                [self._question(frames) for frames, _ in batch],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=options,
            ).to(self.model.device, self.model.dtype)
            tokens = self.model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
            texts = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            yield [text.strip() for text in texts]

    def _batches(self, clip: ReadClip) -> Iterator[list[tuple[torch.Tensor, float | None]]]:
        """Of segments of one length, as not every processor can pad videos: the last of a clip may be shorter."""
        for _, alike in itertools.groupby(clip.material, key=lambda each: len(each[0])):
            rest = list(alike)
            for first in range(0, len(rest), self.settings.batch_size):
                yield rest[first : first + self.settings.batch_size]

    def _question(self, frames: torch.Tensor) -> list[dict[str, Any]]:
        is_video = self.settings.segment_frames is not None
        shown = {"type": "video", "video": frames} if is_video else {"type": "image", "image": to_pil_image(frames[0])}
        content = [shown, {"type": "text", "text": self.settings.description_prompt}]
        return [{"role": "user", "content": content}]

    def _times(self, frames: torch.Tensor, rate: float | None) -> dict[str, Any]:
        """When the frames of a segment are, for models that read times."""
        indices = [index * self.settings.description_stride for index in range(len(frames))]
        return {"total_num_frames": indices[-1] + 1, "fps": rate or FRAMES_PER_SECOND, "frames_indices": indices}
