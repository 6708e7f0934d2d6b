"""
The frozen ViT that learned without labels and SpaMo's recipe on it: the ViT's task, its folder, the readout of signs,
the page from its figures, and (slow) a tiny end-to-end run.
"""

import json
import random
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmark_modules import load_benchmark, read_page
from torch.testing import assert_close
from transformers import AutoImageProcessor, AutoModel

from train_scripts.commands.generate_corpus import CorpusArguments, create_signers
from train_scripts.rendered_corpus.signing_language import LEXICON
from train_scripts.rendered_corpus.signing_renderer import find_signs, render_clip

label_free_vit = load_benchmark("label_free_vit")
sign_readout = load_benchmark("sign_readout")
benchmark = load_benchmark("frozen_features")


def draw_frames(num_frames: int, size: int = label_free_vit.IMAGE_SIZE) -> torch.Tensor:
    return torch.randint(256, (num_frames, 3, size, size), dtype=torch.uint8)


def test_only_what_differs_from_most_frames_moves():
    still = draw_frames(1)[0] // 2
    frames = still.repeat(5, 1, 1, 1)
    frames[3, :, 10:20, 30:40] += 100
    medians = label_free_vit.median_frame(frames)
    moving = label_free_vit.moving_parts(frames, medians.expand_as(frames))
    assert torch.equal(medians, still)
    assert moving[3, 10:20, 30:40].min() == 1 and moving.sum() == 100


def test_frames_and_targets_are_cropped_alike():
    frames = draw_frames(6, 72)
    cropped, target = label_free_vit.crop_and_flip(frames, frames[:, 0])
    assert cropped.shape == (6, 3, 64, 64)
    assert torch.equal(cropped[:, 0], target)


def test_patches_are_in_the_order_of_the_vit():
    pictures = torch.rand(2, 64, 64)
    patches = label_free_vit.patches_of(pictures)
    assert patches.shape == (2, 16, 256)
    assert torch.equal(patches[1, 6], pictures[1, 16:32, 32:48].flatten())


def test_positions_of_patches_differ():
    codes = label_free_vit.position_codes(4, 64)
    assert torch.cdist(codes, codes).fill_diagonal_(1).min() > 0.1


def test_learning_rate_begins_small_and_ends_at_nothing():
    factors = [label_free_vit.learning_rate_factor(step, 100) for step in range(100)]
    assert factors[4] == 1 and factors[:5] == sorted(factors[:5]) and factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[-1] < 0.01


def test_saved_vit_gives_the_features_it_was_trained_for(tmp_path):
    vit = label_free_vit.build_vit(0)
    losses = label_free_vit.pretrain(vit, [draw_frames(3, 72), draw_frames(2, 72)], 2, torch.float32)
    label_free_vit.save_vit(vit, tmp_path)
    frames = draw_frames(2)
    pixel_values = AutoImageProcessor.from_pretrained(tmp_path)(list(frames), return_tensors="pt")["pixel_values"]
    assert_close(pixel_values, label_free_vit.normalise(frames), atol=1e-5, rtol=0)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = label_free_vit.frame_features(vit, pixel_values)
        assert_close(loaded(pixel_values).last_hidden_state[:, 1:].mean(1), expected)
    assert len(losses) == 2
    assert not torch.equal(expected, label_free_vit.frame_features(label_free_vit.build_vit(0), pixel_values))


def test_signs_are_found_where_the_hand_performs_them():
    """`HORSE` is held still; the hand moves before it and behind it."""
    arguments = CorpusArguments(output_dir="corpus", seed=random.randrange(100))
    signer = create_signers(arguments)["train"][0]
    still = replace(signer.recording, noise=0.0, moving_thing=None)
    signer = replace(signer, recordings=(still,))
    glosses, resolution = ("DOCTOR", "HORSE", "SELL"), 48
    frames = render_clip(glosses, signer, resolution, np.random.default_rng(3))
    places = find_signs(glosses, signer, resolution, np.random.default_rng(3))
    changes = [not np.array_equal(*pair) for pair in zip(frames, frames[1:], strict=False)]
    held = places[1]
    assert not any(changes[held.start : held.stop - 1]) and changes[held.start - 1] and changes[held.stop - 1]
    assert places[0].stop < held.start < held.stop < places[2].start < places[2].stop < len(frames)


def signed_clip(glosses: list[str], brightness: dict[str, int]) -> "sign_readout.SignedClip":
    places = [range(4 * number, 4 * number + 4) for number in range(len(glosses))]
    frames = torch.cat([torch.full((4, 3, 64, 64), brightness[gloss], dtype=torch.uint8) for gloss in glosses])
    return sign_readout.SignedClip(frames, list(zip(glosses, places, strict=True)))


def test_signs_are_told_where_features_differ():
    names = [sign.gloss for sign in LEXICON[:5]]
    brightness = {gloss: 50 * number for number, gloss in enumerate(names)}
    splits = {split: [signed_clip(names, brightness)] * 4 for split in ("train", "dev", "test")}
    codes = torch.eye(256)
    assert sign_readout.share_of_signs_told(splits, lambda frames: codes[frames[:, 0, 0, 0].long()]) == 1
    same = sign_readout.share_of_signs_told(splits, lambda frames: torch.ones(len(frames), 4))
    assert same == pytest.approx(1 / 5)


def test_halves_of_a_sign_are_kept_apart():
    clip = signed_clip(["BUY"], {"BUY": 7})
    features = sign_readout.features_of_signs([clip], lambda frames: torch.arange(4.0)[:, None])
    assert features.tolist() == [[0.5, 2.5]]


def test_clock_takes_the_median_of_the_last_steps(monkeypatch):
    seconds = iter([0.0, 100.0, 101.0, 104.0, 106.0])
    monkeypatch.setattr(benchmark, "processor_seconds", lambda: next(seconds))
    clock = benchmark.StepClock()
    for _ in range(5):
        clock.on_step_end(None, None, None)
    assert clock.median_step(3) == 2.0


def run_of_seed(bleu4: float, minutes: float) -> dict:
    measured = {"seconds": 120 * minutes, "processor_seconds": 60 * minutes, "peak_gigabytes": 1.5}
    run = {part: dict(measured) for part in benchmark.PARTS}
    for system in benchmark.SYSTEMS:
        run[system] |= {"bleu4": bleu4, "interval": [bleu4 - 2, bleu4 + 1], "worst_signer": "ann", "worst_bleu4": 20.0}
    run["readout"]["share"] = {benchmark.PIXELS: bleu4 / 100}
    rates = zip(benchmark.WAYS_TO_READ, (minutes, 2 * minutes, 9 * minutes), strict=True)
    run[benchmark.CACHE]["clips_per_second"] = dict(rates)
    return run


def test_report_has_the_scores_of_each_seed_and_means_of_the_times():
    seeds = {"0": run_of_seed(70.0, 1.0), "4": run_of_seed(80.0, 3.0)}
    report = benchmark.format_report({"machine": "an abacus", "sizes": {"num_steps": 3}, "seeds": seeds})
    assert report.startswith(
        "In one thread of an abacus; seeds 0, 4:\n\n"
        "    python benchmarks/frozen_features.py --seeds 0 4 --num_steps 3\n\n"
    )
    scores = "70.00 [68.00, 71.00] (20.00) | 80.00 [78.00, 81.00] (20.00) | 75.00"
    for system in benchmark.SYSTEMS:
        assert f"| {system} | {scores} | 6.0 |" in report
        assert f"| {system} | 4.0 | 2.0 | 1.5 GB |" in report
    assert f"| {benchmark.PIXELS} | 70.0% | 80.0% | 75.0% |" in report
    assert "| cached features | 18.0 | 9.0 |" in report


def test_page_holds_exactly_what_its_figures_say():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert len(report["seeds"]) >= 3


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_end_to_end_in_tiny(tmp_path, monkeypatch):
    """In one process, as importing everything for each part anew takes longer than the parts."""
    monkeypatch.setattr(
        load_benchmark("seeded_parts"), "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count)
    )
    monkeypatch.setattr(benchmark, "READOUT_CLIPS", 4)
    monkeypatch.setattr(benchmark, "EPOCHS_OF_CLOCK", 3)
    command = re.search(
        r"python benchmarks/frozen_features.py (--seeds 0 --output_dir .*language_model_epochs 1)",
        benchmark.__doc__,
        re.S,
    )
    argv = shlex.split(command[1].replace("\\\n", " ").replace("outputs/tiny", str(tmp_path / "tiny")))
    assert benchmark.main(argv) == 0
    (run,) = json.loads((tmp_path / "tiny" / "results.json").read_text())["seeds"].values()
    assert list(run) == list(benchmark.PARTS)
    assert all(0 <= run[system]["worst_bleu4"] <= 100 for system in benchmark.SYSTEMS)
    assert min(run[benchmark.CACHE]["clips_per_second"].values()) > 0
    for folder, lora in (("spamo_adapters", True), ("spamo_full", False)):
        arguments = json.loads((tmp_path / "tiny" / "seed_0" / folder / "training_arguments.json").read_text())
        assert arguments["lora"] == lora and arguments["alignment_warm_up_steps"] == 2
    assert any((tmp_path / "tiny" / "seed_0" / "features").iterdir())
    assert "| cached features |" in (tmp_path / "tiny" / "page.md").read_text()
