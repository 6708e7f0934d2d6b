"""
Stage 2 of LLaVA-SLT, visual contrastive pretraining: the hierarchical visual encoder learns to say with a whole video
what a frozen text encoder says of its sentence, and with its word-like tokens which tokens of the language model occur
(https://arxiv.org/abs/2412.16524).

    flallm train visual-contrastive-pretraining --config llava_slt_visual_contrastive_pretraining \
        --dataset phoenix14t/ --text_model_name_or_path stage1 --text_encoder_name_or_path BAAI/bge-m3 \
        --output_dir stage2

The output folder holds the encoder with its two projections, for `flallm train visual-language-tuning`. The run is
scored by retrieval: for each video of the evaluation split, all different sentences of the split are put in order of
their likeness to it, and the place of its own one is counted. Small, on a CPU:

    flallm train visual-contrastive-pretraining --config quickstart_llava_slt_visual_contrastive_pretraining \
        --dataset corpus --text_model_name_or_path stage1 --output_dir stage2
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    EvalPrediction,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)

from modeling_flallm import LlavaSltContrastiveConfig, LlavaSltForContrastivePreTraining, LlavaSltVisualConfig
from modeling_flallm.language_kind_slt import is_encoder_decoder
from modeling_flallm.loading_slt import load_whole
from modeling_flallm.own_processing import FLaLLMProcessor
from modeling_flallm.systems import titles

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from ..arguments.stage_arguments import VisualContrastivePretrainingArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_defaults import CONTRASTIVE_SCORES, ContrastiveTrainingDefaults
from ..clips.augmentation import ClipAugmentation
from ..clips.collators import IGNORED_LABEL, TranslationCollator
from ..clips.data import SignVideoDataset
from ..clips.splits import load_split
from ..hub.hub_names import check_model_names
from ..hub.training_run import add_retrieval, describe_run
from ..runs.damaged_models import reading_model
from ..runs.resuming import check_run
from ..runs.sentence_encoder import load_sentence_encoder
from ..runs.trainers import VideoTrainer
from ..runs.training import (
    build_processor,
    build_trainer,
    check_score_name,
    choose_fast_attention,
    open_splits,
    open_tokenizer,
    prepare_clips,
    prepare_visual_encoder,
    start_run,
    train_and_finish,
)
from ..scores.metrics import comparable

# Share of the mean variance: whitened directions are never longer than this allows.
WHITENING_RIDGE = 0.1


@dataclass
class ContrastiveTrainingArguments(ContrastiveTrainingDefaults, FLaLLMTrainingArguments):
    """Evaluation by retrieval instead of generation."""


# The frozen text side


class TextTargets:
    """
    What the visual encoder is compared with, made once for all sentences.

    Sentence embeddings are centred: the mean over the training sentences is taken away. Those of language models lie in
    a narrow cone, where all sentences are much alike, and the contrast would have to unlearn that first (ours).

    Args:
        training_texts: whose mean is the centre, and in which the tokens occur that are word targets.
        other_texts: of the splits that are evaluated.
        tokenizer: of the language model.
        encode: sentences -> `(sentences, width)`.
    """

    def __init__(
        self,
        training_texts: Sequence[str],
        other_texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        encode: Callable[[list[str]], torch.Tensor],
    ):
        training_texts = list(dict.fromkeys(map(_normalised, training_texts)))
        texts = list(dict.fromkeys([*training_texts, *map(_normalised, other_texts)]))
        embeddings = encode(texts)
        self._embeddings = embeddings - embeddings[: len(training_texts)].mean(0)
        self._row_of_text = {text: row for row, text in enumerate(texts)}
        token_ids = [list(dict.fromkeys(ids)) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        self.token_ids = sorted({token_id for ids in token_ids[: len(training_texts)] for token_id in ids})
        row_of_token = {token_id: row for row, token_id in enumerate(self.token_ids)}
        self._words = [
            torch.tensor([row_of_token[token_id] for token_id in ids if token_id in row_of_token], dtype=torch.long)
            for ids in token_ids
        ]

    @property
    def width(self) -> int:
        return self._embeddings.shape[1]

    def embeddings_of(self, texts: Sequence[str]) -> torch.Tensor:
        """-> `(texts, width)`"""
        return self._embeddings[self._rows_of(texts)]

    def word_ids_of(self, texts: Sequence[str]) -> torch.Tensor:
        """
        -> `(texts, words)`: each different token of a sentence once, as its place in `token_ids`, and -100 for padding.
        Tokens that do not occur in training are left out.
        """
        words = [self._words[row] for row in self._rows_of(texts)]
        return pad_sequence(words, batch_first=True, padding_value=IGNORED_LABEL)

    def _rows_of(self, texts: Sequence[str]) -> list[int]:
        return [self._row_of_text[_normalised(text)] for text in texts]


def _normalised(text: str) -> str:
    return comparable(str(text))


def load_text_targets(
    arguments: VisualContrastivePretrainingArguments,
    training_texts: Sequence[str],
    other_texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> TextTargets:
    """
    Raises:
        ValueError: if there is no such text encoder.
    """
    encoder = load_sentence_encoder(arguments.text_encoder_name_or_path or arguments.text_model_name_or_path, device)
    return TextTargets(training_texts, other_texts, tokenizer, encoder)


def load_word_targets(name_or_path: str, token_ids: list[int]) -> torch.Tensor:
    """
    Token embeddings of a language model, whitened -> `(token ids, width)`.

    Raises:
        ValueError: if it is no causal language model.
    """
    try:
        with reading_model(name_or_path):
            config = AutoConfig.from_pretrained(name_or_path)
            if is_encoder_decoder(config):
                raise ValueError(
                    f"{config.model_type!r} is an encoder-decoder, for {titles(is_prompted=False)}. Name a "
                    "decoder-only language model."
                )
            model = load_whole(AutoModelForCausalLM.from_pretrained, name_or_path, dtype="auto")
    except (OSError, ValueError) as error:
        raise ValueError(f"{name_or_path!r} holds no causal language model that can be loaded: {error}") from error
    return whiten(model.get_input_embeddings().weight.detach()[token_ids].float())


def whiten(embeddings: torch.Tensor) -> torch.Tensor:
    """
    `(rows, width)` without what all rows share: centred, and with directions in which they vary much made as short as
    the others (ZCA, with a ridge for those in which they hardly vary).

    Token embeddings of words that are used alike are nearly the same, and no cosine could tell "fish" from "boat". This
    is one fixed linear map, so what is aligned with its results is one linear map away from the embeddings (ours).
    """
    centred = embeddings - embeddings.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    scales = (variances.clamp(min=0) + WHITENING_RIDGE * variances.mean()).clamp(min=1e-12) ** -0.5
    return centred @ (directions * scales) @ directions.T


# The model


def build_model(
    arguments: VisualContrastivePretrainingArguments, targets: TextTargets
) -> LlavaSltForContrastivePreTraining:
    """A random visual encoder, or one from ImageNet weights, with the text side's targets."""
    word_targets = load_word_targets(arguments.text_model_name_or_path, targets.token_ids)
    config = LlavaSltContrastiveConfig(
        vision_config=LlavaSltVisualConfig(
            frame_config=arguments.frame_encoder_config(),
            word_window_size=arguments.word_window_size,
            word_window_stride=arguments.word_window_stride,
            word_hidden_size=arguments.word_hidden_size,
            word_layers=arguments.word_layers,
            word_attention_heads=arguments.word_attention_heads,
            word_feed_forward_size=arguments.word_feed_forward_size,
            dropout=arguments.word_dropout,
        ),
        sentence_target_size=targets.width,
        word_target_size=word_targets.shape[1],
        word_vocabulary_size=len(word_targets),
        temperature_init=arguments.temperature,
        word_alignment_weight=arguments.word_alignment_weight,
        memory_bank_size=arguments.memory_bank_size,
    )
    model = LlavaSltForContrastivePreTraining(config)
    if arguments.imagenet_weights:
        model.vision_model.load_imagenet_weights()
    if model.has_word_level:
        model.set_word_targets(word_targets)
    return model


# Training and evaluation


class ContrastiveCollator(TranslationCollator):
    """Items of `SignVideoDataset` -> what `LlavaSltForContrastivePreTraining` takes, padded."""

    def __init__(self, processor: FLaLLMProcessor, targets: TextTargets, preprocess_on_device: bool = False):
        super().__init__(processor, preprocess_on_device)
        self.targets = targets

    def text_inputs(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [item["text"] for item in items]
        return {
            "sentence_embeddings": self.targets.embeddings_of(texts),
            "word_ids": self.targets.word_ids_of(texts),
        }


class ContrastiveTrainer(VideoTrainer):
    """Evaluation gathers the embedding of each video, and how many of its words were found."""

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **generation_arguments):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        if prediction_loss_only:
            return output.loss, None, None
        return output.loss, output.video_embeddings, _count_words(output.word_logits, inputs["word_ids"])


def _count_words(word_logits: torch.Tensor | None, word_ids: torch.Tensor) -> torch.Tensor:
    """-> `(batch, 3)`: words that are in the sentence and were found, that were found, that are in the sentence."""
    if word_logits is None:
        return word_ids.new_zeros(len(word_ids), 3)
    is_word = (word_ids != IGNORED_LABEL).long()
    present = torch.zeros_like(word_logits, dtype=torch.long).scatter_add(1, word_ids.clamp(min=0), is_word) > 0
    found = word_logits > 0
    return torch.stack([(found & present).sum(1), found.sum(1), present.sum(1)], dim=1)


def retrieval_scores(videos: torch.Tensor, sentences: torch.Tensor, own: torch.Tensor) -> dict[str, float]:
    """
    How well videos find their sentences: `recall_at_1` and `recall_at_5` (of 100 videos, how many have their own
    sentence first, or among the first five), `median_rank`, what chance would give of each, and `num_sentences`.

    Args:
        videos: `(clips, width)`, and `sentences`: `(different sentences, width)`.
        own: `(clips,)`, rows of `sentences`.

    A tie counts against the video: one embedding for all finds nothing.
    """
    likeness = torch.nn.functional.normalize(videos, dim=1) @ torch.nn.functional.normalize(sentences, dim=1).T
    ranks = (likeness >= likeness.gather(1, own[:, None])).sum(1).float()
    return {
        "recall_at_1": 100 * (ranks <= 1).float().mean().item(),
        "recall_at_5": 100 * (ranks <= 5).float().mean().item(),
        "median_rank": ranks.median().item(),
        "chance_recall_at_1": 100 / len(sentences),
        "chance_recall_at_5": 100 * min(5 / len(sentences), 1.0),
        "chance_median_rank": (len(sentences) + 1) / 2,
        "num_sentences": float(len(sentences)),
    }


def word_scores(counts: np.ndarray) -> dict[str, float]:
    """`word_precision`, `word_recall` and `word_f1` over all clips, of the counts `(clips, 3)` of `_count_words`."""
    hits, found, present = (float(count) for count in counts.sum(0))
    return {
        "word_precision": 100 * hits / max(found, 1.0),
        "word_recall": 100 * hits / max(present, 1.0),
        "word_f1": 200 * hits / max(found + present, 1.0),
    }


def build_compute_scores(targets: TextTargets, texts: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` for clips with these sentences, in the order of the data set."""
    texts = [_normalised(text) for text in texts]
    distinct = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    own = torch.tensor([row_of[text] for text in texts])
    sentences = targets.embeddings_of(distinct)

    def compute_scores(evaluation: EvalPrediction) -> dict[str, float]:
        # Under several processes the first clips come again at the end, to fill the last batch.
        videos = torch.from_numpy(evaluation.predictions[: len(texts)])
        return {**retrieval_scores(videos, sentences, own), **word_scores(evaluation.label_ids[: len(texts)])}

    return compute_scores


def format_retrieval(scores: dict[str, float], split: str) -> str:
    """One line on scores without a prefix."""
    return (
        f"{split}: {scores['recall_at_1']:.1f} of 100 videos find their own sentence first among "
        f"{scores['num_sentences']:.0f} (chance {scores['chance_recall_at_1']:.1f}), {scores['recall_at_5']:.1f} among "
        f"the first five (chance {scores['chance_recall_at_5']:.1f}); median place {scores['median_rank']:.0f} (chance "
        f"{scores['chance_median_rank']:.1f}). Words that occur: F1 {scores['word_f1']:.1f}."
    )


def run_pretraining(
    arguments: VisualContrastivePretrainingArguments,
    data: DataArguments,
    video: VideoArguments,
    augmentation: AugmentationArguments,
    training: ContrastiveTrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, float]:
    """
    Train, choose the best checkpoint and save model, video processor and model card in the output folder.

    Returns:
        `dict[str, float]`: the scores of the best checkpoint, with `eval_` in front, and with the name of the split
        that is also measured.

    Raises:
        ValueError, FileNotFoundError: for what the user has to mend, before any training.
    """
    check_run(training)
    check_model_names(arguments)
    check_score_name(training, CONTRASTIVE_SCORES)
    if data.streaming:
        raise ValueError(
            "--streaming is not for this stage: all sentences are embedded before training. Leave it out, and download "
            "the data set."
        )
    splits = open_splits(data, training)
    if "video" not in splits.train.column_names:
        raise ValueError(
            "Visual contrastive pretraining trains a visual encoder on videos; the data set has none, and ready-made "
            "visual features need no encoder. Go on with stage 3, flallm train visual-language-tuning, with "
            "--visual_features_size."
        )
    other_split = None if arguments.also_measure_on is None else load_split(data, arguments.also_measure_on)
    callbacks = [*callbacks, *start_run(training)]
    tokenizer = open_tokenizer(arguments.text_model_name_or_path)
    evaluated = [split[data.text_column] for split in (splits.evaluation, other_split) if split is not None]
    targets = load_text_targets(
        arguments, splits.train[data.text_column], list(itertools.chain(*evaluated)), tokenizer, training.device
    )
    set_seed(training.seed)
    model = build_model(arguments, targets)
    prepare_visual_encoder(model, training)
    choose_fast_attention(model, training)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # processors want one, and nothing is padded with it here
    processor = build_processor(video, tokenizer)
    clips = prepare_clips(splits, processor, data, ClipAugmentation(augmentation, video), training)
    trainer = build_trainer(
        ContrastiveTrainer,
        model,
        clips,
        ContrastiveCollator(processor, targets, training.preprocess_on_device),
        training,
        callbacks,
        processing_class=processor.video_processor,
        compute_metrics=build_compute_scores(targets, clips.evaluation.texts),
    )
    trainer.training_run = describe_run(arguments, data, video, augmentation, training, splits.by_name(data), model)
    scores = train_and_finish(trainer, data)
    if other_split is not None:
        scores |= _measure(trainer, other_split, arguments.also_measure_on, data, targets)
        trainer.create_model_card()
        if training.push_to_hub:
            trainer.push_to_hub()
    return scores


def _measure(
    trainer: ContrastiveTrainer, split: datasets.Dataset, name: str, data: DataArguments, targets: TextTargets
) -> dict[str, float]:
    """Scores of one more split, with its name in front, also in the model card."""
    clips = SignVideoDataset(split, trainer.data_collator.processor, text_column=data.text_column)
    trainer.compute_metrics = build_compute_scores(targets, clips.texts)
    scores = trainer.evaluate(clips, metric_key_prefix=name)
    trainer.save_metrics(name, scores)
    add_retrieval(trainer.training_run, scores, name, name)
    return scores


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Stage 2 from command-line arguments; returns the scores as `run_pretraining`. `callbacks` are the Trainer's."""
    command = COMMANDS["train visual-contrastive-pretraining"]
    arguments, data, video, augmentation, training = command.parse(argv, ContrastiveTrainingArguments)
    scores = run_pretraining(arguments, data, video, augmentation, training, callbacks)
    if training.process_index == 0:
        for prefix, name in (("eval", data.evaluation_split), (arguments.also_measure_on, arguments.also_measure_on)):
            if prefix is not None:
                of_split = {key.removeprefix(f"{prefix}_"): value for key, value in scores.items()}
                print(format_retrieval(of_split, name))
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
