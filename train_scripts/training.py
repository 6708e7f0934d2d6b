"""What both stages share: the Trainer, the order of a run, and what it leaves in the output folder."""

import copy
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import (
    AutoTokenizer,
    EarlyStoppingCallback,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from modeling_flallm import FLaLLMForTranslation
from modeling_flallm.own_processing import FLaLLMProcessor, FLaLLMVideoProcessor

from .arguments import (
    AugmentationArguments,
    DataArguments,
    FeatureCacheArguments,
    FLaLLMTrainingArguments,
    VideoArguments,
    check_output_folder,
)
from .augmentation import ClipAugmentation
from .data import FramePreprocessor, SignVideoDataset, TranslationCollator, load_split, load_training_split
from .feature_cache import (
    CachedVideoDataset,
    FeatureCache,
    augmentation_in_cache,
    check_feature_cache,
    describe_views,
    tell_unused_augmentation,
)
from .hub_errors import explain_hub_error
from .metrics import TITLE_OF_SCORE, build_compute_metrics
from .model_card import TrainingRun, complete_run, describe_run, save_adapter, write_model_card
from .samplers import ClipSampler, FrameBudgetBatchSampler
from .streaming import MixedClips, StreamedVideoDataset, open_streams
from .target_languages import language_ids, set_target_language


class FLaLLMTrainer(Seq2SeqTrainer):
    """
    Seq2SeqTrainer with a learning rate for each part, one pass of the visual encoder per evaluated clip, no pickled
    arguments among the saved files, and a model card from the record of the run, `training_run`.

    `train_sampler` gives the clips of an epoch (by default all of them, shuffled), whole batches of them, or a stream;
    `frame_preprocessor` turns frames into pixel values where the collator leaves that to the device. Where the labels
    of a batch name other languages than the tokenizer's own, generation starts each sentence in its language.
    """

    training_run: TrainingRun | None = None
    train_sampler: ClipSampler | FrameBudgetBatchSampler | MixedClips | None = None
    frame_preprocessor: FramePreprocessor | None = None

    def _get_train_sampler(self, train_dataset: torch.utils.data.Dataset | None = None) -> Sampler | None:
        return super()._get_train_sampler(train_dataset) if self.train_sampler is None else self.train_sampler

    def _get_eval_sampler(self, eval_dataset: torch.utils.data.Dataset) -> Sampler:
        """In order, also where training groups clips by length: predictions belong to the sentences beside them."""
        return SequentialSampler(eval_dataset)

    def get_train_dataloader(self) -> DataLoader:
        if isinstance(self.train_sampler, FrameBudgetBatchSampler):
            return self.accelerator.prepare(self._loader(batch_sampler=self.train_sampler))
        if isinstance(self.train_sampler, MixedClips):
            # The stream of each process is its own: accelerate, told of one process, leaves it whole. It passes over
            # the batches before a checkpoint without asking the data set for them.
            loader = self._loader(sampler=self.train_sampler, batch_size=self._train_batch_size)
            return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)
        return super().get_train_dataloader()

    def _loader(self, **order: Any) -> DataLoader:
        return DataLoader(
            self.train_dataset,
            **order,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        if "frames" not in inputs:
            return inputs
        inputs = dict(inputs)
        pixels = self.frame_preprocessor(inputs.pop("frames"), inputs.pop("spatial_seeds"))
        return {**super()._prepare_inputs(pixels), **inputs}

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, values = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self._parameter_groups(model), **values)
        return self.optimizer

    def _parameter_groups(self, model: torch.nn.Module) -> list[dict[str, Any]]:
        """Trained parameters by (learning rate, weight decay); norms and biases do not decay."""
        decaying = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                # transformers knows LayerNorm by its class and other norms by their names, which ResNet's are not.
                weight_decay = self.args.weight_decay if name in decaying and parameter.ndim > 1 else 0.0
                groups.setdefault((self._learning_rate_of(name), weight_decay), []).append(parameter)
        return [
            {"params": parameters, "lr": learning_rate, "weight_decay": weight_decay}
            for (learning_rate, weight_decay), parameters in groups.items()
        ]

    def _learning_rate_of(self, parameter_name: str) -> float:
        chosen = None
        if "adapter." in parameter_name and "text_model." not in parameter_name:
            chosen = self.args.adapter_learning_rate
        elif "text_model." in parameter_name and parameter_name.endswith(".bias"):
            chosen = self.args.bias_learning_rate
        return self.args.learning_rate if chosen is None else chosen

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **generation_arguments):
        """Encode the frames once; loss and generation both start from the visual features."""
        inputs = self._prepare_inputs(inputs)
        if "pixel_values_videos" in inputs:
            vision_model = self.accelerator.unwrap_model(model).vision_model
            with torch.no_grad(), self.compute_loss_context_manager():
                output = vision_model(inputs.pop("pixel_values_videos"), inputs.pop("pixel_attention_mask"))
            inputs["visual_features"] = output.last_hidden_state
            inputs["visual_attention_mask"] = output.attention_mask
        starts = self._starts_of_sentences(model, inputs)
        if starts is not None:
            generation_arguments = {
                **getattr(self, "_gen_kwargs", {}),
                **generation_arguments,
                "decoder_input_ids": starts,
                # Besides, for generation would put the usual start in front of rows that start otherwise.
                "decoder_start_token_id": starts[:, 0].tolist(),
            }
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **generation_arguments)

    def _starts_of_sentences(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor | None:
        """
        What the decoder reads `(batch, 1 or 2)` up to the language of each sentence, as its labels have it; `None`
        where all are in the tokenizer's own language, in which generation starts anyway.
        """
        tokenizer = self.processing_class.tokenizer
        known, labels = language_ids(tokenizer), inputs.get("labels")
        if labels is None or not known:
            return None
        # mBART moves the language from the end of the labels to the front; the others have it behind a start token.
        num_tokens = 2 if int(labels[0, 0]) in known.values() else 1
        unwrapped = self.accelerator.unwrap_model(model)
        starts = unwrapped.prepare_decoder_input_ids_from_labels(labels)[:, :num_tokens]
        return None if (starts[:, -1] == known.get(tokenizer.tgt_lang)).all() else starts

    def _pad_tensors_to_max_len(self, tensor: torch.Tensor, max_length: int) -> torch.Tensor:
        pad_token_id = self.processing_class.tokenizer.pad_token_id
        return torch.nn.functional.pad(tensor, (0, max_length - tensor.shape[-1]), value=pad_token_id)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, of no use to anyone who loads the model
            # Of folders of this machine only the last name: a push of the Trainer's takes this file along.
            values = {name: _last_name_of_path(value) for name, value in self.args.to_dict().items()}
            text = json.dumps(values, indent=2) + "\n"
            (folder / "training_arguments.json").write_text(text, encoding="utf-8")

    def create_model_card(self, **options: Any) -> None:
        """Also called by `push_to_hub`, whose `options` are for transformers' own card, of a Trainer without record."""
        if self.training_run is None:
            super().create_model_card(**options)
        elif self.is_world_process_zero():
            self.training_run.model_name = self.hub_model_id or self.training_run.model_name
            write_model_card(Path(self.args.output_dir), self.training_run)


def _last_name_of_path(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


class _TellTheEpoch(TrainerCallback):
    def __init__(self, listeners: list[SignVideoDataset | CachedVideoDataset | ClipSampler | FrameBudgetBatchSampler]):
        self.listeners = listeners

    def on_epoch_begin(self, args, state, control, **kwargs):
        for listener in self.listeners:
            listener.set_epoch(int(state.epoch or 0))


def build_processor(video: VideoArguments, tokenizer: PreTrainedTokenizerBase) -> FLaLLMProcessor:
    video_processor = FLaLLMVideoProcessor(
        size={"height": video.frame_size, "width": video.frame_size},
        crop_size={"height": video.crop_size, "width": video.crop_size},
        frame_sampling_rate=video.frame_sampling_rate,
        max_num_frames=video.max_num_frames,
    )
    return FLaLLMProcessor(video_processor=video_processor, tokenizer=tokenizer)


def open_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a text model as it was saved.

    Raises:
        ValueError: if there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name_or_path!r} holds no tokenizer that can be loaded: {error}") from error


def load_tokenizer(name_or_path: str, target_language: str | None) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a text model, told which language it writes.

    Raises:
        ValueError: if there is none, or for a language as `set_target_language` says.
    """
    tokenizer = open_tokenizer(name_or_path)
    set_target_language(tokenizer, target_language)
    return tokenizer


def set_generation_defaults(model: FLaLLMForTranslation, tokenizer: PreTrainedTokenizerBase, num_beams: int) -> None:
    """
    Make `generate` start as training starts. mBART moves the language code at the end of the labels to the front,
    NLLB has it first in the labels, others have none: what the labels of a real sentence look like decides.
    """
    labels = tokenizer(text_target="a", return_tensors="pt")["input_ids"]
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels)
    first_label = int(labels[0, 0])
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=int(decoder_input_ids[0, 0]),
        forced_bos_token_id=first_label if first_label in language_ids(tokenizer).values() else None,
        num_beams=num_beams,
        # sltbaselines' limit. Not as max_new_tokens, over which --generation_max_length would have no power.
        max_length=min(150, model.get_max_num_target_tokens() or 150),
    )


def run_training(
    build: Callable[[], tuple[FLaLLMForTranslation, FLaLLMProcessor]],
    stage: Any,
    data: DataArguments,
    video: VideoArguments,
    augmentation: AugmentationArguments,
    training: FLaLLMTrainingArguments,
    features: FeatureCacheArguments | None = None,
) -> dict[str, float]:
    """
    Train, evaluate, choose the best checkpoint and save model, processor and model card in the output folder.

    Args:
        build: makes the model and its processor, after the seed has been set.
        stage: the stage's own arguments, for the model card.
        features: whether to train from cached features, and which.

    Returns:
        `dict[str, float]`: the last evaluation's scores of the best checkpoint.

    Raises:
        ValueError, FileNotFoundError: for what the user has to mend, before any training.
    """
    check_output_folder(training)
    _check_score_name(training)
    cached = features is not None and features.cache_features
    if cached:
        check_feature_cache(stage, data)
        if training.process_index == 0:
            tell_unused_augmentation(augmentation, features.feature_views)
        augmentation = augmentation_in_cache(augmentation, features.feature_views)
    streams = open_streams(data, training) if data.streaming else None
    train_split, sizes = (None, []) if streams else load_training_split(data)
    evaluation_split = load_split(data, data.evaluation_split, data.max_evaluation_clips)
    set_seed(training.seed)
    model, processor = build()
    if isinstance(model, PeftModel):
        _save_lora_base(model, processor, training)
    model.vision_model.backbone.to(memory_format=torch.channels_last)  # convolutions then reorder nothing
    choose_fast_attention(model, training)
    shared = {
        "processor": processor,
        "text_column": data.text_column,
        "keep_decoded_videos": data.keep_decoded_videos,
        "preprocess_on_device": training.preprocess_on_device,
    }
    clip_augmentation = ClipAugmentation(augmentation, video)
    evaluation_dataset = SignVideoDataset(evaluation_split, **shared)
    if streams:
        train_dataset = StreamedVideoDataset(
            processor, data.text_column, clip_augmentation, training.preprocess_on_device
        )
        train_sampler = streams
    else:
        train_dataset = SignVideoDataset(train_split, augmentation=clip_augmentation, seed=training.seed, **shared)
        train_sampler = build_train_sampler(train_dataset, sizes, data.dataset_weights, training)
    if cached:
        cache = FeatureCache(model, processor, features, training)
        train_dataset = cache.clips(train_dataset, "training", features.feature_views or 1)
        evaluation_dataset = cache.clips(evaluation_dataset, "evaluation")
    trainer = FLaLLMTrainer(
        model=model,
        args=training,
        data_collator=TranslationCollator(processor, training.preprocess_on_device),
        train_dataset=train_dataset,
        eval_dataset=evaluation_dataset,
        processing_class=processor,
        compute_metrics=build_compute_metrics(
            processor.batch_decode,
            evaluation_dataset.texts,
            processor.tokenizer.pad_token_id,
            language=data.spoken_language,
        ),
        callbacks=_callbacks(training, [each for each in (train_dataset, train_sampler) if hasattr(each, "set_epoch")]),
    )
    trainer.train_sampler = train_sampler
    trainer.frame_preprocessor = FramePreprocessor(processor, clip_augmentation)
    splits = {data.train_split: train_split, data.evaluation_split: evaluation_split}
    trainer.training_run = describe_run(stage, data, video, augmentation, training, splits, model)
    if cached:
        trainer.training_run.settings.append(describe_views(features.feature_views))
    if training.process_index == 0:
        _print_trained_parts(model)
        if streams and "epoch" in (training.eval_strategy, training.save_strategy):
            print("A stream has no epochs: --eval_strategy epoch and --save_strategy epoch mean once, at the end.")
        if data.sign_language is None:
            print("The model card will name no sign language. Name it with --sign_language.")
    result = trainer.train(resume_from_checkpoint=checkpoint_to_resume(training))
    return _finish(trainer, training, data, result.metrics)


def _save_lora_base(model: PeftModel, processor: FLaLLMProcessor, training: FLaLLMTrainingArguments) -> None:
    """The model that the low-rank adapters change, whole, so that they can be loaded and shared without it."""
    folder = Path(training.output_dir).resolve() / "lora_base"
    model.peft_config[model.active_adapter].base_model_name_or_path = str(folder)
    if training.should_save:
        copy.deepcopy(model).unload().save_pretrained(str(folder))
        processor.save_pretrained(str(folder))


def _save_lora_adapter(trainer: FLaLLMTrainer, folder: Path) -> None:
    base = trainer.model.peft_config[trainer.model.active_adapter].base_model_name_or_path
    save_adapter(trainer.model, folder, trainer.training_run, base)
    trainer.processing_class.save_pretrained(str(folder))


def choose_fast_attention(model: torch.nn.Module, training: FLaLLMTrainingArguments) -> None:
    """On CPUs the fused attention is the slower one in bfloat16; both give the same results."""
    if training.bf16 and training.device.type == "cpu":
        model.set_attn_implementation("eager")


def _check_score_name(training: FLaLLMTrainingArguments) -> None:
    known = ("loss", *TITLE_OF_SCORE)
    if training.metric_for_best_model.removeprefix("eval_") not in known:
        raise ValueError(
            f"--metric_for_best_model must be one of {', '.join(known)}, got {training.metric_for_best_model!r}."
        )


def build_train_sampler(
    dataset: SignVideoDataset, sizes: list[int], weights: list[float] | None, training: FLaLLMTrainingArguments
) -> ClipSampler | FrameBudgetBatchSampler | None:
    """
    What draws the clips or batches of an epoch; `None` leaves it to the Trainer, for all clips in any order.

    Args:
        sizes: clips of each of the data sets that `dataset` holds one after another.

    Raises:
        ValueError: for a budget of frames that is too small for a clip.
    """
    grouped = training.train_sampling_strategy == "group_by_length"
    budget = training.max_frames_per_batch
    if weights is None and not grouped and budget is None:
        return None
    lengths = dataset.longest_lengths() if grouped or budget is not None else []
    num_together = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    if budget is not None:
        num_together = max(budget * len(lengths) * training.world_size // sum(lengths), 1)
    sampler = ClipSampler(sizes, weights, lengths if grouped else None, num_together, training.seed)
    if budget is None:
        return sampler
    return FrameBudgetBatchSampler(
        sampler, lengths, budget, training.world_size, _most_epochs(training, sum(lengths) / budget)
    )


def _most_epochs(training: FLaLLMTrainingArguments, fewest_batches: float) -> int:
    """How many epochs a training can have whose epochs have at least so many batches."""
    if training.max_steps <= 0:
        return max(math.ceil(training.num_train_epochs), 1)
    num_batches = training.max_steps * training.gradient_accumulation_steps * training.world_size
    return math.ceil(num_batches / max(fewest_batches, 1)) + 1


def _callbacks(training: FLaLLMTrainingArguments, listeners: list[Any]) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [_TellTheEpoch(listeners)]
    if training.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training.early_stopping_patience))
    return callbacks


def _print_trained_parts(model: torch.nn.Module) -> None:
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{trained / 1e6:.2f} of {total / 1e6:.2f} million parameters are trained.")
    weight = model.config.word_presence_loss_weight
    if weight:
        print(f"The loss has a word-presence term with weight {weight} (ours, not in the paper).")


def checkpoint_to_resume(training: FLaLLMTrainingArguments) -> str | None:
    """`--resume_from_checkpoint last` (or True) is the newest checkpoint of the output folder, else a path."""
    wanted = training.resume_from_checkpoint
    if wanted is None or wanted not in ("last", "True", "true"):
        if wanted is not None and not Path(wanted).is_dir():
            raise ValueError(f"--resume_from_checkpoint {wanted} is no folder. 'last' takes the newest of the run.")
        return wanted
    checkpoint = get_last_checkpoint(training.output_dir) if Path(training.output_dir).is_dir() else None
    if checkpoint is None:
        raise ValueError(f"--resume_from_checkpoint: {training.output_dir} holds no checkpoint.")
    return checkpoint


def _finish(
    trainer: FLaLLMTrainer, training: FLaLLMTrainingArguments, data: DataArguments, metrics: dict[str, float]
) -> dict[str, float]:
    scores = trainer.evaluate()
    trainer.save_metrics("eval", scores)
    trainer.save_state()
    complete_run(trainer.training_run, trainer, data, metrics, scores)
    if isinstance(trainer.model, PeftModel):
        # The folder then loads like any other model; the adapter alone stays beside it.
        if training.should_save:
            _save_lora_adapter(trainer, Path(training.output_dir) / "lora_adapter")
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model()
    trainer.create_model_card()
    if training.push_to_hub:
        trainer.push_to_hub()
    return scores


def run_command(main: Callable[[], None]) -> int:
    """Run a command; a mistake of the user's becomes one sentence on stderr and exit status 2."""
    try:
        main()
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"error: {_one_sentence(error)}", file=sys.stderr)
        return 2
    return 0


def _one_sentence(error: Exception) -> str:
    """The text of an error on one line, without the traceback that a DataLoader's worker process puts in front."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if "Original Traceback (most recent call last):" in lines:
        return lines[-1].partition(": ")[2]
    return " ".join(lines)


def load_trained(name_or_path: str) -> tuple[FLaLLMForTranslation, FLaLLMProcessor]:
    """
    A trained model in evaluation mode and its processor, from a folder or the Hub.

    Raises:
        ValueError: if it is no FLa-LLM model with its processor.
    """
    try:
        model_type = PreTrainedConfig.get_config_dict(name_or_path)[0].get("model_type")
        if model_type != "flallm":
            raise ValueError(f"{name_or_path!r} holds no FLa-LLM model, but one of type {model_type!r}.")
        model = FLaLLMForTranslation.from_pretrained(name_or_path)
        processor = FLaLLMProcessor.from_pretrained(name_or_path)
    except OSError as error:
        reason = explain_hub_error(error, name_or_path)
        raise ValueError(
            f"{name_or_path!r} cannot be loaded as a FLa-LLM model with its processor: {reason}"
        ) from error
    return model.eval(), processor
