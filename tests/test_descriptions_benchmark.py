"""What descriptions teach: the shuffled control, the page from its figures, and (slow) a tiny end-to-end run."""

import json
import random
import re
import shlex
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from benchmark_modules import load_benchmark, read_page
from tiny_describers import save_text_encoder

from train_scripts.clips.description_store import ClipDescriptions, read_descriptions

benchmark = load_benchmark("descriptions")


def descriptions_of(name: str, count: int) -> ClipDescriptions:
    starts = 4 * torch.arange(count)
    texts = [f"{name} {number}" for number in range(count)]
    return ClipDescriptions(torch.rand(count, 3), torch.stack([starts, starts + 4], dim=1), texts, 4 * count)


def test_another_clips_descriptions_are_stretched_to_the_frames_of_the_clip():
    clip, donor = descriptions_of("clip", 5), descriptions_of("donor", random.randint(2, 12))
    mixed = benchmark.with_those_of(clip, donor)
    assert torch.equal(mixed.frames, clip.frames) and mixed.num_frames == clip.num_frames
    numbers = [int(text.removeprefix("donor ")) for text in mixed.texts]
    assert numbers == sorted(numbers) and numbers[0] == 0 and numbers[-1] >= len(donor.texts) * 4 // 5
    assert torch.equal(mixed.embeddings, donor.embeddings[numbers])


def test_a_donor_without_descriptions_gives_none():
    empty = benchmark.with_those_of(descriptions_of("clip", 3), descriptions_of("donor", 0))
    assert empty.texts == [] and empty.frames.shape == (0, 2) and empty.num_frames == 12


def run_of_seed(bleu4: float, minutes: float) -> dict:
    measured = {"processor_seconds": 60 * minutes}
    run = {part: dict(measured) for part in benchmark.PARTS}
    for number, variant in enumerate(benchmark.VARIANTS):
        score = bleu4 - 10 * number
        run[f"{benchmark.PRETRAINING}, {variant}"] |= {
            "mapper_loss": None if variant == benchmark.WITHOUT else 0.8 + 0.3 * number,
            "recall_at_1": score / 2,
            "recall_at_5": score,
            "num_steps": 70,
        }
        run[f"{benchmark.FINE_TUNING}, {variant}"] |= {
            "bleu4": score,
            "interval": [score - 2, score + 1],
            "worst_bleu4": score - 5,
            "by_signer": {"ann": score - 5, "bo": score + 5},
            "num_steps": 30,
        }
    return run


def test_report_has_the_scores_of_each_seed_and_signer():
    seeds = {"0": run_of_seed(70.0, 1.0), "4": run_of_seed(80.0, 3.0)}
    report = benchmark.format_report({"machine": "an abacus", "sizes": {"num_dev_clips": 3}, "seeds": seeds})
    assert "    python benchmarks/descriptions.py --seeds 0 4 --num_dev_clips 3\n\n" in report
    assert (
        "| with descriptions | 70.00 [68.00, 71.00] (65.00) | 80.00 [78.00, 81.00] (75.00) | 75.00 | 70.00 |" in report
    )
    assert "| seed 4, bo | 85.00 | 75.00 | 65.00 |" in report
    assert "| with descriptions | 0.80 | 37.5 | 75.0 | 100 | 4.0 |" in report
    assert "| with shuffled descriptions | 1.10 | 32.5 | 65.0 | 100 | 4.0 |" in report
    assert "| without descriptions |  | 27.5 | 55.0 | 100 | 4.0 |" in report


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
    command = re.search(
        r"python benchmarks/descriptions.py (--seeds 0 --text_encoder.*fine_tuning_epochs 1)", benchmark.__doc__, re.S
    )
    text_encoder = save_text_encoder(tmp_path / "text_encoder")
    text = command[1].replace("\\\n", " ").replace("outputs/tiny", str(tmp_path / "tiny"))
    assert benchmark.main(shlex.split(text.replace("TEXT_ENCODER", str(text_encoder)))) == 0
    (run,) = json.loads((tmp_path / "tiny" / "results.json").read_text())["seeds"].values()
    assert list(run) == list(benchmark.PARTS)
    for stage in (benchmark.PRETRAINING, benchmark.FINE_TUNING):
        assert len({run[f"{stage}, {variant}"]["num_steps"] for variant in benchmark.VARIANTS}) == 1
    folder = tmp_path / "tiny" / "seed_0"
    for split, is_shuffled in (("train", True), ("test", False)):
        names = sorted(path.name for path in (folder / "descriptions" / split).glob("*.safetensors"))
        texts = [
            [read_descriptions(folder / store / split / name).texts for name in names]
            for store in ("descriptions", "shuffled")
        ]
        assert all((one != other) == is_shuffled for one, other in zip(*texts, strict=True))
    assert "| without descriptions |" in (tmp_path / "tiny" / "page.md").read_text()
