"""
Calibrate a trained model's confidence on the dev split, and write the result into the model's folder.

    flallm calibrate --model quickstart_output/model --dataset quickstart_output/corpus --also_measure_on test

The pipeline translates the split with the settings that the model was saved with. A logistic curve (Platt 1999, with
his smoothed targets) is fitted to which translations were right, and the look of the clips is kept as one mean visual
token. Both go into confidence_calibration.json, and the figures into the model card. The weights do not change.
From then on `return_scores=True` of the pipeline gives `"confidence"` too.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from modeling_flallm import SignLanguageTranslationPipeline
from modeling_flallm.calibration_slt import CALIBRATION_FILE
from modeling_flallm.confidence_slt import mean_visual_features, visual_distances
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_arguments import LEAST_CLIPS, WHY_SO_MANY, CalibrationArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import DatasetArguments
from ..clips.splits import load_split
from ..corpora.data_set_columns import CLIP_COLUMNS
from ..hub.hub_names import is_hub_id
from ..hub.model_card import add_confidence
from ..hub.training_run import RUN_FILE, read_run
from ..machine.atomic_files import write_json
from ..machine.machine import describe_machine, prepare_machine
from ..runs.trained_models import load_trained
from ..scores.metrics import sentence_chrf

NUM_FOLDS = 10
CLIPS_PER_BIN = 10
# A clip looks familiar up to this multiple of the distance within which 95 of 100 clips of the split are.
FAMILIAR_MARGIN = 1.5
LEAST_SPREAD = 1e-6  # of scores that are not all the same
LEAST_DISTANCE = 1e-6  # of looks that are not the same: less is rounding


@dataclass
class TranslatedSplit:
    """
    Results for the clips of a split.

    Args:
        scores: of the pipeline, `(clips,)`.
        is_right: `(clips,)`.
        mean_features: mean visual token of each clip, `(clips, vision hidden size)`.
        confidences: of the pipeline, `(clips,)`; `None` for a model without calibration.

    Raises:
        ValueError: for scores or features that are not finite.
    """

    scores: torch.Tensor
    is_right: torch.Tensor
    mean_features: torch.Tensor
    confidences: torch.Tensor | None = None

    def __post_init__(self):
        is_broken = ~(self.scores.isfinite() & self.mean_features.isfinite().all(1))
        if is_broken.any():
            first = int(is_broken.nonzero()[0])
            raise ValueError(
                f"The model gives {is_broken.sum()} of {len(is_broken)} clips a score or a look that is no finite "
                f"number; clip {first} (counted from 0) has the score {self.scores[first]}. Its weights seem broken, "
                "as by a training that diverged, so nothing can be measured, and nothing was written."
            )


class Clips(Dataset):
    """Rows of a split in the pipeline's format, each read when it is needed."""

    def __init__(self, split: datasets.Dataset):
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.split[index]
        return {name: row[name] for name in (*CLIP_COLUMNS, "start", "end") if row.get(name) is not None}


# Translate


def translate_split(
    model: PreTrainedModel,
    processor: FLaLLMProcessor,
    split: datasets.Dataset,
    text_column: str,
    least_chrf: float,
    batch_size: int,
) -> TranslatedSplit:
    """Runs every clip through the pipeline, with the model's own generation settings."""
    translator = SignLanguageTranslationPipeline(model=model, processor=processor)
    features: list[torch.Tensor] = []
    hook = model.vision_model.register_forward_hook(lambda *call: features.append(mean_visual_features(call[-1])))
    try:
        answers = translator(Clips(split), return_scores=True, batch_size=batch_size, num_return_sequences=1)
        answers = list(tqdm(answers, total=len(split), unit="clip", desc="translating"))
    finally:
        hook.remove()
    pairs = zip(answers, split[text_column], strict=True)
    right = [sentence_chrf(answer["translation_text"], str(text)) >= least_chrf for answer, text in pairs]
    confidences = None if model.config.confidence_calibration is None else _column(answers, "confidence")
    return TranslatedSplit(_column(answers, "score"), torch.tensor(right), torch.cat(features).cpu(), confidences)


def _column(answers: list[dict[str, Any]], name: str) -> torch.Tensor:
    return torch.tensor([answer[name] for answer in answers], dtype=torch.double)


# Fit


def fit_calibration(translated: TranslatedSplit) -> dict[str, Any]:
    """
    The value of `confidence_calibration` in the configuration.

    Raises:
        ValueError: for fewer than `LEAST_CLIPS` clips, and if all of them have the same score.
    """
    num_clips = len(translated.scores)
    check_enough_clips("the split", num_clips)
    if _are_all_the_same(translated.scores):
        raise ValueError(
            f"All {num_clips} clips got the same score, {translated.scores[0]:.4f}, so it says nothing about which "
            "translations are right. The model seems to write the same whatever it sees: train it longer first."
        )
    slope, intercept = fit_platt(translated.scores, translated.is_right)
    center = translated.mean_features.mean(0)
    distances = visual_distances(translated.mean_features, center)
    return {
        "slope": slope,
        "intercept": intercept,
        "lowest_score": translated.scores.min().item(),
        "highest_score": translated.scores.max().item(),
        "mean_features": [float(f"{value:.6g}") for value in center.tolist()],
        "largest_distance": max(FAMILIAR_MARGIN * distances.quantile(0.95).item(), LEAST_DISTANCE),
    }


def check_enough_clips(name: str, num_clips: int) -> None:
    """
    Raises:
        ValueError: for fewer than `LEAST_CLIPS` clips in what is called `name`.
    """
    if num_clips < LEAST_CLIPS:
        raise ValueError(
            f"{WHY_SO_MANY} But {name} has {num_clips}. Use a larger split (--split) that the model has not trained on."
        )


def _are_all_the_same(scores: torch.Tensor) -> bool:
    return len(scores) < 2 or (scores.max() - scores.min()).item() < LEAST_SPREAD


def fit_platt(scores: torch.Tensor, is_right: torch.Tensor) -> tuple[float, float]:
    """
    Slope and intercept of `1 / (1 + exp(-(slope * score + intercept)))`, the probability to be right.

    Args:
        scores: `(clips,)`, finite.
        is_right: `(clips,)`, boolean.

    The targets are Platt's: not 1 and 0 but (right + 1) / (right + 2) and 1 / (wrong + 2), so that few clips, or clips
    that a score separates without error, do not give certainty. If higher scores do not go with more right
    translations, or all scores are equal, the slope is 0 and the curve is the share that is right, (right + 1) / (clips
    + 2).
    """
    num_right = is_right.sum().item()
    num_wrong = len(is_right) - num_right
    of_share = 0.0, math.log((num_right + 1) / (num_wrong + 1))
    if _are_all_the_same(scores):
        return of_share
    targets = torch.where(is_right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2)).double()
    centre, spread = scores.double().mean(), scores.double().std()
    inputs = (scores.double() - centre) / spread
    slope, intercept = _logistic_regression(inputs, targets)
    if slope <= 0:
        return of_share
    return (slope / spread).item(), (intercept - slope * centre / spread).item()


def _logistic_regression(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-> slope and intercept `(2,)` for standardised inputs and targets within 0 and 1, both `(clips,)`."""
    weights = torch.zeros(2, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = weights[0] * inputs + weights[1]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


# Measure


def measure(scores: torch.Tensor, confidences: torch.Tensor, is_right: torch.Tensor) -> dict[str, float | None]:
    """
    Quality of scores and confidences `(clips,)`: `num_clips`, `share_right`, `auroc` (the probability that a right
    translation has a higher score than a wrong one; `None` if either kind is missing), `calibration_error` (mean
    difference of confidence and share of right ones, in bins of about ten clips of similar confidence), `brier_score`,
    and `brier_score_of_share`, which is that of the same confidence for all.
    """
    right = is_right.double()
    share = right.mean()
    return {
        "num_clips": len(right),
        "share_right": share.item(),
        "auroc": _auroc(scores, is_right),
        "calibration_error": _calibration_error(confidences, right),
        "brier_score": (confidences - right).square().mean().item(),
        "brier_score_of_share": (share * (1 - share)).item(),
    }


def _auroc(scores: torch.Tensor, is_right: torch.Tensor) -> float | None:
    right, wrong = scores[is_right].contiguous(), scores[~is_right].sort().values
    if not len(right) or not len(wrong):
        return None
    below = torch.searchsorted(wrong, right).double()
    up_to = torch.searchsorted(wrong, right, right=True).double()  # a tie counts half
    return ((below + up_to) / 2 / len(wrong)).mean().item()


def _calibration_error(confidences: torch.Tensor, right: torch.Tensor) -> float:
    order = confidences.argsort(stable=True)
    num_bins = min(max(len(order) // CLIPS_PER_BIN, 1), 10)
    bins = torch.tensor_split(order, num_bins)
    errors = [(confidences[clips] - right[clips]).mean().abs() * len(clips) for clips in bins]
    return (sum(errors) / len(order)).item()


def cross_validated_confidences(scores: torch.Tensor, is_right: torch.Tensor) -> torch.Tensor:
    """Confidences `(clips,)`, each from a curve fitted without its clip: every tenth is left out in turn."""
    confidences = torch.empty(len(scores), dtype=torch.double)
    fold = torch.arange(len(scores)) % NUM_FOLDS
    for left_out in range(NUM_FOLDS):
        slope, intercept = fit_platt(scores[fold != left_out], is_right[fold != left_out])
        confidences[fold == left_out] = torch.sigmoid(slope * scores[fold == left_out] + intercept)
    return confidences


def format_measures(measures: dict[str, dict[str, float | None]]) -> str:
    """A table with one row per split."""
    lines = [f"{'split':24} {'clips':>6} {'right':>7} {'AUROC':>7} {'calibration error':>18} {'Brier score':>12}"]
    for name, values in measures.items():
        auroc = "-" if values["auroc"] is None else f"{values['auroc']:.2f}"
        lines.append(
            f"{name:24} {values['num_clips']:6d} {values['share_right']:7.0%} {auroc:>7} "
            f"{values['calibration_error']:18.3f} {values['brier_score']:12.3f}"
        )
    return "\n".join(lines)


# The command


def calibrate(arguments: CalibrationArguments, data: DatasetArguments) -> dict[str, dict[str, float | None]]:
    """Measure, and write the result into the folder; returns the measures by split."""
    folder = Path(arguments.model)
    _check_folder(folder)
    splits = {name: _load(data, arguments, name) for name in (arguments.split, arguments.also_measure_on) if name}
    check_enough_clips(f"--split {arguments.split}", len(splits[arguments.split]))
    # Without the calibration that this one replaces, be it damaged.
    model, processor = load_trained(arguments.model, confidence_calibration=None)
    prepare_machine(model.device, arguments.num_threads)
    print(describe_machine(model.device, model.dtype), flush=True)
    options = (data.text_column, arguments.least_chrf, arguments.batch_size)
    translated = translate_split(model, processor, splits[arguments.split], *options)
    model.config.confidence_calibration = fit_calibration(translated)
    confidences = cross_validated_confidences(translated.scores, translated.is_right)
    measures = {f"{arguments.split}, cross-validated": measure(translated.scores, confidences, translated.is_right)}
    if arguments.also_measure_on:
        measured = translate_split(model, processor, splits[arguments.also_measure_on], *options)
        measures[arguments.also_measure_on] = measure(measured.scores, measured.confidences, measured.is_right)
    write_calibration(folder, model.config.confidence_calibration)
    _report_old_code(folder)
    if (folder / RUN_FILE).is_file():
        add_confidence(folder, {"least_chrf": arguments.least_chrf, "measures": measures})
    else:
        print(f"{folder} holds no {RUN_FILE}, so its model card is left as it is.", file=sys.stderr)
    return measures


def _check_folder(folder: Path) -> None:
    if not folder.is_dir() and is_hub_id(str(folder)):
        raise ValueError(
            f"--model {folder} is no folder here, and a model on the Hub cannot be written. Download it with "
            f"`hf download {folder} --local-dir my_model`, calibrate that folder, and send it with flallm push."
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"--model {folder} must be the folder of a trained model, with config.json in it.")
    if (folder / RUN_FILE).is_file():
        read_run(folder)  # report a broken record before the work starts


def _load(data: DatasetArguments, arguments: CalibrationArguments, split: str) -> datasets.Dataset:
    if len(data.dataset) > 1:
        raise ValueError(f"--dataset: one data set is measured at a time, got {len(data.dataset)}. Name one.")
    return load_split(data, split, arguments.max_clips)


def write_calibration(folder: Path, calibration: dict[str, Any]) -> None:
    """Into its file first, which counts, and then out of config.json, where earlier versions wrote it."""
    write_json(folder / CALIBRATION_FILE, calibration)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if "confidence_calibration" in config:
        del config["confidence_calibration"]
        write_json(path, config, sort_keys=True, ensure_ascii=True)


def _report_old_code(folder: Path) -> None:
    if (folder / "configuration_flallm.py").is_file() and not (folder / "calibration_slt.py").is_file():
        print(
            f"The Python files in {folder} are of an earlier version and do not read {CALIBRATION_FILE}: without the "
            "package flallm, the model gives no confidence. To renew them, load the model and its processor and save "
            "both into a new folder.",
            file=sys.stderr,
        )


def run_calibration(argv: Sequence[str] | None = None) -> dict[str, dict[str, float | None]]:
    arguments, data = COMMANDS["calibrate"].parse(argv)
    measures = calibrate(arguments, data)
    print(format_measures(measures))
    path = Path(arguments.model) / CALIBRATION_FILE
    print(f"Right is a chrF of {arguments.least_chrf:g} or more. Written into {path}.")
    if next(iter(measures.values()))["auroc"] is None:
        print(_without_both_kinds(arguments.split, next(iter(measures.values()))["share_right"]))
    return measures


def _without_both_kinds(split: str, share_right: float) -> str:
    kind = "right" if share_right else "wrong"
    return (
        f"Every translation of {split} is {kind}, so the score cannot be told to mean anything: all clips that look "
        f"like those of {split} get the same confidence. A larger or harder split would say more."
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run_calibration, argv)


if __name__ == "__main__":
    sys.exit(main())
