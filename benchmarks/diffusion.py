"""
DiffSLT beside the system that guides it, on the rendered corpus: one sample, the choice among several, what they hold.

    python benchmarks/diffusion.py --seeds 0 1 2

For each seed: a corpus of poses in which a share of the clips has two right readings; the small language model and the
Uni-Sign of `flallm quickstart uni-sign`, which is the system that guides; a text autoencoder, scored on the sentences
of the test clips, which it never saw; and the denoiser between the two. Then both write 20 candidates for each test
clip: Uni-Sign by beam search and by sampling, DiffSLT by diffusion. Test signers are in no training clip. The first
seed also measures numbers of steps and weights of the guidance. The tables of docs/diffusion-benchmark.md and its
figures (.json) are written at the end; `--report_only True` writes them again from existing results. What an earlier
run of the same sizes finished is kept. A small run, in some minutes:

    python benchmarks/diffusion.py --seeds 0 --output_dir outputs/tiny --report outputs/tiny/page.md \
        --num_train_clips 16 --num_dev_clips 4 --num_test_clips 6 --num_text_only_sentences 100 \
        --language_model_epochs 1 --pretraining_epochs 1 --autoencoder_epochs 1 --diffusion_epochs 1 --steps 2 5 \
        --guidance_scales 1 2
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmark_parts import DOCS, command_line, run_benchmark
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from seeded_parts import heading, measure_parts

from modeling_flallm import FLaLLMEncoderOutput
from train_scripts.arguments.corpus_arguments import CorpusArguments
from train_scripts.arguments.data_arguments import DatasetArguments
from train_scripts.arguments.dataclass_parser import flags
from train_scripts.arguments.quickstart_arguments import UniSignQuickstartArguments
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.splits import load_split
from train_scripts.commands.evaluate_model import run_evaluation
from train_scripts.commands.generate_corpus import generate_corpus
from train_scripts.commands.quickstart import CORPUS, CORPUS_RESOLUTION, TimeLeft
from train_scripts.commands.quickstart_uni_sign import Folders as QuickstartFolders
from train_scripts.commands.quickstart_uni_sign import pretrain, train_on_poses
from train_scripts.runs.trained_models import load_trained
from train_scripts.scores.candidates import best_texts, oracle_texts, utility_of_flag
from train_scripts.scores.diversity import diversity_scores
from train_scripts.scores.metrics import comparable, translation_scores
from train_scripts.scores.readings import score_readings
from train_scripts.stages import latent_diffusion, text_autoencoding

PAGE = DOCS / "diffusion-benchmark.md"
TABLE_START = "<!-- written by benchmarks/diffusion.py -->"
OF_CORPUS = ("num_train_clips", "num_dev_clips", "num_test_clips", "num_text_only_sentences", "ambiguous_clips")
OF_STAGES = ("language_model_epochs", "pretraining_epochs", "autoencoder_epochs", "diffusion_epochs")
SIZES = (*OF_CORPUS, *OF_STAGES, "steps", "guidance_scales")
NUM_CANDIDATES = 20
FEWER = 5
# How candidates are written: title, and what `flallm evaluate` is told.
BEAM, BEST, SAMPLES = (f"guiding system, {how}" for how in ("beam search", "best of 20 beams", "samples"))
DIFFUSION = "diffusion"
WAYS: dict[str, dict[str, Any]] = {
    BEAM: {},
    BEST: {"num_beams": NUM_CANDIDATES, "num_candidates": NUM_CANDIDATES},
    SAMPLES: {"num_beams": 1, "num_candidates": NUM_CANDIDATES},
    DIFFUSION: {"num_candidates": NUM_CANDIDATES},
}
# Minimum Bayes risk needs samples: it takes all candidates for equally probable.
ORACLES = [f"oracle_{number}" for number in (FEWER, NUM_CANDIDATES)]
OF_SAMPLES = ["single", *(f"mbr_{number}" for number in (FEWER, NUM_CANDIDATES)), *ORACLES]
CHOICES = {BEAM: ["single"], BEST: ["single", *ORACLES], SAMPLES: OF_SAMPLES, DIFFUSION: OF_SAMPLES}
PROBES = "steps and guidance"


@dataclass
class BenchmarkArguments:
    """Sizes, and where the results go."""

    output_dir: str = field(default="outputs/diffusion", metadata={"help": "Folder of all runs and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Run nothing, report what there is."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "A corpus and a run for each."})
    num_train_clips: int = field(
        default=UniSignQuickstartArguments.num_train_clips, metadata={"help": "Training clips."}
    )
    num_dev_clips: int = field(default=UniSignQuickstartArguments.num_dev_clips, metadata={"help": "Dev clips."})
    num_test_clips: int = field(default=UniSignQuickstartArguments.num_test_clips, metadata={"help": "Test clips."})
    num_text_only_sentences: int = field(
        default=UniSignQuickstartArguments.num_text_only_sentences, metadata={"help": "Sentences without a clip."}
    )
    ambiguous_clips: float = field(default=0.2, metadata={"help": "Share of the clips with two right readings."})
    language_model_epochs: float = field(
        default=UniSignQuickstartArguments.language_model_epochs, metadata={"help": "Epochs of the language model."}
    )
    pretraining_epochs: float = field(
        default=UniSignQuickstartArguments.pretraining_epochs, metadata={"help": "Epochs of Uni-Sign."}
    )
    autoencoder_epochs: float = field(default=6, metadata={"help": "Epochs of the text autoencoder."})
    diffusion_epochs: float = field(default=30, metadata={"help": "Epochs of the denoiser."})
    steps: list[int] = field(default_factory=lambda: [5, 10, 25, 50, 250], metadata={"help": "Numbers of steps."})
    guidance_scales: list[float] = field(
        default_factory=lambda: [1.0, 2.0, 3.0, 4.0, 5.0], metadata={"help": "Weights of the guidance."}
    )

    def folders(self, seed: int) -> "Folders":
        return Folders(Path(self.output_dir) / f"seed_{seed}")

    def of_quickstart(self, seed: int) -> UniSignQuickstartArguments:
        names = ("language_model_epochs", "pretraining_epochs")
        return UniSignQuickstartArguments(output_dir="", seed=seed, **{name: getattr(self, name) for name in names})


@dataclass
class Folders(QuickstartFolders):
    """Where each part of a seed is written."""

    def __post_init__(self):
        super().__post_init__()
        self.autoencoder = self.output / "autoencoder"
        self.diffusion = self.output / "diffusion"
        self.predictions = self.output / "predictions"


def render(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    sizes = {name: getattr(arguments, name) for name in OF_CORPUS}
    folder = str(arguments.folders(seed).corpus)
    generate_corpus(
        CorpusArguments(
            output_dir=folder,
            seed=seed,
            resolution=CORPUS_RESOLUTION,
            videos=False,
            poses=True,
            num_workers=1,
            **sizes,
        )
    )
    return {}


def train_language_model(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    pretrain(arguments.of_quickstart(seed), arguments.folders(seed), TimeLeft({"language model": 1}))
    return {}


def train_guiding_system(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    train_on_poses(arguments.of_quickstart(seed), arguments.folders(seed), TimeLeft({"pose pretraining": 1}))
    return {}


def train_autoencoder(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """-> the reconstruction of the sentences of the test clips: BLEU-4 and exact matches."""
    folders = arguments.folders(seed)
    text_autoencoding.train(
        flags(
            config="quickstart_diffslt_text_autoencoding",
            text_file=folders.corpus / "text_only.txt",
            text_model_name_or_path=folders.language_model,
            num_train_epochs=arguments.autoencoder_epochs,
            disable_tqdm=True,
            seed=seed,
            output_dir=folders.autoencoder,
        )
    )
    references = [comparable(text) for text in test_split(folders)["text"]]
    written = [comparable(text) for text in reconstructed(folders.autoencoder, references)]
    exact = sum(one == other for one, other in zip(written, references, strict=True))
    return {
        "bleu4": translation_scores(written, references, num_resamples=0)["bleu4"],
        "exact_matches": 100 * exact / len(references),
    }


def reconstructed(folder: Path, sentences: Sequence[str]) -> list[str]:
    """Sentences through the latents of a text autoencoder, and back."""
    from transformers import AutoTokenizer

    from modeling_flallm import DiffSltAutoencoder

    autoencoder, tokenizer = DiffSltAutoencoder.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text_target=list(sentences), padding=True, return_tensors="pt")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    return tokenizer.batch_decode(autoencoder.eval().generate(labels=labels), skip_special_tokens=True)


def train_denoiser(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    folders = arguments.folders(seed)
    latent_diffusion.train(
        flags(
            config="quickstart_diffslt_latent_diffusion",
            dataset=folders.corpus,
            vision_model_name_or_path=folders.model,
            text_model_name_or_path=folders.autoencoder,
            num_train_epochs=arguments.diffusion_epochs,
            feature_cache_dir=folders.output / "features",
            disable_tqdm=True,
            seed=seed,
            output_dir=folders.diffusion,
            **CORPUS,
        )
    )
    return {}


def test_split(folders: Folders) -> Any:
    return load_split(DatasetArguments([str(folders.corpus)]), "test")


def candidates_of(folders: Folders, way: str, name: str, **more: Any) -> list[list[str]]:
    """-> what `flallm evaluate` writes for each test clip, a list of one sentence where it does not choose."""
    _, rows = run_evaluation(
        flags(
            model=folders.diffusion if way == DIFFUSION else folders.model,
            dataset=folders.corpus,
            split="test",
            batch_size=50,
            dtype="float32",
            disable_tqdm=True,
            output_dir=folders.predictions / name,
            **{**WAYS[way], **more},
        )
    )
    return [row.get("candidates", [row["prediction"]]) for row in rows]


def sample(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """-> for each way to write candidates: scores of the choices, diversity, readings; and paired tests."""
    folders = arguments.folders(seed)
    split = test_split(folders)
    readings = [json.loads(each) for each in split["readings"]]
    found = {way: candidates_of(folders, way, str(number)) for number, way in enumerate(WAYS)}
    results = {way: scores_of_candidates(each, split["text"], readings, CHOICES[way]) for way, each in found.items()}
    chosen = {way: best_texts(each, utility_of_flag(None)) for way, each in found.items() if way != BEST}
    return {"ways": results, "paired": paired_tests(chosen, split["text"], readings)}


def clips_with_one_reading(readings: Sequence[Sequence[str]]) -> list[int]:
    """Their numbers."""
    return [place for place, each in enumerate(readings) if len(each) == 1]


def scores_of_candidates(
    candidates: Sequence[Sequence[str]],
    references: Sequence[str],
    readings: Sequence[Sequence[str]],
    names: Sequence[str],
) -> dict[str, Any]:
    """BLEU-4 of clips with one reading, by the choices `names`; diversity and readings of all candidates."""
    clear = clips_with_one_reading(readings)
    of_clear, their_references = [candidates[place] for place in clear], [references[place] for place in clear]
    choices = {"single": [each[0] for each in of_clear]}
    for number in (FEWER, NUM_CANDIDATES):
        first = [each[:number] for each in of_clear]
        choices[f"mbr_{number}"] = best_texts(first, utility_of_flag(None))
        choices[f"oracle_{number}"] = oracle_texts(first, their_references)
    return {
        "bleu4": {
            name: translation_scores(choices[name], their_references, num_resamples=0)["bleu4"] for name in names
        },
        "diversity": diversity_scores(candidates),
        "readings": score_readings(candidates, readings),
    }


def paired_tests(
    chosen: Mapping[str, Sequence[str]], references: Sequence[str], readings: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Each way's choice against beam search on clips with one reading, by paired bootstrap: the p-values."""
    clear = clips_with_one_reading(readings)
    systems = [(way, [comparable(texts[place]) for place in clear]) for way, texts in chosen.items()]
    test = PairedTest(
        systems,
        {"BLEU": BLEU()},
        [[comparable(references[place]) for place in clear]],
        test_type="bs",
        n_samples=1000,
    )
    scores = test()[1]["BLEU"]
    return {way: score.p_value for (way, _), score in zip(systems, scores, strict=True) if score.p_value is not None}


def probe(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """Of the first seed: BLEU-4, diversity and time by number of steps, with guidance 2, and by guidance."""
    if seed != arguments.seeds[0]:
        return {"settings": []}
    folders = arguments.folders(seed)
    split = test_split(folders)
    readings = [json.loads(each) for each in split["readings"]]
    model, processor = load_trained(str(folders.diffusion), dtype=torch.float32)
    dataset = SignClipDataset(split, processor)
    collate = TranslationCollator(processor)
    clips = collate([dataset[index] for index in range(len(dataset))])
    video = {name: clips[name] for name in model.vision_model.input_names}
    encoded = model.encode(**video)
    default = model.generation_config
    plan = [(steps, default.guidance_scale) for steps in arguments.steps]
    plan += [(default.num_inference_steps, scale) for scale in arguments.guidance_scales]
    settings = []
    for steps, scale in dict.fromkeys(plan):
        how = {"num_inference_steps": steps, "guidance_scale": scale, "num_return_sequences": FEWER}
        began = time.process_time()  # in one thread, and whatever else runs
        sequences = model.generate(encoder_outputs=FLaLLMEncoderOutput(**encoded), **how)
        seconds = time.process_time() - began
        texts = processor.batch_decode(sequences)
        candidates = [texts[first : first + FEWER] for first in range(0, len(texts), FEWER)]
        of_run = {"steps": steps, "guidance": scale, "seconds_of_a_clip": seconds / len(dataset)}
        settings.append(of_run | _summary(candidates, split, readings))
    return {"settings": settings}


def _summary(candidates: Sequence[Sequence[str]], split: Any, readings: Sequence[Sequence[str]]) -> dict[str, float]:
    clear = clips_with_one_reading(readings)
    references = [split["text"][place] for place in clear]
    texts = {
        "single": [candidates[place][0] for place in clear],
        "mbr": best_texts([candidates[place] for place in clear], utility_of_flag(None)),
    }
    scores = {name: translation_scores(each, references, num_resamples=0)["bleu4"] for name, each in texts.items()}
    of_readings = score_readings(candidates, readings).get("ambiguous", {})
    return {**scores, **diversity_scores(candidates), "coverage": of_readings.get("coverage")}


PARTS: dict[str, Callable[[BenchmarkArguments, int], dict[str, Any]]] = {
    "corpus": render,
    "language model": train_language_model,
    "guiding system": train_guiding_system,
    "autoencoder": train_autoencoder,
    "diffusion": train_denoiser,
    "sampling": sample,
    PROBES: probe,
}


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    return measure_parts(arguments, PARTS, SIZES)


def format_report(results: Mapping[str, Any]) -> str:
    """Command, machine and the tables in Markdown."""
    seeds, runs = list(results["seeds"]), list(results["seeds"].values())
    command = command_line("diffusion.py", {"seeds": [int(seed) for seed in seeds], **results["sizes"]})
    lines = [f"In one thread of {results['machine']}; seeds {', '.join(seeds)}:", "", f"    {command}"]
    tables = (autoencoder_table, scores_table, diversity_table, readings_table, probes_table)
    return "\n\n".join(["\n".join(lines), *("\n".join(table(seeds, runs)) for table in tables)])


def autoencoder_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = heading("text autoencoder, unseen sentences", *(f"seed {seed}" for seed in seeds))
    for name, title in (("bleu4", "BLEU-4"), ("exact_matches", "written exactly, %")):
        scores = [run["autoencoder"][name] for run in runs]
        lines.append(f"| {title} | {' | '.join(f'{score:.2f}' for score in scores)} |")
    return lines


def scores_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    titles = {
        "single": "first",
        **{f"mbr_{number}": f"MBR of {number}" for number in (FEWER, NUM_CANDIDATES)},
        **{f"oracle_{number}": f"oracle of {number} (no score)" for number in (FEWER, NUM_CANDIDATES)},
    }
    lines = heading("BLEU-4, clips with one reading", *titles.values(), "p against beam search")
    for seed, run in zip(seeds, runs, strict=True):
        for way, scores in run["sampling"]["ways"].items():
            cells = [f"{scores['bleu4'][name]:.2f}" if name in CHOICES[way] else "" for name in titles]
            p_value = run["sampling"]["paired"].get(way) if way != BEST else None
            lines.append(
                f"| seed {seed}: {way} | {' | '.join(cells)} | {'' if p_value is None else f'{p_value:.3f}'} |"
            )
    return lines


def diversity_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    titles = {
        "self_bleu": "self-BLEU",
        "distinct_1": "distinct-1",
        "distinct_2": "distinct-2",
        "different_sentences": "different sentences of 20",
    }
    lines = heading("diversity, all clips, mean of the seeds", *titles.values())
    for way in list(WAYS)[1:]:
        means = (statistics.mean(run["sampling"]["ways"][way]["diversity"][name] for run in runs) for name in titles)
        lines.append(f"| {way} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    return lines


def readings_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = heading(
        "all candidates, mean of the seeds (worst)",
        "two readings: right, %",
        "two readings: found, %",
        "one reading: right, %",
    )
    columns = (("ambiguous", "precision"), ("ambiguous", "coverage"), ("others", "precision"))
    for way in WAYS:
        cells = []
        for kind, name in columns:
            values = [run["sampling"]["ways"][way]["readings"].get(kind, {}).get(name) for run in runs]
            known = [value for value in values if value is not None]
            cells.append(f"{statistics.mean(known):.1f} ({min(known):.1f})" if known else "")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def probes_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = heading(
        f"seed {seeds[0]}, 5 samples of the diffusion",
        "one",
        "MBR of 5",
        "self-BLEU",
        "different of 5",
        "readings found, %",
        "time of generate, times the fastest",
    )
    settings = runs[0][PROBES]["settings"]
    fastest = min(each["seconds_of_a_clip"] for each in settings)
    for each in settings:
        coverage = "" if each["coverage"] is None else f"{each['coverage']:.1f}"
        cells = (
            f"{each['single']:.2f}",
            f"{each['mbr']:.2f}",
            f"{each['self_bleu']:.2f}",
            f"{each['different_sentences']:.2f}",
            coverage,
            f"{each['seconds_of_a_clip'] / fastest:.1f}",
        )
        lines.append(f"| {each['steps']} steps, guidance {each['guidance']:g} | {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    description = "DiffSLT beside the system that guides it: one sample, the choice among several, what they hold."
    return run_benchmark(argv, BenchmarkArguments, description, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
