"""From text to batches for a language model: packed blocks, and sentences to be recovered from their noised words."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedTokenizerBase,
)

from modeling_flallm.own_processing import (
    LlavaSltProcessor,
)

from ..arguments.stage_arguments import DenoisingArguments
from ..clips.collators import IGNORED_LABEL
from ..clips.data import RandomDataset

LINES_AT_ONCE = 1000


def tokenize(lines: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Token ids of each line, followed by the end-of-sentence token."""
    token_ids: list[np.ndarray] = []
    for start in range(0, len(lines), LINES_AT_ONCE):
        encoded = tokenizer(list(lines[start : start + LINES_AT_ONCE]), add_special_tokens=False)["input_ids"]
        token_ids += [np.array([*ids, tokenizer.eos_token_id], dtype=np.int32) for ids in encoded]
    return token_ids


def pack(token_ids: Sequence[np.ndarray], block_size: int) -> list[np.ndarray]:
    """Concatenate lines and cut every `block_size` tokens; the last block is shorter, with at least two tokens."""
    stream = np.concatenate(token_ids)
    blocks = [stream[start : start + block_size] for start in range(0, len(stream), block_size)]
    return [block for block in blocks if len(block) > 1]


class TextDataset(RandomDataset):
    """Packed blocks `(token ids, None)`, then lines that become denoising examples `(token ids, seed of the noise)`."""

    def __init__(self, blocks: Sequence[np.ndarray], lines: Sequence[np.ndarray] = (), seed: int = 0):
        super().__init__(seed)
        self.blocks, self.lines = blocks, lines

    def __len__(self) -> int:
        return len(self.blocks) + len(self.lines)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int | None]:
        if index < len(self.blocks):
            return self.blocks[index], None
        return self.lines[index - len(self.blocks)], self.seed_of(index)


class WordNoise:
    """
    Replaces a video: the words of a sentence as sign recognition might return them, the same for the same seed.

    Args:
        token_ids: sentences that replacement words are drawn from, by frequency.
        blank: token id for a position that shows no word.
    """

    def __init__(self, arguments: DenoisingArguments, token_ids: Sequence[np.ndarray], blank: int):
        self.arguments, self.token_ids, self.blank = arguments, token_ids, blank

    def __call__(self, words: list[int], seed: int) -> list[int]:
        draws = random.Random(seed)
        noised: list[int] = []
        for word in self._moved(words, draws):
            if draws.random() < self.arguments.deletion_probability:
                continue
            replaced = draws.random() < self.arguments.replacement_probability
            noised.append(self._word_of_any_sentence(draws) if replaced else word)
            while draws.random() < self.arguments.repetition_probability:
                noised.append(noised[-1])
            while draws.random() < self.arguments.blank_probability:
                noised.append(self.blank)
        return noised or [self.blank]

    def _moved(self, words: list[int], draws: random.Random) -> list[int]:
        """Signs come in a different order than words, but those that belong together stay close to each other."""
        num_cuts = draws.randint(0, min(self.arguments.max_pieces, len(words)) - 1) if words else 0
        cuts = sorted(draws.sample(range(1, len(words)), num_cuts)) if num_cuts else []
        pieces = [words[start:end] for start, end in zip([0, *cuts], [*cuts, len(words)], strict=True)]
        draws.shuffle(pieces)
        ordered = [word for piece in pieces for word in piece]
        places = [place + draws.uniform(0, self.arguments.max_shift) for place in range(len(ordered))]
        return [ordered[index] for index in sorted(range(len(ordered)), key=places.__getitem__)]

    def _word_of_any_sentence(self, draws: random.Random) -> int:
        words = self.token_ids[draws.randrange(len(self.token_ids))][:-1]
        return int(words[draws.randrange(len(words))]) if len(words) else self.blank


class TextCollator:
    """
    Items of `TextDataset` -> `input_ids`, `attention_mask` and `labels` `(batch, length)`, padded on the right.

    Args:
        around_video: token ids of the prompt before and after the position of the video.
    """

    def __init__(self, pad_token_id: int, around_video: tuple[list[int], list[int]], noise: WordNoise):
        self.pad_token_id, self.around_video, self.noise = pad_token_id, around_video, noise

    def __call__(self, items: Sequence[tuple[np.ndarray, int | None]]) -> dict[str, torch.Tensor]:
        rows = [(ids, ids) if seed is None else self._denoising_example(ids.tolist(), seed) for ids, seed in items]
        sides = zip(*rows, strict=True)
        input_ids, labels = ([torch.as_tensor(row, dtype=torch.long) for row in side] for side in sides)
        masks = [torch.ones_like(ids) for ids in input_ids]
        return {
            "input_ids": pad_sequence(input_ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence(masks, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
        }

    def _denoising_example(self, sentence: list[int], seed: int) -> tuple[list[int], list[int]]:
        before, behind = self.around_video
        prompt = [*before, *self.noise(sentence[:-1], seed), *behind]
        return [*prompt, *sentence], [*[IGNORED_LABEL] * len(prompt), *sentence]


def prompt_around_video(processor: LlavaSltProcessor) -> tuple[list[int], list[int]]:
    """Token ids of the prompt before and after the position of the video, as in stage 3."""
    token_ids = processor(num_visual_tokens=[1], return_tensors="pt")["input_ids"][0].tolist()
    place = token_ids.index(processor.video_token_id)
    return token_ids[:place], token_ids[place + 1 :]


def short_enough(
    token_ids: Sequence[np.ndarray], block_size: int, around_video: tuple[list[int], list[int]]
) -> list[np.ndarray]:
    """Lines that fit into a block with their prompt, even if each word is doubled: paragraphs are not sentences."""
    prompt_length = sum(map(len, around_video))
    return [ids for ids in token_ids if len(ids) > 1 and prompt_length + 3 * len(ids) <= block_size]
