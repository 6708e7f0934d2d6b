"""
MMSLT, sign language translation with descriptions as a teacher (https://arxiv.org/abs/2411.16789).

    frames -> frame encoder -> [features ; what the description mapper makes of them] -> temporal module -> adapter
           -> encoder-decoder text model -> sentence

In pretraining a multimodal language model has described what hands and body do in the frames, and the mapper learns to
predict the embedding of the description. It runs in translation, too; the language model that described does not.

    pretrained = MmsltForPreTraining.from_pretrained("pretrained/")
    model = pretrained.for_translation()
    model.freeze_description_mapper()
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_mmslt import MmsltConfig, MmsltPreTrainingConfig
from .encoder_described_slt import described_encoder_of
from .losses_slt import ContrastsWithSentences, mean_of_norm_1
from .modeling_flallm import FLaLLMForTranslation
from .systems import TAGS


class MmsltForTranslation(FLaLLMForTranslation):
    """
    Sign language video in, spoken language sentence out. It differs from `FLaLLMForTranslation` in the defaults of its
    configuration and in which layers of the text model get low-rank adapters; the sign encoder and the text model may
    be any, as there.

    ```python
    >>> from modeling_flallm import MmsltForTranslation
    >>> from processing import FLaLLMProcessor

    >>> model = MmsltForTranslation.from_pretrained("fine_tuned")
    >>> processor = FLaLLMProcessor.from_pretrained("fine_tuned")
    >>> inputs = processor(videos="clip.mp4", return_tensors="pt")
    >>> processor.batch_decode(model.generate(**inputs, num_beams=8))
    ```

    Unlike MMSLT's public code, features are padded with 0 and padding enters no mean, no loss and no statistic.
    """

    config_class = MmsltConfig
    base_model_prefix = "mmslt"
    hub_tags = (*TAGS, "mmslt")
    encoder_advice = "Pretrain with flallm train multimodal-pretraining, or name an image or video model."

    def freeze_description_mapper(self) -> None:
        """Freeze the description mapper alone, if the sign encoder has one: it still runs, and does not change."""
        described = described_encoder_of(self.vision_model)
        if described is not None:
            described.freeze_mapper()

    def get_lora_settings(self) -> dict[str, Any]:
        """
        Settings for `peft.LoraConfig`: low-rank adapters in every linear layer of the text model's attention (of mBART:
        q, k, v and out, as in MMSLT's public code). All else is as in `SignTranslationModel.get_lora_settings`.
        """
        settings = super().get_lora_settings()
        return {
            "target_modules": self._attention_layers(self.get_text_model()),
            "modules_to_save": settings["modules_to_save"],
        }

    def _attention_layers(self, part: nn.Module) -> list[str]:
        """Names in this model of the linear layers in all modules of `part` that transformers calls an attention."""
        attentions = [module for module in part.modules() if "Attention" in type(module).__name__]
        layers = {id(layer) for each in attentions for layer in each.modules() if isinstance(layer, nn.Linear)}
        return [name for name, module in self.named_modules() if id(module) in layers]


@dataclass
class MmsltPreTrainingOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, with sentence embeddings):
            `sentence_loss + encoder_loss`, over the global batch.
        sentence_loss (`torch.FloatTensor` of shape `()`):
            Symmetric InfoNCE.
        encoder_loss (`torch.FloatTensor` of shape `()`, with targets of the sign encoder):
            The sign encoder's own losses, weighted: that of the description mapper.
        video_embeddings (`torch.FloatTensor` of shape `(batch, text hidden size)`):
            Of norm 1.
    """

    loss: torch.FloatTensor | None = None
    sentence_loss: torch.FloatTensor | None = None
    encoder_loss: torch.FloatTensor | None = None
    video_embeddings: torch.FloatTensor | None = None


class VisualTextContrast(ContrastsWithSentences, nn.Module):
    """The contrast of clips and sentences, with its temperature and memory."""

    def __init__(self, config: MmsltPreTrainingConfig):
        super().__init__()
        self._build_contrast(config.text_config.hidden_size, config.memory_bank_size)

    def forward(self, clips: torch.Tensor, sentences: torch.Tensor) -> torch.Tensor:
        """Embeddings of norm 1 of clips and of their sentences, both `(clips, width)` -> the loss, `()`."""
        return self._sentence_loss(clips, sentences)


class MmsltForPreTraining(MmsltForTranslation):
    """
    MMSLT's multimodal language pretraining. Each clip, the mean of what the text model's encoder makes of its visual
    tokens, is contrasted with the sentences, each the mean of what a frozen text encoder makes of it; the sign encoder
    adds the loss of its description mapper. The decoder does not run: `freeze_what_does_not_run`.

    Unlike in MMSLT's public code, padding enters neither the means nor the loss of the mapper, and a clip's negatives
    are the sentences of all processes and of a memory of earlier ones, but for those equal to its own. Several
    processes compute one loss over all their clips, with its gradient: two processes train what one would. Of
    accumulated batches, each is contrasted on its own, and with the memory.

    It cannot translate yet. `for_translation` gives the model that learns to.
    """

    config_class = MmsltPreTrainingConfig
    base_model_prefix = "mmslt_pretraining"
    hub_task = None
    translation_auto_class = None
    head_names = (*MmsltForTranslation.head_names, "visual_text_contrast")
    # The loss is a mean over clips: the Trainer must average over accumulated batches itself.
    accepts_loss_kwargs = False

    def __init__(self, config: MmsltPreTrainingConfig):
        super().__init__(config)
        self.visual_text_contrast = VisualTextContrast(self.config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VisualTextContrast):
            module._start_contrast(self.config.temperature_init)

    def get_lora_settings(self) -> dict[str, Any]:
        """As of `MmsltForTranslation`, in the attention of the text model's encoder alone."""
        return {**super().get_lora_settings(), "target_modules": self._attention_layers(self.get_encoder())}

    def freeze_what_does_not_run(self) -> None:
        """Freeze all of the text model but its encoder, and the token embeddings: pretraining reads no tokens."""
        self.get_text_model().requires_grad_(False)
        self.get_encoder().requires_grad_(True)
        self.get_input_embeddings().requires_grad_(False)

    def for_translation(self) -> MmsltForTranslation:
        """The translation model of the same modules, without the contrast; they are shared, not copied."""
        with torch.device("meta"):  # no second text model in memory
            model = MmsltForTranslation(self.config.for_translation())
        for name, _ in model.named_children():
            setattr(model, name, getattr(self, name))
        model.config.vision_config, model.config.text_config = self.config.vision_config, self.config.text_config
        model.generation_config = self.generation_config
        model.get_text_model().requires_grad_(True)
        return model.train(self.training)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        sentence_embeddings: torch.FloatTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> MmsltPreTrainingOutput:
        r"""
        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`, *optional*):
                Normalised frames, zero-padded in time, for sign encoders that read frames.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames. Default: all are real.
            sentence_embeddings (`torch.FloatTensor` of shape `(batch, text hidden size)`, *optional*):
                From the frozen text encoder, of any norm. Without them there is no loss.
            visual_features (`torch.FloatTensor` of shape `(batch, features, features size)`, *optional*):
                What the sign encoder's `compute_features` gives, instead of its inputs.
            visual_attention_mask (`torch.LongTensor` of shape `(batch, features)`, *optional*):
                1 for real features. Default: all are real.
            kwargs: further inputs of the sign encoder, by its `input_names`, such as `description_embeddings`.

        Raises:
            ValueError: for no video at all, more than one form of it or one that the sign encoder does not read, a
                video that is too long for the text model, and sentence embeddings of another shape.
        """
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        if kwargs:
            named = ", ".join(f"`{name}`" for name in self.vision_model.input_names)
            raise ValueError(f"Pretraining takes `sentence_embeddings`, {named}, got `{next(iter(kwargs))}`.")
        self._check_one_form(video)
        embeddings, tokens = self._embed_video(video)
        encoded = self._encode_embeddings(embeddings, tokens.attention_mask)
        clips = mean_of_norm_1(encoded.last_hidden_state, encoded.attention_mask)
        if sentence_embeddings is None:
            return MmsltPreTrainingOutput(video_embeddings=clips)
        if sentence_embeddings.shape != clips.shape:
            raise ValueError(
                f"`sentence_embeddings` must have the shape (batch, text hidden size) = {tuple(clips.shape)}, got "
                f"{tuple(sentence_embeddings.shape)}."
            )
        sentences = nn.functional.normalize(sentence_embeddings.float(), dim=-1).detach()
        output = MmsltPreTrainingOutput(
            sentence_loss=self.visual_text_contrast(clips, sentences), video_embeddings=clips
        )
        output["loss"] = output.sentence_loss
        if tokens.losses:
            output["encoder_loss"] = sum(tokens.losses.values())
            output["loss"] = output.loss + output.encoder_loss
        return output


__all__ = ["MmsltForPreTraining", "MmsltForTranslation", "MmsltPreTrainingOutput"]
