"""Epochs and batches: the draws, their weights and lengths, and agreement of all processes."""

import math
import random
import re
from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from torch.utils.data import BatchSampler

from train_scripts.clips.samplers import ClipSampler, FrameBudgetBatchSampler, ShareOfBatches, share_out


def random_lengths(count: int, shortest: int = 5, longest: int = 60) -> list[int]:
    return [random.randint(shortest, longest) for _ in range(count)]


def of_process(batches, num_processes: int, index: int) -> list[list[int]]:
    return list(BatchSamplerShard(batches, num_processes=num_processes, process_index=index))


def test_without_weights_every_clip_comes_once(seed):
    sampler = ClipSampler([7, 30], seed=seed)
    assert len(sampler) == 37 and sorted(sampler) == list(range(37))
    assert list(sampler) == list(sampler) != sorted(sampler)


def test_epochs_follow_from_the_seed_and_their_number(seed):
    sampler = ClipSampler([40], seed=seed)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first and list(sampler) == ClipSampler([40], seed=seed).indices_of(1)
    assert first == ClipSampler([40], seed=seed).indices_of(0) != ClipSampler([40], seed=seed + 1).indices_of(0)


def test_weights_are_shares_of_the_epoch(seed):
    sizes, weights = [50, 10, 140], [2, 1, 1]
    for epoch in range(3):
        drawn = ClipSampler(sizes, weights, seed=seed).indices_of(epoch)
        of_set = [drawn_of(drawn, 0, 50), drawn_of(drawn, 50, 60), drawn_of(drawn, 60, 200)]
        assert [sum(counts.values()) for counts in of_set] == [100, 50, 50]
        assert set(of_set[0].values()) == {2} and len(of_set[0]) == 50
        assert set(of_set[1].values()) == {5} and len(of_set[1]) == 10
        assert set(of_set[2].values()) == {1}  # of the large one others in each epoch
    seen = {index for epoch in range(12) for index in ClipSampler(sizes, weights, seed=seed).indices_of(epoch)}
    assert len(seen) > 190


def drawn_of(drawn: list[int], first: int, behind: int) -> Counter:
    return Counter(index for index in drawn if first <= index < behind)


def test_shares_add_up():
    assert share_out(10, [2, 1, 1]) == [5, 3, 2]
    assert share_out(7, [0.1, 0.1]) == [4, 3]
    for _ in range(200):
        total, weights = random.randint(1, 500), [random.uniform(0.1, 5) for _ in range(random.randint(1, 6))]
        counts = share_out(total, weights)
        assert sum(counts) == total
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - total * weight / sum(weights)) < 1


def test_clips_of_about_one_length_come_together(seed):
    lengths = random_lengths(203)
    sampler = ClipSampler([203], lengths=lengths, group_size=8, seed=seed)
    drawn = list(sampler)
    assert sorted(drawn) == list(range(203))
    assert padding(drawn, lengths) < 0.25 * padding(list(ClipSampler([203], seed=seed)), lengths)
    longest = [max(lengths[index] for index in drawn[start : start + 8]) for start in range(0, 200, 8)]
    assert longest != sorted(longest)
    assert drawn != sampler.indices_of(1)


def padding(drawn: list[int], lengths: list[int]) -> int:
    batches = [[lengths[index] for index in drawn[start : start + 8]] for start in range(0, len(drawn), 8)]
    return sum(max(batch) - length for batch in batches for length in batch)


@pytest.mark.parametrize("grouped", [False, True])
def test_two_processes_take_the_batches_of_one(grouped, seed):
    lengths = random_lengths(48) if grouped else None

    def sampler() -> ClipSampler:
        return ClipSampler([16, 32], [1, 1], lengths, group_size=8, seed=seed)

    whole = list(BatchSampler(sampler(), 8, drop_last=False))
    shares = [of_process(BatchSampler(sampler(), 4, drop_last=False), 2, index) for index in (0, 1)]
    assert [first + second for first, second in zip(*shares, strict=True)] == whole


def budget_sampler(lengths, max_frames=150, num_processes=1, num_epochs=4, seed=0, grouped=False, **values):
    order = ClipSampler([len(lengths)], lengths=lengths if grouped else None, group_size=4, seed=seed, **values)
    return FrameBudgetBatchSampler(order, lengths, max_frames, num_processes, num_epochs)


@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_no_batch_exceeds_its_frames_and_all_epochs_are_equally_long(num_processes, grouped, seed):
    lengths = random_lengths(120)
    batches = budget_sampler(lengths, num_processes=num_processes, seed=seed, grouped=grouped)
    assert len(batches) % num_processes == 0 and len(batches) >= sum(lengths) / 150
    epochs = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches) and all(drawn)
        assert sorted(index for batch in drawn for index in batch) == list(range(120))
        assert max(sum(lengths[index] for index in batch) for batch in drawn) <= 150
        assert drawn == list(batches)
        epochs.append(drawn)
    assert epochs[0] != epochs[1]
    assert len(batches) < 1.5 * sum(lengths) / 150  # batches are filled


def test_processes_make_as_many_steps_with_equal_work(seed):
    lengths = random_lengths(200)
    shares = [of_process(budget_sampler(lengths, num_processes=2, seed=seed), 2, index) for index in (0, 1)]
    assert len(shares[0]) == len(shares[1])
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(200))
    work = [sum(lengths[index] for batch in share for index in batch) for share in shares]
    assert abs(work[0] - work[1]) < 0.15 * sum(work)


def test_a_run_that_resumes_goes_on_with_the_next_batch(seed):
    lengths = random_lengths(60)
    batches = budget_sampler(lengths, seed=seed)
    batches.set_epoch(2)
    again = budget_sampler(lengths, seed=seed)
    again.set_epoch(2)
    assert list(SkipBatchSampler(again, skip_batches=3)) == list(batches)[3:]


def test_weights_and_a_budget_together(seed):
    lengths = random_lengths(60)
    order = ClipSampler([20, 40], [3, 1], seed=seed)
    batches = FrameBudgetBatchSampler(order, lengths, 200, num_processes=2, num_epochs=3)
    for epoch in range(3):
        batches.set_epoch(epoch)
        drawn = [index for batch in batches for index in batch]
        assert len(drawn) == 60 and sum(index < 20 for index in drawn) == 45
        assert len(list(batches)) == len(batches)


def test_mistaken_budgets():
    expected = (
        "--max_frames_per_batch 40 is too few for the longest clip, of up to 41 frames. Raise it, or lower "
        "--max_num_frames or --frame_sampling_rate."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        budget_sampler([3, 41, 20], max_frames=40)
    with pytest.raises(ValueError, match=re.escape("4 processes need at least one clip each, got 3 clip(s).")):
        budget_sampler([3, 4, 5], num_processes=4)


# -------------------------------------------------------------------------------------- shares of several processes


@pytest.mark.parametrize(("num_clips", "batch_size", "num_processes"), [(23, 4, 2), (23, 4, 3), (24, 4, 3), (5, 2, 3)])
def test_processes_share_the_batches_of_one(num_clips, batch_size, num_processes, seed):
    order = ClipSampler([num_clips], seed=seed)
    shares = [ShareOfBatches(order, batch_size, num_processes, process) for process in range(num_processes)]
    together = [sum(parts, []) for parts in zip(*shares, strict=True)]
    assert sum(together, []) == list(order) and {len(share) for share in shares} == {len(together)}
    assert all(len(batch) == batch_size * num_processes for batch in together[:-1])
    for parts in zip(*shares, strict=True):
        sizes = [len(part) for part in parts]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("num_left", "num_processes"), [(1, 2), (2, 3), (3, 4), (4, 6)])
def test_fewer_clips_than_processes_are_repeated_equally_often(num_left, num_processes, seed):
    order = ClipSampler([2 * num_processes + num_left], seed=seed)
    parts = [list(ShareOfBatches(order, 2, num_processes, process))[-1] for process in range(num_processes)]
    counts = Counter(sum(parts, []))
    assert counts.keys() == set(order.indices_of(0)[-num_left:]) and len(set(counts.values())) == 1
    assert {len(part) for part in parts} == {math.lcm(num_left, num_processes) // num_processes}
