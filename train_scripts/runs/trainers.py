"""The Trainers of stages on clips: what they have in common, and how each system is evaluated."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import Seq2SeqTrainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..clips.collators import FramePreprocessor
from ..clips.samplers import ClipSampler, FrameBudgetBatchSampler
from ..clips.streaming import MixedClips
from ..hub.hub_errors import HUB_ERRORS, explain_hub_error
from ..hub.hub_folder import read_model_folder, replaced_files
from ..hub.model_card import write_model_card
from ..hub.training_run import TrainingRun
from ..languages.target_languages import language_ids
from ..machine.atomic_files import write_json
from ..scores.metrics import beside_their_clip
from .text_trainer import TextTrainer

LONGEST_CLIP_FILE = "longest_clip.json"  # of a checkpoint


def _biases_of_text_model(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    named = model.get_text_model().named_parameters()
    return (parameter for name, parameter in named if name.split(".")[-1] == "bias")


# Flags of the learning rates of single parts, and the parameters of a `SignTranslationModel` that each is for.
PARAMETERS_OF_RATE: dict[str, Callable[[torch.nn.Module], Iterator[torch.nn.Parameter]]] = {
    "adapter_learning_rate": lambda model: model.get_adapter().parameters(),
    "bias_learning_rate": _biases_of_text_model,
}


class ClipTrainer(TextTrainer, Seq2SeqTrainer):
    """
    Seq2SeqTrainer with a learning rate for each part, and a model card from the record of the run, `training_run`.

    `training_fps` are the frame rates of its clips, which the processor keeps at the end.
    `train_sampler` gives the clips of an epoch (by default all of them, shuffled), whole batches of them, or a stream;
    `frame_preprocessor` turns frames into pixel values where the collator leaves that to the device. `part_rates` names
    those of `PARAMETERS_OF_RATE` that a subclass heeds.
    """

    part_rates: tuple[str, ...] = ()
    training_run: TrainingRun | None = None
    train_sampler: ClipSampler | FrameBudgetBatchSampler | MixedClips | None = None
    frame_preprocessor: FramePreprocessor | None = None
    training_fps: list[float] | None = None
    left_handed: bool | str = False  # in evaluation, as of `generate`
    _most_visual_tokens: int = 0  # of a clip in this process, and up to the last checkpoint in all
    _knows_the_longest_clip: bool = True

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any
    ) -> torch.Tensor:
        if self.training_run is not None and self.training_run.is_translator:
            self._most_visual_tokens = max(self._most_visual_tokens, self._num_visual_tokens(model, inputs))
        return super().training_step(model, inputs, *arguments, **options)

    def _num_visual_tokens(self, model: torch.nn.Module, inputs: dict[str, Any]) -> int:
        """Of the longest clip of a batch."""
        if "visual_attention_mask" in inputs:
            return int(inputs["visual_attention_mask"].sum(1).max())
        vision_model = self.accelerator.unwrap_model(model).vision_model
        mask = vision_model.input_names[1]
        lengths = map(len, inputs["frames"]) if "frames" in inputs else inputs[mask].sum(1).tolist()
        return vision_model.get_num_tokens(int(max(lengths)))

    def longest_clip_in_visual_tokens(self) -> int | None:
        """
        That was trained on, over all processes and all parts of a run; `None` if there was none, or if a part of the
        run was by a version that did not save it.
        """
        most = torch.tensor([self._most_visual_tokens], device=self.args.device)
        most = int(self.accelerator.gather(most).max())
        return most if most and self._knows_the_longest_clip else None

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> TrainOutput:
        if resume_from_checkpoint is not None:
            saved = Path(resume_from_checkpoint) / LONGEST_CLIP_FILE
            self._knows_the_longest_clip = saved.is_file()
            if self._knows_the_longest_clip:
                self._most_visual_tokens = json.loads(saved.read_text(encoding="utf-8"))["visual_tokens"]
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        if self._knows_the_longest_clip:
            self._most_visual_tokens = self.longest_clip_in_visual_tokens() or 0
        super()._save_checkpoint(*arguments, **options)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save and self._knows_the_longest_clip and folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            write_json(folder / LONGEST_CLIP_FILE, {"visual_tokens": self._most_visual_tokens})

    def _get_train_sampler(self, train_dataset: torch.utils.data.Dataset | None = None) -> Sampler | None:
        return super()._get_train_sampler(train_dataset) if self.train_sampler is None else self.train_sampler

    def _get_eval_sampler(self, eval_dataset: torch.utils.data.Dataset) -> Sampler:
        """In order, even if training groups clips by length: predictions belong to the sentences beside them."""
        return SequentialSampler(eval_dataset)

    def get_train_dataloader(self) -> DataLoader:
        if isinstance(self.train_sampler, FrameBudgetBatchSampler):
            return self.accelerator.prepare(self._loader(batch_sampler=self.train_sampler))
        if isinstance(self.train_sampler, MixedClips):
            # Each process has its own stream: accelerate leaves it whole if it is told of one process. It skips the
            # batches before a checkpoint without asking the data set for them.
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
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            in_order=self.args.dataloader_in_order,
        )

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        if "frames" not in inputs:
            return inputs
        inputs = dict(inputs)
        pixels = self.frame_preprocessor(inputs.pop("frames"), inputs.pop("spatial_seeds"))
        return {**super()._prepare_inputs(pixels), **inputs}

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Like the Trainer's, with our parameter groups unless the optimiser makes its own, as GaLore does."""
        if self.optimizer is not None or self.optimizer_cls_and_kwargs is not None:
            return super().create_optimizer(model)
        model = self.model if model is None else model
        optimizer_class, values = self.get_optimizer_cls_and_kwargs(self.args, model)
        can_fuse = self.args.device.type in ("cpu", "cuda") and not self.is_fsdp_enabled
        if optimizer_class is torch.optim.SGD and can_fuse:
            values = {**values, "fused": True}  # transformers only has a name for the fused form of AdamW
        is_plain = isinstance(optimizer_class, type) and not {"params", "model", "optimizer_dict"} & values.keys()
        groups = {"params": self._parameter_groups(model)} if is_plain else {}
        self.optimizer_cls_and_kwargs = (optimizer_class, {**values, **groups})
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = None

    def _parameter_groups(self, model: torch.nn.Module) -> list[dict[str, Any]]:
        """Trained parameters by (learning rate, weight decay); norms and biases do not decay."""
        decaying = set(self.get_decay_parameter_names(model))
        rates = self._rates_of_parts(model)
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                # transformers recognises LayerNorm by class and other norms by name, but ResNet's have no such names.
                weight_decay = self.args.weight_decay if name in decaying and parameter.ndim > 1 else 0.0
                learning_rate = rates.get(id(parameter), self.args.learning_rate)
                groups.setdefault((learning_rate, weight_decay), []).append(parameter)
        return [
            {"params": parameters, "lr": learning_rate, "weight_decay": weight_decay}
            for (learning_rate, weight_decay), parameters in groups.items()
        ]

    def _rates_of_parts(self, model: torch.nn.Module) -> dict[int, float]:
        """Learning rates by the `id` of the parameter, of the parts for which the run has set one."""
        given = {flag: getattr(self.args, flag) for flag in self.part_rates}
        unwrapped = self.accelerator.unwrap_model(model)
        return {
            id(parameter): rate
            for flag, rate in given.items()
            if rate is not None
            for parameter in PARAMETERS_OF_RATE[flag](unwrapped)
        }

    def _encode_clips(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """Prepared inputs with visual features in place of clips: loss and generation both start from them."""
        inputs = self._prepare_inputs(inputs)
        model = self.accelerator.unwrap_model(model)
        if "visual_features" in inputs or model.vision_model.main_input_name not in inputs:
            return inputs
        clips = {name: inputs.pop(name) for name in model.vision_model.input_names if name in inputs}
        with torch.no_grad(), self.compute_loss_context_manager():
            if self.left_handed is False:
                output = model.vision_model.compute_features(**clips)
            else:
                output, _ = model.features_as_right_handed(clips, self.left_handed, inputs)
        return inputs | {"visual_features": output.last_hidden_state, "visual_attention_mask": output.attention_mask}

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **generation_arguments):
        """Encode the clips once; loss and generation both start from the visual features."""
        inputs = self._encode_clips(model, inputs)
        given = self._generation_arguments(model, inputs, generation_arguments)
        loss, predictions, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **given)
        return loss, beside_their_clip(predictions, getattr(self, "_gen_kwargs", {}) | given), labels

    def _generation_arguments(
        self, model: torch.nn.Module, inputs: dict[str, Any], given: dict[str, Any]
    ) -> dict[str, Any]:
        """Arguments of `generate` for the inputs of a batch; `given` are those for all batches."""
        return given

    def _pad_tensors_to_max_len(self, tensor: torch.Tensor, max_length: int) -> torch.Tensor:
        """
        As the tokenizer pads, for it decodes. Of a processor, transformers' own does not look at the tokenizer, and
        takes the padding of the configuration, which evaluation without training leaves as it was saved: where that is
        another token, it would stand behind every sentence.
        """
        pad_token_id = self.processing_class.tokenizer.pad_token_id
        return torch.nn.functional.pad(tensor, (0, max_length - tensor.shape[-1]), value=pad_token_id)

    def settings(self) -> dict[str, Any]:
        """Includes those that are not the Trainer's, from the record of the run."""
        if self.training_run is None:
            return super().settings()
        of_stage = {setting["name"]: setting["value"] for setting in self.training_run.settings}
        of_run = {"data": self.training_run.data, "base_models": self.training_run.base_models}
        if self.training_run.descriptions is not None:
            of_run["descriptions"] = self.training_run.descriptions
        return {**of_stage, **of_run, **super().settings()}

    def create_model_card(self, **options: Any) -> None:
        """Also called by `push_to_hub`, whose `options` are for transformers' own card, if there is no record."""
        if self.training_run is None:
            super().create_model_card(**options)
        elif self.is_world_process_zero():
            self.training_run.model_name = self.hub_model_id or self.training_run.model_name
            write_model_card(Path(self.args.output_dir), self.training_run)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """
        Called before training if it is to push at the end.

        Raises:
            ValueError: for a public repository if a private one is expected.
        """
        # The oldest transformers that we allow has no `private` here.
        super().init_hf_repo(token=token, **({} if private is None else {"private": private}))
        is_private = self.args.hub_private_repo if private is None else private
        if not is_private or not self.is_world_process_zero():
            return
        if not HfApi(token=token or self.args.hub_token).model_info(self.hub_model_id).private:
            raise ValueError(
                f"{self.hub_model_id} exists and is public: everybody would see the model. Pass --hub_private_repo "
                "False if that is meant; else make it private in its settings first."
            )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """
        Save the model and upload what `flallm push` would upload: transformers' own method uploads the whole folder,
        with logs, links and anything else in it.

        Raises:
            ValueError: as in `read_model_folder`, or the Hub's answer in one sentence.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card()
        files = read_model_folder(Path(self.args.output_dir), self.hub_model_id).files
        api, revision = HfApi(token=token or self.args.hub_token), revision or self.args.hub_revision
        try:
            present = api.list_repo_files(self.hub_model_id, revision=revision)
            operations = [CommitOperationDelete(name) for name in replaced_files(present, files)]
            operations += [CommitOperationAdd(name, content) for name, content in files.items()]
            return api.create_commit(
                self.hub_model_id,
                operations=operations,
                commit_message=commit_message,
                revision=revision,
                run_as_future=not blocking,
            )
        except HUB_ERRORS as error:
            raise ValueError(explain_hub_error(error, self.hub_model_id)) from error


class FLaLLMTrainer(ClipTrainer):
    """
    For `FLaLLMForTranslation`. Where the labels of a batch name other languages than the tokenizer's own, generation
    starts each sentence in its language.
    """

    part_rates = ("adapter_learning_rate", "bias_learning_rate")  # sltbaselines has parts for both

    def _generation_arguments(
        self, model: torch.nn.Module, inputs: dict[str, Any], given: dict[str, Any]
    ) -> dict[str, Any]:
        starts = self._starts_of_sentences(model, inputs)
        if starts is None:
            return given
        return {
            **getattr(self, "_gen_kwargs", {}),
            **given,
            "decoder_input_ids": starts,
            # In addition, because generation would put the usual start token before rows that start otherwise.
            "decoder_start_token_id": starts[:, 0].tolist(),
        }

    def _starts_of_sentences(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor | None:
        """
        What the decoder reads `(batch, 1 or 2)` up to the language of each sentence, as its labels have it; `None`
        where all are in the tokenizer's own language, in which generation starts anyway.
        """
        tokenizer = self.processing_class.tokenizer
        known, labels = language_ids(tokenizer), inputs.get("labels")
        if labels is None or not known:
            return None
        # mBART moves the language from the end of the labels to the front; the others have it after a start token.
        num_tokens = 2 if int(labels[0, 0]) in known.values() else 1
        unwrapped = self.accelerator.unwrap_model(model)
        starts = unwrapped.prepare_decoder_input_ids_from_labels(labels)[:, :num_tokens]
        return None if (starts[:, -1] == known.get(tokenizer.tgt_lang)).all() else starts


class LlavaSltTrainer(ClipTrainer):
    """For `LlavaSltForTranslation`."""

    part_rates = ("adapter_learning_rate",)
