"""Which clips make up an epoch, in what order, and which of them form a batch: the same in every process."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Sort as many batches by length at once as transformers' LengthGroupedSampler does.
BATCHES_SORTED_TOGETHER = 50


class ClipSampler(Sampler[int]):
    """
    Indices of an epoch's clips, drawn from one or several concatenated data sets.

    The draws depend only on `seed` and the epoch (`set_epoch`), so that all processes draw the same and a resumed run
    continues where it stopped.

    Args:
        sizes: clips of each data set.
        weights: shares of the data sets in an epoch, whose length stays `sum(sizes)`; a clip is only repeated after all
            others of its data set. `None` takes every clip once.
        lengths: frames of each clip; if given, clips of similar length are grouped.
        group_size: number of clips to group: those of one step of the optimiser.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float] | None = None,
        lengths: Sequence[int] | None = None,
        group_size: int = 1,
        seed: int = 0,
    ):
        self.sizes = list(sizes)
        self.counts = self.sizes if weights is None else share_out(sum(sizes), weights)
        self.lengths = lengths
        self.group_size = group_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices_of(self.epoch))

    def indices_of(self, epoch: int) -> list[int]:
        """Indices of the clips of one epoch, in order."""
        generator = torch.Generator().manual_seed(hash((self.seed, epoch)) % 2**63)
        first, drawn = 0, []
        for size, count in zip(self.sizes, self.counts, strict=True):
            rounds = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
            drawn += [first + index for permutation in rounds for index in permutation.tolist()][:count]
            first += size
        shuffled = [drawn[position] for position in torch.randperm(len(drawn), generator=generator).tolist()]
        return shuffled if self.lengths is None else self._grouped(shuffled, generator)

    def _grouped(self, indices: list[int], generator: torch.Generator) -> list[int]:
        """Sort large chunks of the epoch by length, and shuffle the groups within them."""
        piece_size = self.group_size * BATCHES_SORTED_TOGETHER
        pieces = [indices[start : start + piece_size] for start in range(0, len(indices), piece_size)]
        ordered = [index for piece in pieces for index in sorted(piece, key=lambda index: self.lengths[index])]
        groups = [ordered[start : start + self.group_size] for start in range(0, len(ordered), self.group_size)]
        num_whole = len(ordered) // self.group_size
        # An incomplete last group stays last: otherwise batches and groups would not coincide after it.
        order = [*torch.randperm(num_whole, generator=generator).tolist(), *range(num_whole, len(groups))]
        return [index for position in order for index in groups[position]]


class ShareOfBatches(Sampler[list[int]]):
    """
    The part of one process in each batch of all processes together, which train what one process would train with
    such batches: the parts differ by one clip at most, also in the last batch of an epoch. If that has fewer clips than
    there are processes, each of them is repeated equally often, which leaves means over clips as they are.

    Args:
        sampler: the order of the clips, the same in every process.
        batch_size: clips of one process.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, num_processes: int, process_index: int):
        self.sampler = sampler
        self.batch_size = batch_size * num_processes
        self.num_processes = num_processes
        self.process_index = process_index

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield self._share(batch)
                batch = []
        if batch:
            yield self._share(batch)

    def _share(self, batch: list[int]) -> list[int]:
        if len(batch) < self.num_processes:
            batch = batch * (math.lcm(len(batch), self.num_processes) // len(batch))
        first, last = (len(batch) * (self.process_index + more) // self.num_processes for more in (0, 1))
        return batch[first:last]


def share_out(total: int, weights: Sequence[float]) -> list[int]:
    """Integers proportional to the weights that sum to `total`; the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


class FrameBudgetBatchSampler(Sampler[list[int]]):
    """
    Batches of at most `max_frames` frames, in the order of a `ClipSampler`.

    Only real frames are counted, no padding: the visual encoder, which takes nearly all of the time and memory, sees
    only real frames. Every epoch has the same number of batches, a multiple of `num_processes`, because the learning
    rate schedule, resuming and several processes need it. It is the most that any epoch takes; in the other epochs the
    largest batches are split.

    Args:
        lengths: the maximum number of frames of each clip.
        num_epochs: number of epochs of the training.

    Raises:
        ValueError: if a single clip has more than `max_frames` frames, or there are too few clips for the processes.
    """

    def __init__(
        self, sampler: ClipSampler, lengths: Sequence[int], max_frames: int, num_processes: int = 1, num_epochs: int = 1
    ):
        self.sampler = sampler
        self.lengths = lengths
        self.max_frames = max_frames
        longest = max(lengths)
        if longest > max_frames:
            raise ValueError(
                f"--max_frames_per_batch {max_frames} is too few for the longest clip, of up to {longest} frames. "
                "Raise it, or lower --max_num_frames or --frame_sampling_rate."
            )
        most = max(len(self._filled(sampler.indices_of(epoch))) for epoch in range(num_epochs))
        self.num_batches = -(-most // num_processes) * num_processes
        if self.num_batches > len(sampler):
            raise ValueError(f"{num_processes} processes need at least one clip each, got {len(sampler)} clip(s).")

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._filled(list(self.sampler))
        while len(batches) < self.num_batches:
            position = max(range(len(batches)), key=lambda index: len(batches[index]))
            batch = batches[position]
            batches[position : position + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        return iter(batches)

    def _filled(self, indices: list[int]) -> list[list[int]]:
        batches: list[list[int]] = []
        num_frames = self.max_frames
        for index in indices:
            if num_frames + self.lengths[index] > self.max_frames:
                batches.append([])
                num_frames = 0
            batches[-1].append(index)
            num_frames += self.lengths[index]
        return batches
