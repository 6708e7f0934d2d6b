"""The Trainers: what is common to all stages on videos, and how each of the two systems translates in evaluation."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import Seq2SeqTrainer

from .atomic_files import write_json
from .data import FramePreprocessor
from .hub_errors import HUB_ERRORS, explain_hub_error
from .hub_folder import read_model_folder
from .model_card import write_model_card
from .samplers import ClipSampler, FrameBudgetBatchSampler
from .streaming import MixedClips
from .target_languages import language_ids
from .training_run import TrainingRun


class VideoTrainer(Seq2SeqTrainer):
    """
    Seq2SeqTrainer with a learning rate for each part, no pickled arguments among the saved files, and a model card from
    the record of the run, `training_run`.

    `train_sampler` gives the clips of an epoch (by default all of them, shuffled), whole batches of them, or a stream;
    `frame_preprocessor` turns frames into pixel values where the collator leaves that to the device.
    """

    training_run: TrainingRun | None = None
    train_sampler: ClipSampler | FrameBudgetBatchSampler | MixedClips | None = None
    frame_preprocessor: FramePreprocessor | None = None
    _most_visual_tokens: int = 0  # of a clip in this process

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
        lengths = map(len, inputs["frames"]) if "frames" in inputs else inputs["pixel_attention_mask"].sum(1).tolist()
        return self.accelerator.unwrap_model(model).vision_model.get_num_tokens(int(max(lengths)))

    def longest_clip_in_visual_tokens(self) -> int | None:
        """That this run trained on, in any process; `None` if it trained on none, or on others before a checkpoint."""
        most = torch.tensor([self._most_visual_tokens], device=self.args.device)
        most = int(self.accelerator.gather(most).max())
        return most if most and self.args.resume_from_checkpoint is None else None

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
            if optimizer_class is torch.optim.SGD and self.args.device.type in ("cpu", "cuda"):
                values = {**values, "fused": True}  # transformers has a name for AdamW's fused form only
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
        return self.args.learning_rate

    def _encode_video(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """Prepared inputs with visual features in place of pixels: loss and generation both start from them."""
        inputs = self._prepare_inputs(inputs)
        if "pixel_values_videos" not in inputs:
            return inputs
        vision_model = self.accelerator.unwrap_model(model).vision_model
        with torch.no_grad(), self.compute_loss_context_manager():
            output = vision_model(inputs.pop("pixel_values_videos"), inputs.pop("pixel_attention_mask"))
        return {
            **inputs,
            "visual_features": output.last_hidden_state,
            "visual_attention_mask": output.attention_mask,
        }

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Tied embeddings are one weight with two names, saved under one: that the other is missing is right."""
        tied = self.accelerator.unwrap_model(self.model).all_tied_weights_keys
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

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
            write_json(folder / "training_arguments.json", values, ensure_ascii=True)

    def create_model_card(self, **options: Any) -> None:
        """Also called by `push_to_hub`, whose `options` are for transformers' own card, of a Trainer without record."""
        if self.training_run is None:
            super().create_model_card(**options)
        elif self.is_world_process_zero():
            self.training_run.model_name = self.hub_model_id or self.training_run.model_name
            write_model_card(Path(self.args.output_dir), self.training_run)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """
        Called before training, when it is to push at its end.

        Raises:
            ValueError: for a repository that everybody sees, where a private one was meant.
        """
        super().init_hf_repo(token=token, private=private)
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
        Save the model and send what `flallm-push` would send: transformers' own sends the whole folder, with logs,
        links and whatever else lies there.

        Raises:
            ValueError: as `read_model_folder`, or in one sentence what the Hub answers.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card()
        files = read_model_folder(Path(self.args.output_dir), self.hub_model_id).files
        try:
            return HfApi(token=token or self.args.hub_token).create_commit(
                self.hub_model_id,
                operations=[CommitOperationAdd(name, content) for name, content in files.items()],
                commit_message=commit_message,
                revision=revision or self.args.hub_revision,
                run_as_future=not blocking,
            )
        except HUB_ERRORS as error:
            raise ValueError(explain_hub_error(error, self.hub_model_id)) from error


class FLaLLMTrainer(VideoTrainer):
    """
    For `FLaLLMForTranslation`. Where the labels of a batch name other languages than the tokenizer's own, generation
    starts each sentence in its language.
    """

    def _learning_rate_of(self, parameter_name: str) -> float:
        chosen = None
        if "adapter." in parameter_name and "text_model." not in parameter_name:
            chosen = self.args.adapter_learning_rate
        elif "text_model." in parameter_name and parameter_name.endswith(".bias"):
            chosen = self.args.bias_learning_rate
        return self.args.learning_rate if chosen is None else chosen

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **generation_arguments):
        """Encode the frames once; loss and generation both start from the visual features."""
        inputs = self._encode_video(model, inputs)
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


class LlavaSltTrainer(VideoTrainer):
    """For `LlavaSltForTranslation`."""

    def _learning_rate_of(self, parameter_name: str) -> float:
        chosen = self.args.adapter_learning_rate if "connector." in parameter_name else None
        return self.args.learning_rate if chosen is None else chosen

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **generation_arguments):
        """Encode the frames once; loss and generation, which takes the prompts alone, both start from the features."""
        inputs = self._encode_video(model, inputs)
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **generation_arguments)


def _last_name_of_path(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
