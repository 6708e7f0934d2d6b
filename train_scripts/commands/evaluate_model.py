"""
Translate a split with a trained model and score it against its sentences.

    flallm evaluate --model stage2 --dataset corpus --split test --output_dir test_scores

Writes predictions.jsonl, scores.json (with signatures and bootstrap intervals) and scores.png, and prints the table.
Predictions are saved as they come: after an interruption, run the same command again to resume. With
`--add_to_model_card True` the scores also go into the model card of a local folder. Under `torchrun` the clips are
shared among the processes, and the scores are computed once over all of them.

It also scores signers, lengths, content words and what the model guesses without the clips, see docs/honest-scores.md.

With `--num_candidates 20`, 20 translations of each clip are sampled, and the one that agrees best with all of them is
scored. `choice` in scores.json compares it with the first and with the best of them, `diversity` tells how they differ.
With as many `--num_beams`, they are the best beams, and the first is scored.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import broadcast_object_list
from torch.utils.data import Dataset, Subset
from tqdm import tqdm
from transformers import PreTrainedModel, ProgressCallback

from modeling_flallm.choice_slt import DEFAULT_UTILITY, Utility
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import GLOSS, DatasetArguments
from ..arguments.evaluation_arguments import EvaluationArguments, GenerationArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..clips.collators import FramePreprocessor
from ..clips.control_clips import CONTROLS, ControlClips
from ..clips.data import SignClipDataset
from ..clips.splits import load_split, name_of_clip
from ..clips.training_texts import read_training_texts
from ..corpora.data_set_columns import CLIP_COLUMNS
from ..hub.model_card import add_scores
from ..hub.training_run import read_run
from ..machine.atomic_files import write_json, write_json_lines
from ..machine.kept_lines import state_of_file
from ..machine.machine import default_device
from ..machine.ray_cluster import is_one_of_several, run_as_processes_on_ray
from ..runs.pictures import draw_scores
from ..runs.quantization import DTYPES, load_to_translate
from ..runs.trainers import ClipTrainer
from ..runs.training import collator_class_of, start_run, trainer_class_of
from ..runs.unfinished_predictions import UnfinishedPredictions
from ..scores.breakdown import breakdown
from ..scores.candidates import best_texts, choice_scores, format_choice, utility_of_flag
from ..scores.content_words import function_words_of
from ..scores.controls import TITLE_OF_CONTROL, control_scores, drawn_clips
from ..scores.diversity import diversity_scores
from ..scores.metrics import format_scores, generated_token_ids, translation_scores
from ..scores.recognition import recognition_scores
from ..scores.report import format_report
from ..scores.score_models import load_score_models, model_scores

BATCHES_BETWEEN_WRITES = 8  # per process; multiplied by the number of processes that read videos for it, plus one


@dataclass
class EvaluationRunArguments(FLaLLMTrainingArguments):
    """Of a Trainer that only translates: it evaluates, saves and logs nothing, in the dtype that the model has."""

    eval_strategy: str = "no"
    save_strategy: str = "no"
    load_best_model_at_end: bool = False
    bf16: bool | None = False
    generation_max_length: int | None = None
    report_to: list[str] = field(default_factory=lambda: ["none"])


def evaluate_model(
    model: PreTrainedModel,
    processor: FLaLLMProcessor,
    evaluation: EvaluationArguments,
    data: DatasetArguments,
    run: EvaluationRunArguments,
    kept: UnfinishedPredictions,
    num_candidates: int | None = None,
    choose_by: str | None = None,
    seed: int | None = None,
    left_handed: bool | str = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """
    -> scores as returned by `translation_scores` and `breakdown`, `controls`, and for glosses those of
    `recognition_scores`; and one row per clip: file_name, prediction, reference and, where it is known, signer. With
    `num_candidates`, the rows also have their `candidates`, and the scores `choice` and `diversity`.
    """
    if len(data.dataset) > 1:
        raise ValueError(f"--dataset: one data set is scored at a time, got {len(data.dataset)}. Score them in turn.")
    split = load_split(data, evaluation.split, evaluation.max_clips)
    dataset = SignClipDataset(split, processor, text_column=data.text_column)
    options = {
        "language": data.spoken_language,
        "append_period": evaluation.append_period,
        "lowercase": evaluation.lowercase,
    }
    translation_scores(dataset.texts, dataset.texts, num_resamples=0, **options)  # raises before the work starts
    names = zip(_names_of_clips(split), dataset.texts, strict=True)
    kept.check_clips([{**clip, "reference": reference} for clip, reference in names])
    training_texts = read_training_texts(data)
    function_words = function_words_of(dataset.texts, training_texts, data.spoken_language)
    utility = utility_of_flag(choose_by, run.device)  # an encoder that does not exist is to be told before the work
    scorers = load_score_models(evaluation.score_models, run.device)
    trainer = _build_trainer(model, processor, run)
    if left_handed is not False:
        model.vision_model.check_can_be_mirrored()
    trainer.left_handed = left_handed
    how = _writing(trainer, num_candidates, seed)
    is_chosen = num_candidates is not None and not model.writes_by_beams(how)
    if choose_by is not None and not is_chosen:
        raise ValueError(
            "--choose_by chooses among samples: of as many beams as candidates the best beam is scored. Leave out "
            "--num_beams to sample, or --choose_by."
        )
    rows = _translate(trainer, dataset, _names_of_clips(split), kept, how)
    candidates = [row["candidates"] for row in rows] if num_candidates is not None else None
    if candidates is not None:
        texts = best_texts(candidates, utility) if is_chosen else [each[0] for each in candidates]
        rows = [row | {"prediction": text} for row, text in zip(rows, texts, strict=True)]
    predictions = [row["prediction"] for row in rows]
    signers = split["signer"] if "signer" in split.column_names else None
    if signers is not None:
        rows = [row | {"signer": signer} for row, signer in zip(rows, signers, strict=True)]
    controls = _translate_controls(trainer, dataset, evaluation.max_control_clips, how, utility if is_chosen else None)
    scores = translation_scores(predictions, dataset.texts, **options)
    if left_handed is not False:
        scores["left_handed"] = left_handed
    if data.target == GLOSS:
        scores |= recognition_scores(predictions, dataset.texts, evaluation.lowercase)
    scores |= breakdown(predictions, dataset.texts, function_words, signers, training_texts, **options)
    if scorers:
        scores["model_scores"] = model_scores(scorers, predictions, dataset.texts)
    scores["controls"] = control_scores(predictions, dataset.texts, *controls, function_words, **options)
    if candidates is not None:
        facts = {"num_candidates": num_candidates, "choose_by": (choose_by or DEFAULT_UTILITY) if is_chosen else None}
        chosen = predictions if is_chosen else None
        scores["choice"] = facts | choice_scores(candidates, chosen, dataset.texts, **options)
        scores["diversity"] = diversity_scores(candidates, data.spoken_language)
    return scores, rows


def _build_trainer(model: PreTrainedModel, processor: FLaLLMProcessor, run: EvaluationRunArguments) -> ClipTrainer:
    model.generation_config.num_return_sequences = 1  # whatever it was saved with
    model.is_quantized = False  # otherwise the Trainer rejects such a model, which it could not train
    trainer = trainer_class_of(model)(
        model=model,
        args=run,
        data_collator=collator_class_of(model)(processor, run.preprocess_on_device),
        processing_class=processor,
    )
    trainer.frame_preprocessor = FramePreprocessor(processor.modality)
    trainer.remove_callback(ProgressCallback)  # it would show a progress bar for every part
    return trainer


def _writing(trainer: ClipTrainer, num_candidates: int | None, seed: int | None) -> dict[str, Any]:
    """The arguments of `generate`: those with which it writes candidates, and those of a diffusion with a seed."""
    model, num_beams = trainer.model, trainer.args.generation_num_beams
    # The seeds of a diffusion are arguments, whatever torch draws.
    seeds = {"generator": torch.Generator().manual_seed(seed)} if model.draws_samples and seed is not None else {}
    if num_candidates is None:
        return seeds
    return seeds | model.candidate_arguments(num_candidates, {} if num_beams is None else {"num_beams": num_beams})


def _translate(
    trainer: ClipTrainer,
    dataset: SignClipDataset,
    names: list[dict[str, Any]],
    kept: UnfinishedPredictions,
    how: dict[str, Any],
) -> list[dict[str, Any]]:
    """
    Rows of all clips, those of `kept` first; the others are saved as they come, by the first process only.

    Args:
        how: arguments of `generate` for several candidates, if it is to write them.
    """
    run = trainer.args
    (rows,) = broadcast_object_list([kept.lines])
    if run.process_index == 0 and rows:
        print(f"Resuming after {len(rows)} of {len(dataset)} clips, which {kept.path} holds.", flush=True)
    num_batches = BATCHES_BETWEEN_WRITES * (1 + run.dataloader_num_workers)  # loading processes restart for each part
    num_together = num_batches * run.eval_batch_size * run.world_size
    is_silent = run.disable_tqdm or run.process_index != 0
    with tqdm(total=len(dataset), initial=len(rows), unit="clip", desc="translating", disable=is_silent) as progress:
        for first in range(len(rows), len(dataset), num_together):
            part = range(first, min(first + num_together, len(dataset)))
            texts = _texts_of(trainer, Subset(dataset, part), how, run.seed + first)
            new = [
                {**names[index], **of_clip, "reference": dataset.texts[index]}
                for index, of_clip in zip(part, texts, strict=True)
            ]
            if run.process_index == 0:
                kept.append(*new)
            rows = rows + new
            progress.update(len(new))
    return rows


def _texts_of(trainer: ClipTrainer, clips: Dataset, how: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """The `prediction` or the `candidates` of each clip; samples are drawn from the seed, wherever a run went on."""
    processor, num_candidates = trainer.processing_class, how.get("num_return_sequences")
    if num_candidates is not None:
        torch.manual_seed(seed + trainer.args.process_index)
    output = trainer.predict(clips, **how)
    # Of each clip `(length,)` or, of several candidates, `(length, candidates)`.
    token_ids = generated_token_ids(output.predictions, len(clips), processor.tokenizer.pad_token_id)
    texts = [processor.batch_decode(ids.reshape(len(ids), num_candidates or 1).T) for ids in token_ids]
    return [{"prediction": each[0]} if num_candidates is None else {"candidates": each} for each in texts]


def _translate_controls(
    trainer: ClipTrainer, dataset: SignClipDataset, most: int, how: dict[str, Any], utility: Utility | None
) -> tuple[dict[str, list[str]], list[int]]:
    """
    Translations of at most so many clips without what they show, by the name of the control, and which clips these are.

    Args:
        utility: chooses among samples; None for the best beam.
    """
    indices = drawn_clips(len(dataset), most)
    texts = {}
    for control in CONTROLS if indices else ():
        if trainer.args.process_index == 0:
            print(f"{len(indices)} clips, each with {TITLE_OF_CONTROL[control]}.", flush=True)
        rows = _texts_of(trainer, ControlClips(dataset, control, indices), how, trainer.args.seed)
        if utility is not None:
            texts[control] = best_texts([row["candidates"] for row in rows], utility)
        else:
            texts[control] = [row["prediction"] if "prediction" in row else row["candidates"][0] for row in rows]
    return texts, indices


def _names_of_clips(split: datasets.Dataset) -> list[dict[str, Any]]:
    """`file_name` of each clip, and `start` and `end` if it is part of the file."""
    clips = enumerate(split.select_columns([name for name in CLIP_COLUMNS if name in split.column_names]))
    names = [Path(name_of_clip(row) or f"clip {index}").name for index, row in clips]
    limits = [name for name in ("start", "end") if name in split.column_names]
    parts = [dict(zip(limits, values, strict=True)) for values in zip(*(split[name] for name in limits), strict=True)]
    return [
        {"file_name": name, **{limit: value for limit, value in part.items() if value is not None}}
        for name, part in zip(names, parts or [{}] * len(names), strict=True)
    ]


def run_arguments(output_dir: str, generation: GenerationArguments) -> EvaluationRunArguments:
    """
    What the Trainer calls the arguments of the command.

    Raises:
        ValueError: for a device that this machine has not, or one of several.
    """
    known = list(dict.fromkeys((default_device().type, "cpu")))
    if generation.device not in (None, *known):
        raise ValueError(
            f"--device must be {' or '.join(known)}, got {generation.device!r}. Of several GPUs, CUDA_VISIBLE_DEVICES "
            "chooses one, and torchrun uses all."
        )
    return EvaluationRunArguments(
        output_dir=output_dir,
        per_device_eval_batch_size=generation.batch_size,
        generation_num_beams=generation.num_beams,
        generation_max_length=generation.generation_max_length,
        generation_config=generation.generation_config,
        seed=EvaluationRunArguments.seed if generation.seed is None else generation.seed,
        dataloader_num_workers=generation.num_workers,
        num_threads=generation.num_threads,
        use_cpu=generation.device == "cpu",
        preprocess_on_device=generation.preprocess_on_device,
        disable_tqdm=generation.disable_tqdm,
    )


def _settings(
    evaluation: EvaluationArguments, data: DatasetArguments, generation: GenerationArguments
) -> dict[str, Any]:
    """What the predictions depend on."""
    values = {**vars(evaluation), **vars(data), **vars(generation)}
    names = ("model", "dataset", "split", "max_clips", "text_column", "spoken_language")
    of_generation = ("dtype", "quantization", "num_beams", "generation_max_length", "generation_config")
    draws = generation.num_candidates is not None or generation.seed is not None
    of_samples = ("num_candidates", "seed") if draws else ()
    of_samples += ("left_handed",) if generation.left_handed is not False else ()
    weights = sorted(Path(evaluation.model).glob("*.safetensors"))
    return {
        **{name: values[name] for name in (*names, *of_generation, *of_samples)},
        "weights": [[path.name, state_of_file(path)] for path in weights],
    }


def write_results(folder: Path, scores: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(folder / "predictions.jsonl", rows)
    write_json(folder / "scores.json", scores)


def run_evaluation(argv: Sequence[str] | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Evaluate from command-line arguments; returns what `evaluate_model` returns."""
    evaluation, data, generation, _ = COMMANDS["evaluate"].parse(argv)
    run = run_arguments(evaluation.output_dir, generation)
    kept = UnfinishedPredictions(Path(run.output_dir), _settings(evaluation, data, generation))
    model_folder = Path(evaluation.model)
    if evaluation.add_to_model_card:
        read_run(model_folder)  # a folder without a record is to be told before the work
    start_run(run, DTYPES[generation.dtype])
    model, processor = load_to_translate(evaluation.model, run.device, generation.dtype, generation.quantization)
    how = (generation.num_candidates, generation.choose_by, generation.seed, generation.left_handed)
    scores, rows = evaluate_model(model, processor, evaluation, data, run, kept, *how)
    if run.process_index == 0:
        write_results(Path(run.output_dir), scores, rows)
        draw_scores(scores, Path(run.output_dir) / "scores.png")
        if evaluation.add_to_model_card:
            num_beams = run.generation_num_beams or model.generation_config.num_beams
            if (generation.num_candidates or 1) > num_beams:
                num_beams = 1  # the candidates were sampled
            add_scores(model_folder, scores, data, evaluation.split, num_beams)
        kept.delete()  # once all is written: without it, the folder is that of a run that has ended
        print(f"{format_scores(scores)}\n\n{format_report(scores)}")
        if "choice" in scores:
            print(format_choice(scores))
    return scores, rows


def run(argv: Sequence[str] | None = None) -> int:
    """Evaluate from command-line arguments, here or on a cluster."""
    _, _, generation, sharing = COMMANDS["evaluate"].parse(argv)
    cluster = sharing.cluster(uses_gpus=generation.device != "cpu", threads=generation.num_threads)
    if cluster is not None and not is_one_of_several():
        return run_as_processes_on_ray(cluster, "train_scripts.commands.evaluate_model", argv)
    run_evaluation(argv)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
