"""What the stages share: the sequence of a run, and what it leaves in the output folder."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)

from modeling_flallm.own_processing import MODALITIES, FLaLLMProcessor, modality_of_input
from modeling_flallm.sign_encoder_slt import SignEncoder

from ..arguments.data_arguments import (
    GLOSS,
    AugmentationArguments,
    DataArguments,
    FeatureCacheArguments,
    VideoArguments,
)
from ..arguments.sharding_flags import is_sharded
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_flags import num_idle_gpus
from ..clips.augmentation import NO_AUGMENTATION, ClipAugmentation, MiddleFrames, tell_unused_in_space
from ..clips.collators import FramePreprocessor, PromptedTranslationCollator, TranslationCollator
from ..clips.data import RandomDataset
from ..clips.feature_cache import (
    CachedClipDataset,
    EncodingSettings,
    FeatureCache,
    augmentation_in_cache,
    check_feature_cache,
    check_features_can_be_kept,
    describe_views,
    tell_unused_augmentation,
)
from ..clips.samplers import ClipSampler, FrameBudgetBatchSampler
from ..hub.hub_names import check_model_names
from ..hub.model_card import save_adapter, write_adapter_card
from ..hub.training_run import add_run_scores, complete_run, describe_run
from ..machine.machine import ThreadsForFreeCores, computing_dtype, describe_machine, prepare_machine
from ..scores.metrics import TITLE_OF_SCORE, build_compute_metrics
from ..scores.recognition import TITLE_OF_RECOGNITION
from .collapse_check import add_collapse_check
from .encoder_adapters import merge_encoder_adapters
from .hand_of_signers import learn_hand
from .resuming import LORA_BASE, EarlyStopping, check_run
from .sharded_models import holds_parts, merge_saved_adapter, whole_weights
from .text_trainer import TextTrainer
from .trainers import ClipTrainer, FLaLLMTrainer, LlavaSltTrainer
from .training_clips import TrainingClips, learn_origin_of_clips, open_splits, prepare_clips

SECONDS_BETWEEN_LOOKS = 3.0


class TellTheEpoch(TrainerCallback):
    """For everything that makes new random draws in each epoch."""

    def __init__(self, listeners: list[RandomDataset | CachedClipDataset | ClipSampler | FrameBudgetBatchSampler]):
        self.listeners = listeners

    def on_epoch_begin(self, args, state, control, **kwargs):
        for listener in self.listeners:
            listener.set_epoch(int(state.epoch or 0))


class FollowFreeCores(TrainerCallback):
    """Other programs come and go: chooses the number of threads again every few seconds."""

    def __init__(self, threads: ThreadsForFreeCores):
        self.threads = threads
        self._last = time.monotonic()

    def on_step_begin(self, args, state, control, **kwargs):
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LOOKS:
            self.threads.adapt()
            self._last = time.monotonic()


def clip_reader_of(video: VideoArguments, encoder: SignEncoder | None = None) -> dict[str, Any]:
    """The part of a processor that reads what a sign encoder takes, by its name there. Default: videos."""
    if encoder is None:
        return {MODALITIES[0].slot: MODALITIES[0].build_part(video)}
    modality = modality_of_input(encoder.main_input_name)
    return {modality.slot: modality.build_part(video, encoder.config)}


def as_prepared(video: VideoArguments, processor: FLaLLMProcessor) -> VideoArguments:
    """The arguments as the processor has them: image and video models bring their own, as do pretrained models."""
    part = processor.modality.part
    names = [field.name for field in dataclasses.fields(video) if hasattr(part, field.name)]
    values = {name: getattr(part, name) for name in names}
    if processor.modality.has_space:
        values |= {"frame_size": part.size["height"], "crop_size": part.crop_size["height"]}
    return dataclasses.replace(video, **values)


def build_processor(
    video: VideoArguments, tokenizer: PreTrainedTokenizerBase, encoder: SignEncoder | None = None, **options: Any
) -> FLaLLMProcessor:
    """`options` are further ones of `FLaLLMProcessor`."""
    return FLaLLMProcessor(**clip_reader_of(video, encoder), tokenizer=tokenizer, **options)


def encoding_settings(training: FLaLLMTrainingArguments) -> EncodingSettings:
    """How a training computes the features that it keeps."""
    return EncodingSettings(
        device=training.device,
        precision=computing_dtype(training),
        batch_size=training.per_device_eval_batch_size,
        num_workers=training.dataloader_num_workers,
        is_silent=training.disable_tqdm,
    )


def collator_class_of(model: PreTrainedModel) -> type[TranslationCollator]:
    """Of a model that translates, also inside a peft model."""
    return PromptedTranslationCollator if model.is_prompted else TranslationCollator


def trainer_class_of(model: PreTrainedModel) -> type[ClipTrainer]:
    """Of a model that translates, also inside a peft model."""
    return LlavaSltTrainer if model.is_prompted else FLaLLMTrainer


def build_trainer(
    trainer_class: type[ClipTrainer],
    model: PreTrainedModel,
    clips: TrainingClips,
    collator: TranslationCollator,
    training: FLaLLMTrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
    **options: Any,
) -> ClipTrainer:
    """A Trainer for the clips; `options` are those of transformers' Trainer."""
    listeners = [each for each in (clips.train, clips.sampler) if hasattr(each, "set_epoch")]
    trainer = trainer_class(
        model=model,
        args=training,
        data_collator=collator,
        train_dataset=clips.train,
        eval_dataset=clips.evaluation,
        callbacks=[TellTheEpoch(listeners), *early_stopping(training), *callbacks],
        **options,
    )
    trainer.train_sampler, trainer.training_fps = clips.sampler, clips.training_fps
    trainer.frame_preprocessor = FramePreprocessor(collator.processor.modality, clips.augmentation)
    return trainer


def run_training(
    build: Callable[[], tuple[PreTrainedModel, FLaLLMProcessor]],
    stage: Any,
    data: DataArguments,
    video: VideoArguments,
    augmentation: AugmentationArguments,
    training: FLaLLMTrainingArguments,
    features: FeatureCacheArguments | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, float]:
    """
    Train to translate, evaluate, choose the best checkpoint and save model, processor and model card in the output
    folder.

    Args:
        build: makes the model and its processor, after the seed has been set.
        stage: the stage's own arguments, for the model card.
        features: whether to train from cached features, and which.
        callbacks: additional callbacks of the Trainer.

    Returns:
        `dict[str, float]`: the best checkpoint's scores from the last evaluation.

    Raises:
        ValueError, FileNotFoundError: for mistakes that the user has to fix, before any training.
    """
    check_run(training)
    check_model_names(stage)
    if data.target == GLOSS:
        choose_by_recognition(training)
    check_score_name(training, (*TITLE_OF_SCORE, *(TITLE_OF_RECOGNITION if data.target == GLOSS else ())))
    cached = features is not None and features.cache_features
    if cached:
        check_feature_cache(data)
        if training.process_index == 0:
            tell_unused_augmentation(augmentation, features.feature_views)
        augmentation = augmentation_in_cache(augmentation, features.feature_views)
    keeps_plain_clips = cached and augmentation == NO_AUGMENTATION
    splits = open_splits(data, training)
    callbacks = [*callbacks, *start_run(training)]
    set_seed(training.seed)
    model, processor = build()
    if cached:
        check_features_can_be_kept(model.vision_model, processor.modality)
    if isinstance(model, PeftModel):
        save_lora_base(model, processor, training)
    video = as_prepared(video, processor)
    prepare_visual_encoder(model, training)
    choose_fast_attention(model, training)
    learn_origin_of_clips(splits, processor)
    clip_augmentation = MiddleFrames() if keeps_plain_clips else ClipAugmentation(augmentation, video)
    clips = prepare_clips(splits, processor, data, clip_augmentation, training)
    if training.process_index == 0:
        tell_unused_in_space(augmentation, processor)
    if cached:
        cache = FeatureCache(model.vision_model, processor.modality, features, encoding_settings(training))
        clips.train = cache.clips(clips.train, "training", features.feature_views or 1)
        clips.evaluation = cache.clips(clips.evaluation, "evaluation")
        cache.remove_unused(features.feature_cache_days)
    trainer = build_trainer(
        trainer_class_of(model),
        model,
        clips,
        collator_class_of(model)(processor, training.preprocess_on_device),
        training,
        callbacks,
        processing_class=processor,
        compute_metrics=build_compute_metrics(
            processor.batch_decode,
            clips.evaluation.texts,
            processor.tokenizer.pad_token_id,
            are_glosses=data.target == GLOSS,
            language=data.spoken_language,
        )
        if training.predict_with_generate
        else None,
    )
    if training.stop_on_collapse:
        add_collapse_check(trainer, clips.evaluation.texts)
    trainer.training_run = describe_run(stage, data, video, augmentation, training, splits.by_name(data), model)
    trainer.training_run.data["made_with"] = processor.modality.origin()
    if cached:
        trainer.training_run.settings.append(describe_views(features.feature_views))
    return train_and_finish(trainer, data)


def train_and_finish(trainer: ClipTrainer, data: DataArguments) -> dict[str, float]:
    """Train, evaluate the best checkpoint and fill the output folder; returns the scores of that evaluation."""
    training = trainer.args
    if training.process_index == 0:
        _print_trained_parts(trainer.model)
        if data.streaming and "epoch" in (training.eval_strategy, training.save_strategy):
            print("A stream has no epochs: --eval_strategy epoch and --save_strategy epoch mean once, at the end.")
        if data.sign_language is None:
            print("The model card will not name the sign language. Set it with --sign_language.")
    result = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    return _finish(trainer, training, data, result.metrics)


def save_lora_base(model: PeftModel, processor: FLaLLMProcessor, training: FLaLLMTrainingArguments) -> None:
    """Saves the base model of the low-rank adapters in full, so that they can be loaded and shared without the run."""
    folder = Path(training.output_dir).resolve() / LORA_BASE
    model.peft_config[model.active_adapter].base_model_name_or_path = str(folder)
    if training.should_save:
        model.get_base_model().save_pretrained(str(folder), state_dict=_weights_without_adapters(model))
        processor.save_pretrained(str(folder))


def _weights_without_adapters(model: PeftModel) -> dict[str, torch.Tensor]:
    """The weights of the base model under its own names, not copied: they may fill most of the memory."""
    weights = {}
    whole = f".modules_to_save.{model.active_adapter}."  # modules trained in full, with their initial weights
    for name, weight in model.get_base_model().state_dict().items():
        parts = name.replace(whole, ".").split(".")
        if "original_module" not in parts and not any(part.startswith(model.base_model.prefix) for part in parts):
            weights[".".join(part for part in parts if part != "base_layer")] = weight
    return weights


def prepare_visual_encoder(model: torch.nn.Module, training: FLaLLMTrainingArguments) -> None:
    """
    Puts the CNN into the memory format of its convolutions, which then reorder nothing, unless its weights are to be
    split, and sets its chunk size.
    """
    if is_sharded(training):
        _check_can_be_split(model)
    else:
        model.vision_model.choose_memory_format()
    for module in model.vision_model.modules():  # peft may have put others around them
        if isinstance(module, SignEncoder):
            module.frames_per_chunk = training.frames_per_chunk


def _check_can_be_split(model: torch.nn.Module) -> None:
    """
    Raises:
        ValueError: for low-rank adapters in the sign encoder.
    """
    if any(isinstance(layer, LoraLayer) for layer in model.vision_model.modules()):
        raise ValueError(
            "--vision_lora cannot be combined with FSDP or DeepSpeed: at the end its adapters are added to weights, "
            "which these have split. Leave it out, or train with torchrun alone."
        )


def start_run(training: FLaLLMTrainingArguments, dtype: torch.dtype | None = None) -> list[TrainerCallback]:
    """
    Set up the machine for a run, and print how it computes (`dtype` defaults to that of the training). Returns the
    callbacks that follow the machine's load.
    """
    threads = prepare_machine(training.device, training.num_threads)
    if training.process_index == 0:
        print(describe_machine(training.device, dtype or computing_dtype(training)), flush=True)
        if num_idle_gpus(training):
            print(f"{num_idle_gpus(training)} more GPU(s) stay idle: start the command with torchrun to use them.")
    return [] if threads is None else [FollowFreeCores(threads)]


def choose_fast_attention(model: torch.nn.Module, training: FLaLLMTrainingArguments) -> None:
    """On CPUs fused attention is slower in bfloat16; both give the same results."""
    if training.bf16 and training.device.type == "cpu":
        model.set_attn_implementation("eager")


def check_score_name(training: FLaLLMTrainingArguments, scores: tuple[str, ...]) -> None:
    """
    Raises:
        ValueError: if the best checkpoint is to be chosen by something that is not a score.
    """
    known = ("loss", *scores)
    if training.metric_for_best_model.removeprefix("eval_") not in known:
        raise ValueError(
            f"--metric_for_best_model must be one of {', '.join(known)}, got {training.metric_for_best_model!r}."
        )


def choose_by_recognition(training: FLaLLMTrainingArguments) -> None:
    """
    The best checkpoint is that of the lowest word error rate, unless another score is named: BLEU-4, the default of
    translation, is 0 for glosses that come alone.
    """
    if training.metric_for_best_model == FLaLLMTrainingArguments.metric_for_best_model:
        training.metric_for_best_model, training.greater_is_better = "wer", False


def early_stopping(training: FLaLLMTrainingArguments) -> list[TrainerCallback]:
    patience = training.early_stopping_patience
    return [] if patience is None else [EarlyStopping(patience)]


def _print_trained_parts(model: torch.nn.Module) -> None:
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{trained / 1e6:.2f} of {total / 1e6:.2f} million parameters are trained.")
    weight = getattr(model.config, "word_presence_loss_weight", 0.0)
    if weight:
        print(f"The loss has a word-presence term with weight {weight} (ours, not in the paper).")
    weight = getattr(model.config, "visual_text_alignment_weight", 0.0)
    if weight:
        print(f"The loss has a visual-text alignment term with weight {weight} (SpaMo's).")


def save_and_evaluate(trainer: TextTrainer) -> dict[str, float]:
    """The end of a run on text. The model is saved first: whatever goes wrong then, the training is not lost."""
    trainer.save_state()
    trainer.save_model()
    scores = trainer.evaluate()
    trainer.save_metrics("eval", scores)
    trainer.save_state()  # with the scores
    return scores


def _finish(
    trainer: ClipTrainer, training: FLaLLMTrainingArguments, data: DataArguments, metrics: dict[str, float]
) -> dict[str, float]:
    """Save the model with its card before evaluating it: whatever goes wrong then, the training is not lost."""
    trainer.save_state()
    complete_run(trainer.training_run, trainer, data, metrics)
    folder = Path(training.output_dir)
    base = None
    if trainer.training_fps is not None:
        trainer.data_collator.processor.modality.part.training_fps = trainer.training_fps
    if isinstance(trainer.model, PeftModel):
        # The folder then loads like any other model; the adapter alone is saved next to it.
        base = trainer.model.peft_config[trainer.model.active_adapter].base_model_name_or_path
        weights = whole_weights(trainer)
        if training.should_save:
            save_adapter(trainer.model, folder / "lora_adapter", trainer.training_run, base, weights)
            trainer.processing_class.save_pretrained(str(folder / "lora_adapter"))
        if holds_parts(trainer):
            merge_saved_adapter(trainer, base, folder / "lora_adapter")
        else:
            trainer.model = trainer.model.merge_and_unload()
    else:
        merge_encoder_adapters(trainer.model.vision_model)
    if data.mirror_left_handed:
        learn_hand(trainer)
    trainer.save_model(_internal_call=True)  # without a push, which comes last
    trainer.create_model_card()
    scores = trainer.evaluate()
    trainer.save_metrics("eval", scores)
    trainer.save_state()  # with the scores
    add_run_scores(trainer.training_run, trainer, data, scores)
    if base is not None and training.should_save:
        write_adapter_card(folder / "lora_adapter", trainer.training_run, base)
    trainer.create_model_card()
    if training.push_to_hub:
        trainer.push_to_hub()
    trainer.raise_faults()
    return scores
