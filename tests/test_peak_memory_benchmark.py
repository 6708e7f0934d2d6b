"""Peak memory by flag: the count, computing with fake tensors against real ones, and the page."""

import json
import random
import re

import pytest
import torch
from accelerate.utils import compare_versions
from benchmark_modules import load_benchmark, read_page
from torch._subclasses.fake_tensor import FakeTensorMode

benchmark = load_benchmark("peak_memory")


def test_page_holds_exactly_what_its_figures_say():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert [(row["stage"], row["flags"]) for row in report["rows"]] == list(benchmark.FLAGS)


def test_both_stages_fit_into_six_gigabytes_with_named_flags():
    """A gigabyte is left for what is not counted."""
    report = json.loads(benchmark.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    fitting = [row for row in report["rows"] if max(row["largest"].values()) <= 5]
    kinds = {(row["stage"], "--lora True" in row["flags"]) for row in fitting}
    assert kinds == {(benchmark.STAGE1, False), (benchmark.STAGE2, False), (benchmark.STAGE2, True)}


def test_storages_count_once_and_until_their_end():
    numbers = random.randrange(1000, 5000)
    with benchmark.LiveMemory() as memory:
        first = torch.ones(numbers)
        view = first.view(-1, 1)[1:]
        size = -(-4 * numbers // benchmark.GRANULE_IN_BYTES) * benchmark.GRANULE_IN_BYTES
        assert memory.live == size
        second = first + 1
        assert memory.live == memory.peak == 2 * size
        del first, second
        assert (memory.live, memory.peak) == (size, 2 * size)
        del view
        assert memory.live == 0


def test_integers_keep_their_content_without_floats_having_any():
    lengths = [random.randrange(1, 9) for _ in range(4)]
    with FakeTensorMode(), benchmark.KnownIntegers():
        mask = torch.arange(9)[None] < torch.tensor(lengths)[:, None]
        packed = torch.empty(4, 9, 3)[mask]
        assert packed.shape == (sum(lengths), 3)
        assert int(mask.sum()) == sum(lengths) == len(mask.nonzero())
        assert bool((mask[:, 0] == 1).all())


@pytest.mark.slow
@pytest.mark.skipif(
    compare_versions("transformers", "<", "5.23"), reason="its mBART looks at a drawn number, which fake tensors lack"
)
@pytest.mark.parametrize("flags", ["--bf16 True", "--bf16 True --frames_per_chunk 2 --gradient_accumulation_steps 2"])
def test_what_is_computed_is_what_real_tensors_take(flags):
    """Of a small step of stage 1; the rest is rounding and torch's temporary tensors."""
    small = "--backbone_width 16 --visual_hidden_size 128 --crop_size 32 --light_hidden_size 128 --light_layers 1"
    flags = f"{flags} {small} --per_device_train_batch_size 2"
    workload = benchmark.Workload("small", random.randrange(4, 9), random.randrange(5, 20))
    computed = benchmark.compute(benchmark.STAGE1, flags, workload, with_evaluation=True, as_on_gpus=False)
    recipe = benchmark.read_recipe(benchmark.STAGE1, flags)
    run = benchmark.Run(recipe, benchmark.build_model(recipe), "cpu")
    with benchmark.LiveMemory() as memory:
        memory.add([*run.model.parameters(), *run.model.buffers()])
        run.train(workload)
        real = {"training": memory.peak / 1e9}
        memory.peak = memory.live
        run.evaluate(workload)
        real["evaluation"] = memory.peak / 1e9
    assert computed == pytest.approx(real, rel=0.03)


def test_a_budget_of_frames_makes_batches_of_clips():
    recipe = benchmark.read_recipe(benchmark.STAGE1, "--max_frames_per_batch 240")
    assert (recipe.num_clips(benchmark.USUAL), recipe.num_clips(benchmark.LARGEST)) == (8, 2)
    assert benchmark.read_recipe(benchmark.STAGE2, "").num_clips(benchmark.LARGEST) == 16


def test_mistakes_are_said_in_one_sentence(tmp_path, capsys):
    assert benchmark.main(["--output_dir", str(tmp_path), "--report_only", "True"]) == 2
    message = f"--output_dir {tmp_path} holds no results. Run without --report_only first."
    assert re.search(re.escape(message), capsys.readouterr().err)
