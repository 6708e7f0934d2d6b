"""
Translate a split with a trained model and score it against its sentences.

    flallm-evaluate --model_name_or_path stage2 --dataset corpus --split test --output_dir test_scores

Writes scores.json (with signatures and bootstrap intervals) and predictions.jsonl, and prints the table. With
`--add_to_model_card True` the scores also go into the model card of a local folder. Under `torchrun` the clips are
shared out and the scores computed once over all of them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
from transformers import PreTrainedModel

from modeling_flallm.own_processing import FLaLLMProcessor

from .arguments import DataArguments, FLaLLMTrainingArguments, check_new_folder, parse_arguments
from .atomic_files import write_folder, write_json, write_json_lines
from .command_line import run_command
from .data import FramePreprocessor, SignVideoDataset, load_split
from .metrics import format_scores, generated_token_ids, translation_scores
from .model_card import add_scores
from .quantization import DTYPES, QUANTIZATIONS, load_to_translate
from .training import start_run, system_of
from .training_run import read_run


@dataclass
class EvaluationArguments:
    """Model, split and how to score."""

    model_name_or_path: str = field(default=None, metadata={"help": "Folder or Hub id of a trained model. Required."})
    split: str = field(default="test", metadata={"help": "Split to translate."})
    max_clips: int | None = field(default=None, metadata={"help": "Only the first so many clips."})
    append_period: bool = field(
        default=False, metadata={"help": "Append ' .' to both sides, a habit on PHOENIX14T; the signature says so."}
    )
    lowercase: bool = field(default=False, metadata={"help": "Compare in lower case; the signature says so."})
    add_to_model_card: bool = field(
        default=False,
        metadata={"help": "Write the scores into README.md of the model's folder, in place of those of this split."},
    )
    dtype: str = field(
        default="float32", metadata={"help": f"In what the model computes: {', '.join(DTYPES)}.", "choices": [*DTYPES]}
    )
    quantization: str | None = field(
        default=None,
        metadata={
            "help": "Bits in which the language model keeps its weights: int8 or int4. As in flallm-translate.",
            "choices": [*QUANTIZATIONS],
        },
    )

    def __post_init__(self):
        if self.model_name_or_path is None:
            raise ValueError("`--model_name_or_path` must name a trained model.")


@dataclass
class EvaluationRunArguments(FLaLLMTrainingArguments):
    """Without training."""

    eval_strategy: str = field(default="no", metadata={"help": "Must be no."})
    save_strategy: str = field(default="no", metadata={"help": "Must be no."})
    load_best_model_at_end: bool = field(default=False, metadata={"help": "Must be False."})
    bf16: bool | None = field(default=False, metadata={"help": "Must be False; see --dtype."})
    generation_max_length: int | None = field(
        default=None, metadata={"help": "Default: what the model was saved with."}
    )
    report_to: list[str] = field(default_factory=lambda: ["none"], metadata={"help": "Where to log."})
    fixed_flags: ClassVar[dict[str, Any]] = {
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "bf16": False,
        "predict_with_generate": True,
        "prediction_loss_only": False,
    }


def evaluate_model(
    model: PreTrainedModel,
    processor: FLaLLMProcessor,
    evaluation: EvaluationArguments,
    data: DataArguments,
    run: EvaluationRunArguments,
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """-> scores as `translation_scores` gives them, and one row per clip: file_name, prediction, reference."""
    if len(data.dataset) > 1:
        raise ValueError(f"--dataset: one data set is scored at a time, got {len(data.dataset)}. Score them in turn.")
    split = load_split(data, evaluation.split, evaluation.max_clips)
    dataset = SignVideoDataset(split, processor, text_column=data.text_column)
    system = system_of(model)
    model.is_quantized = False  # else the Trainer refuses such a model, which it could not train
    trainer = system.trainer_class(
        model=model,
        args=run,
        data_collator=system.collator_class(processor, run.preprocess_on_device),
        processing_class=processor,
    )
    trainer.frame_preprocessor = FramePreprocessor(processor)
    output = trainer.predict(dataset)
    token_ids = generated_token_ids(output.predictions, len(dataset), processor.tokenizer.pad_token_id)
    predictions = processor.batch_decode(token_ids)
    scores = translation_scores(
        predictions,
        dataset.texts,
        language=data.spoken_language,
        append_period=evaluation.append_period,
        lowercase=evaluation.lowercase,
    )
    rows = [
        {**clip, "prediction": prediction, "reference": reference}
        for clip, prediction, reference in zip(_names_of_clips(split), predictions, dataset.texts, strict=True)
    ]
    return scores, rows


def _names_of_clips(split: datasets.Dataset) -> list[dict[str, Any]]:
    """`file_name` of each clip, and `start` and `end` where it is a part of the file."""
    names = [Path(video["path"] or f"clip {index}").name for index, video in enumerate(split["video"])]
    limits = [name for name in ("start", "end") if name in split.column_names]
    parts = [dict(zip(limits, values, strict=True)) for values in zip(*(split[name] for name in limits), strict=True)]
    return [
        {"file_name": name, **{limit: value for limit, value in part.items() if value is not None}}
        for name, part in zip(names, parts or [{}] * len(names), strict=True)
    ]


def write_results(folder: Path, scores: dict[str, Any], rows: list[dict[str, str]]) -> None:
    def fill(unfinished: Path) -> None:
        write_json(unfinished / "scores.json", scores)
        write_json_lines(unfinished / "predictions.jsonl", rows)

    write_folder(folder, fill)


def run_evaluation(argv: Sequence[str] | None = None) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Evaluate from command-line arguments; returns what `evaluate_model` returns."""
    evaluation, data, run = parse_arguments(
        (EvaluationArguments, DataArguments, EvaluationRunArguments),
        argv,
        description="Translate a split with a trained model and score it.",
    )
    check_new_folder(Path(run.output_dir))
    model_folder = Path(evaluation.model_name_or_path)
    if evaluation.add_to_model_card:
        read_run(model_folder)  # a folder without a record is to be told before the work
    start_run(run, DTYPES[evaluation.dtype])
    model, processor = load_to_translate(
        evaluation.model_name_or_path, run.device, evaluation.dtype, evaluation.quantization
    )
    scores, rows = evaluate_model(model, processor, evaluation, data, run)
    if run.process_index == 0:
        write_results(Path(run.output_dir), scores, rows)
        if evaluation.add_to_model_card:
            num_beams = run.generation_num_beams or model.generation_config.num_beams
            add_scores(model_folder, scores, data, evaluation.split, num_beams)
        print(format_scores(scores))
    return scores, rows


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run_evaluation, argv)


if __name__ == "__main__":
    sys.exit(main())
