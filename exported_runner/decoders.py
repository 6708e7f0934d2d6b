"""The decoders of exported models, with what they have computed before (keys and values)."""

from collections.abc import Mapping, Sequence

import numpy as np

from .sessions import Arrays, Session


class CachedDecoder:
    """
    What decoders share: logits and the cache, whose arrays `(rows, heads, length, head size)` the graph takes by the
    names `past.*` and returns longer, as `present.*`.

    Args:
        session: the graph.
        cache_shapes: heads and head size of each array of the cache, by the name of its input.
        num_rows: clips.
    """

    def __init__(self, session: Session, cache_shapes: Mapping[str, Sequence[int]], num_rows: int):
        self.session = session
        self.cache: Arrays = {
            name: np.zeros((num_rows, heads, 0, size), np.float32) for name, (heads, size) in cache_shapes.items()
        }

    def run(self, inputs: Arrays) -> np.ndarray:
        outputs = self.session({**inputs, **self.cache})
        self.cache = {name: outputs[name.replace("past.", "present.")] for name in self.cache}
        return outputs["logits"]

    def reorder(self, rows: np.ndarray) -> None:
        if not np.array_equal(rows, np.arange(len(next(iter(self.cache.values()))))):
            self.cache = {name: values[rows] for name, values in self.cache.items()}


class CrossAttentionDecoder(CachedDecoder):
    """
    The decoder of an encoder-decoder.

    Args:
        session, cache_shapes: as above.
        encoded: `attention_mask` `(clips, tokens)` and the keys and values of the cross-attention, `cross.*`.
        start: the first token of a sentence.
    """

    def __init__(self, session: Session, cache_shapes: Mapping[str, Sequence[int]], encoded: Arrays, start: int):
        num_clips = len(encoded["attention_mask"])
        super().__init__(session, cache_shapes, num_clips)
        self.of_clips, self.encoded = encoded, encoded
        self.clip_of_row = np.arange(num_clips)
        self.start = start

    def first(self) -> np.ndarray:
        return self.next(np.full(len(self.clip_of_row), self.start, np.int64))

    def next(self, token_ids: np.ndarray) -> np.ndarray:
        return self.run({"input_ids": token_ids[:, None], **self.encoded})

    def reorder(self, rows: np.ndarray) -> None:
        super().reorder(rows)
        clip_of_row = self.clip_of_row[rows]
        if not np.array_equal(clip_of_row, self.clip_of_row):
            self.encoded = {name: values[clip_of_row] for name, values in self.of_clips.items()}
            self.clip_of_row = clip_of_row


class PromptedDecoder(CachedDecoder):
    """
    A decoder that continues a prompt.

    Args:
        session, cache_shapes: as above.
        embed: the graph of the token embeddings.
        prompts: embeddings `(clips, length, hidden size)`, padded on the left.
        mask: `(clips, length)`, 1 for real tokens.
    """

    def __init__(
        self,
        session: Session,
        cache_shapes: Mapping[str, Sequence[int]],
        embed: Session,
        prompts: np.ndarray,
        mask: np.ndarray,
    ):
        super().__init__(session, cache_shapes, len(prompts))
        self.embed, self.prompts, self.mask = embed, prompts, mask

    def first(self) -> np.ndarray:
        return self.run({"inputs_embeds": self.prompts, "attention_mask": self.mask})

    def next(self, token_ids: np.ndarray) -> np.ndarray:
        self.mask = np.concatenate([self.mask, np.ones_like(self.mask[:, :1])], 1)
        embeddings = self.embed({"input_ids": token_ids[:, None]})["embeddings"]
        return self.run({"inputs_embeds": embeddings, "attention_mask": self.mask})

    def reorder(self, rows: np.ndarray) -> None:
        super().reorder(rows)
        self.mask = self.mask[rows]
