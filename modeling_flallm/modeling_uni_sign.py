"""
Uni-Sign, sign language understanding from poses (https://arxiv.org/abs/2501.15187): one model for translation and for
isolated and continuous recognition, whose targets are written as text, too.

    poses -> pose encoder -> linear layer -> encoder-decoder text model, which reads a prompt first -> sentence

All stages train all of it: pretraining on a large corpus, then fine-tuning for each data set and task.
"""

from torch import nn
from transformers import initialization as init

from .configuration_uni_sign import UniSignConfig
from .modeling_flallm import FLaLLMForTranslation
from .systems import TAGS


class UniSignForTranslation(FLaLLMForTranslation):
    """
    Poses in, spoken language sentence out. It differs from `FLaLLMForTranslation` in the defaults of its configuration
    and in how its linear layer starts; the sign encoder and the text model may be any, as there.

    ```python
    >>> from modeling_flallm import UniSignForTranslation
    >>> from processing import FLaLLMProcessor

    >>> model = UniSignForTranslation.from_pretrained("fine_tuned")
    >>> processor = FLaLLMProcessor.from_pretrained("fine_tuned")
    >>> inputs = processor(poses="clip.pose", return_tensors="pt")
    >>> processor.batch_decode(model.generate(**inputs, num_beams=4))
    ```
    """

    config_class = UniSignConfig
    base_model_prefix = "uni_sign"
    hub_tags = (*TAGS, "uni-sign")
    encoder_advice = "Pretrain with flallm train pose-pretraining, or name the output folder of that."

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.get_adapter().first:
            init.trunc_normal_(module.weight, std=0.02)


__all__ = ["UniSignForTranslation"]
