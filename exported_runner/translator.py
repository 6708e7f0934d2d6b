"""Translates clips with an exported model; needs neither torch nor transformers."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from .clips import padded, reader_of
from .decoders import CrossAttentionDecoder, PromptedDecoder
from .diffusion import Diffusion
from .search import Decoder, Generation, generate
from .sessions import SESSIONS, Arrays
from .spoken_languages_slt import spoken_language_name

SETTINGS_FILE = "export.json"


class Translator:
    """
    An exported model.

    Example: `Translator("exported")("clip.mp4")` gives `{"translation_text": "..."}`, as the pipeline of the model.

    Args:
        folder: where `flallm export` wrote the model.
        providers: where it runs. ONNX: execution providers of onnxruntime; OpenVINO: a list of one device. Default:
            the CPU.
        num_threads: 0 leaves the number to the library.
    """

    def __init__(self, folder: str | Path, providers: Sequence[str] | None = None, num_threads: int = 0):
        folder = Path(folder)
        self.settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        self.generation = Generation(**_with_tuples(self.settings["generation"]))
        session = SESSIONS[self.settings["format"]]
        self.graphs = {
            name: session(folder / f"{name}{session.suffix}", providers, num_threads)
            for name in self.settings["graphs"]
        }
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.reader = reader_of(self.settings["clips"])
        self.diffusion = Diffusion(folder, self.settings["diffusion"]) if "diffusion" in self.settings else None

    def __call__(
        self,
        clips: Any,
        batch_size: int = 1,
        start: float | None = None,
        end: float | None = None,
        spoken_language: str | None = None,
        **generation: Any,
    ) -> dict[str, str] | list[dict[str, str]]:
        """
        Translate one clip or a list of them.

        Args:
            clips: paths of files, or arrays: frames, uint8 `(frames, height, width, 3)`; poses, features.
            batch_size: clips that are translated together.
            start, end: seconds of the part of each file that is read.
            spoken_language: which to write, by tag or by name, for a model that reads a prompt.
            generation: settings such as `num_beams` and `max_new_tokens`, see `Generation`.

        Returns:
            For each clip `{"translation_text": ...}`.

        Raises:
            ValueError: for a clip that cannot be read, is too short or too long, and settings out of their range.
            TypeError: for settings of generation that this program does not have.
        """
        is_one = not isinstance(clips, list | tuple)
        values = (self._read(clip, start, end) for clip in ([clips] if is_one else clips))
        answers = [
            {"translation_text": self.decode(sequence)}
            for batch in _batches(values, batch_size)
            for sequence in self.generate(
                dict(zip(self.settings["input_names"], padded(batch), strict=True)), spoken_language, **generation
            )
        ]
        return answers[0] if is_one else answers

    def generate(self, inputs: Arrays, spoken_language: str | None = None, **generation: Any) -> np.ndarray:
        """
        Translate a batch of prepared clips.

        Args:
            inputs: the values of the clips, padded with zeros, and their mask, by the names of the model:
                `pixel_values_videos` and `pixel_attention_mask`, `pose_values` and `pose_attention_mask`, ...
            spoken_language, generation: as in a call.

        Returns:
            Token ids `(clips, length)`. Of a model that continues a prompt, the new ones alone.

        Raises:
            ValueError, TypeError: as a call.
        """
        settings = self.generation.changed(dict(generation))
        self._check_max_length(settings)
        if spoken_language is not None and "prompt" not in self.settings:
            raise ValueError("`spoken_language` goes into a prompt, and this model reads none. Leave it out.")
        encoded = self.graphs["sign_encoder"](inputs)
        if self.settings["kind"] == "prompted":
            decoder, settings = self._prompted(encoded, spoken_language, settings)
        elif self.diffusion is not None:
            latents = self.diffusion.sample(self.graphs["denoiser"], encoded)
            decoder = self._reading(self.graphs["text_encoder"]({"latents": latents}), settings)
        else:
            prompts = self._encoder_prompts(len(encoded["visual_embeddings"]), spoken_language)
            self._check_num_tokens(encoded["visual_embeddings"].shape[1] + _width(prompts))
            decoder = self._reading(self.graphs["text_encoder"]({**encoded, **prompts}), settings)
        return generate(decoder, len(next(iter(encoded.values()))), settings)

    def decode(self, token_ids: Sequence[int] | np.ndarray) -> str:
        """Token ids of one sentence -> the sentence."""
        left_out = set(self.settings["token_ids_left_out"])
        kept = [int(token_id) for token_id in token_ids if int(token_id) not in left_out]
        return self.tokenizer.decode(kept, skip_special_tokens=True)

    # ---------------------------------------------------------------------------------- clips

    def _read(self, clip: Any, start: float | None, end: float | None) -> np.ndarray:
        values = self.reader(clip, start, end)
        name = f"'{clip}'" if isinstance(clip, str | Path) else "the clip"
        num_tokens = _num_tokens_after(self.settings["token_steps"], len(values))
        if num_tokens < 1:
            raise ValueError(
                f"{name} is too short to translate: {len(values)} frame(s) are left after sampling. Use a longer clip."
            )
        self._check_num_tokens(num_tokens)
        return values

    def _check_num_tokens(self, num_tokens: int) -> None:
        most = self.settings["max_num_tokens"]
        if most is not None and num_tokens > most:
            raise ValueError(
                f"A clip gives {num_tokens} tokens with its prompt, but the text model takes at most {most}. Cut the "
                "clip with `start` and `end`."
            )

    # ---------------------------------------------------------------------------------- text

    def _check_max_length(self, settings: Generation) -> None:
        most = self.settings["max_target_tokens"]
        if most is not None and settings.max_length > most:
            raise ValueError(
                f"The text model writes at most {most} tokens, the first one included, got {settings.max_length}. "
                "Lower `max_length` or `max_new_tokens`."
            )

    def _reading(self, encoded: Arrays, settings: Generation) -> Decoder:
        cross = {name: values for name, values in encoded.items() if name.startswith("cross.")}
        return CrossAttentionDecoder(
            self.graphs["decoder"],
            self.settings["cache_shapes"],
            {"attention_mask": encoded["attention_mask"], **cross},
            settings.decoder_start_token_id,
        )

    def _encoder_prompts(self, num_clips: int, spoken_language: str | None) -> Arrays:
        """The prompts that an encoder reads before the clips: nothing for a model without one."""
        if "prompt" not in self.settings:
            return {}
        text = unicodedata.normalize("NFKC", self._prompt(spoken_language))
        ids = np.array([self.tokenizer.encode(text).ids] * num_clips, np.int64)
        return {"prompt_ids": ids, "prompt_attention_mask": np.ones_like(ids)}

    def _prompt(self, spoken_language: str | None) -> str:
        prompt = self.settings["prompt"]
        language = spoken_language_name(spoken_language) if spoken_language else prompt["spoken_language"]
        return prompt["text"].replace("{spoken_language}", language)

    def _prompted(
        self, encoded: Arrays, spoken_language: str | None, settings: Generation
    ) -> tuple[Decoder, Generation]:
        """The decoder with prompts that hold the clips, and the settings with what its positions leave room for."""
        prompt, video = self.settings["prompt"], self.settings["prompt"]["video_token_id"]
        ids = self.tokenizer.encode(self._prompt(spoken_language), add_special_tokens=False).ids
        ids = [*prompt["first_token_ids"], *ids]
        place = ids.index(video)
        is_real = encoded["visual_attention_mask"] != 0
        rows = [[*ids[:place], *[video] * int(row.sum()), *ids[place + 1 :]] for row in is_real]
        longest = max(map(len, rows))
        self._check_num_tokens(longest + 1)
        padding = [longest - len(row) for row in rows]
        pad = settings.pad_token_id
        token_ids = np.array([[pad] * k + row for k, row in zip(padding, rows, strict=True)], np.int64)
        mask = np.array([[0] * k + [1] * len(row) for k, row in zip(padding, rows, strict=True)], np.int64)
        embeddings = self.graphs["embeddings"]({"input_ids": token_ids})["embeddings"].copy()
        embeddings[token_ids == video] = encoded["visual_embeddings"][is_real]
        decoder = PromptedDecoder(
            self.graphs["decoder"], self.settings["cache_shapes"], self.graphs["embeddings"], embeddings, mask
        )
        most = self.settings["max_num_tokens"]
        if most is not None:
            settings = settings.changed({"max_length": min(settings.max_length, most - longest)})
        return decoder, settings


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _width(prompts: Arrays) -> int:
    return prompts["prompt_ids"].shape[1] if prompts else 0


def _num_tokens_after(steps: Sequence[Sequence[int | None]], length: int) -> int:
    """How many visual tokens clips of this length give, by the `get_token_steps` of the sign encoder."""
    for add, divide, multiply, least in steps:
        length = (length + add) // divide
        length = (length if least is None else max(length, least)) * multiply
    return length


def _batches(values: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    batch: list[np.ndarray] = []
    for each in values:
        batch.append(each)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
