"""
Stage 1 of DiffSLT, text autoencoding: an encoder-decoder language model learns to write a sentence from a few latent
vectors that a compression network makes of it (https://arxiv.org/abs/2411.17248). Stage 2 diffuses in these vectors.

    flallm train text-autoencoding --config diffslt_text_autoencoding --text_file weather.txt news.txt \
        --text_model_name_or_path facebook/mbart-large-cc25 --target_language de_DE --spoken_language de \
        --output_dir autoencoder

`--dataset` uses the sentences of the training clips instead, or in addition; more text than the clips have is better.
Sentences that are not trained on are measured: a share of the text, or those of `--evaluation_text_file`. The model
writes them again from their latents, greedily, and the best checkpoint is the one with the highest BLEU-4. The language
model is frozen, unless `--freeze_text_model False` trains it, too. A small run on a CPU, after `flallm generate-corpus`
and `flallm train language-model`:

    flallm train text-autoencoding --config quickstart_diffslt_text_autoencoding --text_file corpus/text_only.txt \
        --dataset corpus --text_model_name_or_path language_model --output_dir autoencoder
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import EvalPrediction, Seq2SeqTrainer, TrainerCallback, set_seed

from modeling_flallm import DiffSltAutoencoder
from modeling_flallm.language_kind_slt import is_encoder_decoder
from modeling_flallm.own_processing import FLaLLMProcessor, FLaLLMVideoProcessor
from modeling_flallm.systems import titles

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.diffslt_stage_arguments import TextAutoencodingArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_defaults import AutoencodingTrainingDefaults
from ..clips.collators import IGNORED_LABEL
from ..hub.hub_names import check_model_names
from ..hub.text_card import write_autoencoder_card
from ..runs.damaged_models import read_config, reading_model
from ..runs.generation_defaults import set_generation_defaults
from ..runs.resuming import check_run
from ..runs.text_files import hold_out, read_text
from ..runs.text_trainer import TextTrainer
from ..runs.tokenizers import load_tokenizer
from ..runs.training import (
    check_score_name,
    choose_fast_attention,
    early_stopping,
    save_and_evaluate,
    start_run,
)
from ..scores.metrics import TITLE_OF_SCORE, build_compute_metrics, comparable, generated_token_ids

EXACT_MATCHES = "exact_matches"
LINES_AT_ONCE = 1000


@dataclass
class AutoencodingTrainingArguments(AutoencodingTrainingDefaults, FLaLLMTrainingArguments):
    """The reconstruction of held-out sentences chooses the best checkpoint."""

    def __post_init__(self):
        if self.push_to_hub:
            raise ValueError(
                "--push_to_hub is not for this stage: the model of stage 2 contains the whole autoencoder. To share it "
                "alone, run flallm push afterwards."
            )
        super().__post_init__()


class AutoencoderTrainer(TextTrainer, Seq2SeqTrainer):
    """Evaluates what the model writes."""


class Sentences(Dataset):
    """The labels of each sentence, `(tokens,)`, as the processor gives them; too long sentences are left out."""

    def __init__(self, lines: Sequence[str], processor: FLaLLMProcessor, max_tokens: int):
        labels: list[torch.Tensor] = []
        for start in range(0, len(lines), LINES_AT_ONCE):
            rows = processor(text_target=list(lines[start : start + LINES_AT_ONCE]))["labels"]
            labels += [row[row != IGNORED_LABEL] for row in rows]
        kept = [(line, row) for line, row in zip(lines, labels, strict=True) if len(row) <= max_tokens]
        if not kept:
            shortest = min(map(len, labels))
            raise ValueError(
                f"No sentence has at most --max_tokens {max_tokens} tokens; the shortest has {shortest}. Raise it."
            )
        self.texts = [line for line, _ in kept]
        self.labels = [row for _, row in kept]
        self.num_left_out = len(lines) - len(kept)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.labels[index]


def collate(items: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Labels of sentences -> `labels` `(batch, length)`, padded with -100."""
    return {"labels": pad_sequence(list(items), batch_first=True, padding_value=IGNORED_LABEL)}


def check_text_model(arguments: TextAutoencodingArguments) -> None:
    """
    Raises:
        ValueError: for a decoder-only language model.
    """
    config = read_config(arguments.text_model_name_or_path)
    if not is_encoder_decoder(config):
        raise ValueError(
            "--text_model_name_or_path must be an encoder-decoder language model, such as mBART, mT5 or BART; "
            f"{arguments.text_model_name_or_path} is decoder-only ({config.model_type}), for "
            f"{titles(is_prompted=True)}."
        )


def build_model(arguments: TextAutoencodingArguments) -> tuple[DiffSltAutoencoder, FLaLLMProcessor]:
    """The autoencoder, its text model frozen if requested, and a processor with the text model's tokenizer."""
    with reading_model(arguments.text_model_name_or_path):
        model = DiffSltAutoencoder.from_text_pretrained(
            arguments.text_model_name_or_path,
            num_latents=arguments.num_latents,
            latent_size=arguments.latent_size,
            autoencoder_layers=arguments.autoencoder_layers,
            autoencoder_heads=arguments.autoencoder_heads,
            latent_noise=arguments.latent_noise,
        )
    tokenizer = load_tokenizer(arguments.text_model_name_or_path, arguments.target_language)
    set_generation_defaults(model, tokenizer, num_beams=1)
    if arguments.freeze_text_model:
        model.freeze_text_model()
    # Its video processor is not used: the processor turns sentences into labels as in stage 2.
    return model, FLaLLMProcessor(video_processor=FLaLLMVideoProcessor(), tokenizer=tokenizer)


def build_reconstruction_scores(
    processor: FLaLLMProcessor, references: Sequence[str], language: str | None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """The scores of `build_compute_metrics`, and the percentage of sentences that come back unchanged."""
    pad_token_id = processor.tokenizer.pad_token_id
    translation_metrics = build_compute_metrics(processor.batch_decode, references, pad_token_id, language=language)

    def reconstruction_scores(evaluation: EvalPrediction) -> dict[str, float]:
        token_ids = generated_token_ids(evaluation.predictions, len(references), pad_token_id)
        written = processor.batch_decode(token_ids)
        same = [comparable(one) == comparable(other) for one, other in zip(written, references, strict=True)]
        return {**translation_metrics(evaluation), EXACT_MATCHES: 100 * sum(same) / len(same)}

    return reconstruction_scores


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """
    Stage 1 from command-line arguments; returns the scores on the held-out sentences, such as `eval_bleu4`. `callbacks`
    are passed to the Trainer.
    """
    arguments, text, training = COMMANDS["train text-autoencoding"].parse(argv, AutoencodingTrainingArguments)
    check_run(training)
    check_score_name(training, (*TITLE_OF_SCORE, EXACT_MATCHES))
    check_model_names(arguments)
    check_text_model(arguments)
    lines, held_out = hold_out(read_text(text), text, training.seed)
    callbacks = [*callbacks, *start_run(training)]
    set_seed(training.seed)
    model, processor = build_model(arguments)
    choose_fast_attention(model, training)
    learned, unseen = (Sentences(each, processor, arguments.max_tokens) for each in (lines, held_out))
    trainer = AutoencoderTrainer(
        model=model,
        args=training,
        data_collator=collate,
        train_dataset=learned,
        eval_dataset=unseen,
        processing_class=processor.tokenizer,
        compute_metrics=build_reconstruction_scores(processor, unseen.texts, text.spoken_language)
        if training.predict_with_generate
        else None,
        callbacks=[*early_stopping(training), *callbacks],
    )
    if training.process_index == 0:
        print(
            f"{len(learned)} sentences; {len(unseen)} are held out. {learned.num_left_out + unseen.num_left_out} "
            f"with more than {arguments.max_tokens} tokens are left out."
        )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    return _finish(trainer, arguments, text.spoken_language)


def _finish(
    trainer: AutoencoderTrainer, arguments: TextAutoencodingArguments, spoken_language: str | None
) -> dict[str, float]:
    training = trainer.args
    scores = save_and_evaluate(trainer)
    titles_of_scores = {"eval_bleu4": "BLEU-4", f"eval_{EXACT_MATCHES}": "exact matches in %", "eval_loss": "loss"}
    found = {title: scores[name] for name, title in titles_of_scores.items() if name in scores}
    if training.should_save:
        write_autoencoder_card(
            Path(training.output_dir),
            trainer.model,
            arguments.text_model_name_or_path,
            (len(trainer.train_dataset), len(trainer.eval_dataset)),
            found,
            spoken_language,
            training.model_license,
        )
    if training.process_index == 0:
        listed = ", ".join(f"{title} {value:.2f}" for title, value in found.items())
        print(f"Held-out sentences: {listed}; saved in {training.output_dir}.")
    trainer.raise_faults()
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
