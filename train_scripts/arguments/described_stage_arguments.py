"""What the training commands take of their own that learn from descriptions, or go on after that. Nothing heavy."""

from dataclasses import dataclass, field
from typing import ClassVar

from .model_arguments import EncoderTrainingArguments, FrameEncoderArguments, LoadedEncoderArguments, LoraArguments


@dataclass
class MultimodalPretrainingArguments(
    FrameEncoderArguments, LoadedEncoderArguments, EncoderTrainingArguments, LoraArguments
):
    """The frame encoder, the description mapper, and the text model whose encoder learns with them."""

    stage_name: ClassVar[str] = "multimodal_pretraining"

    text_model_name_or_path: str = field(
        default=None, metadata={"help": "Folder or Hub id of an encoder-decoder language model. Required."}
    )
    text_encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the frozen text encoder, for transformers or sentence-transformers, that "
            "embeds the sentences; it must be as wide as the language model. Default: the language model's own encoder."
        },
    )
    target_language: str | None = field(
        default=None, metadata={"help": "Language code of a multilingual tokenizer, such as de_DE or deu_Latn."}
    )
    visual_hidden_size: int = field(default=1024, metadata={"help": "Output width of the temporal module."})
    temporal_blocks: list[str] = field(
        default_factory=lambda: ["K5", "P2", "K5", "P2"],
        metadata={"help": "Temporal module behind frame encoder and mapper: K5 = Conv1d kernel 5, P2 = pool 2."},
    )
    temporal_padding: str = field(default="replicate", metadata={"help": "zero, none or replicate."})
    mapper_hidden_size: int = field(default=1024, metadata={"help": "Hidden width of the description mapper."})
    mapper_loss_weight: float = field(
        default=0.1,
        metadata={"help": "Weight of the description mapper's loss relative to the contrast of sentences; 0 is off."},
    )
    adapter_hidden_size: int = field(default=1024, metadata={"help": "Hidden width; 0 for linear layer and ReLU."})
    adapter_activation: str = field(default="relu", metadata={"help": "Activation of the adapter."})
    temperature: float = field(default=0.07, metadata={"help": "Initial contrastive temperature; it is learned."})
    memory_bank_size: int = field(
        default=4096, metadata={"help": "Earlier sentences that each video is also contrasted with; 0 is off."}
    )
    lora: bool = field(
        default=False,
        metadata={"help": "Train low-rank adapters in the attention of the text model's encoder instead of all of it."},
    )
    also_measure_on: str | None = field(
        default=None, metadata={"help": "Another split, such as test, on which retrieval is measured once at the end."}
    )

    def __post_init__(self):
        if self.text_model_name_or_path is None:
            raise ValueError("`--text_model_name_or_path` is required.")
        self.check_loaded_encoder()

    def check_descriptions(self, descriptions: str | None) -> None:
        """
        Raises:
            ValueError: for a loss of the description mapper without descriptions.
        """
        if descriptions is None and self.mapper_loss_weight:
            raise ValueError(
                "`--descriptions` must name what `flallm describe` made of the data set: the description mapper learns "
                "from it. To train without descriptions, pass --mapper_loss_weight 0."
            )


@dataclass
class TranslationFineTuningArguments(LoraArguments):
    """The pretrained model that learns to translate, and what of it is trained."""

    stage_name: ClassVar[str] = "translation_fine_tuning"
    target_language: ClassVar[None] = None
    prompt: ClassVar[None] = None

    model_name_or_path: str = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the pretrained model, or of a fine-tuned one to train further. Required."
        },
    )
    label_smoothing: float = field(default=0.2, metadata={"help": "Label smoothing of the cross entropy."})
    num_beams: int = field(default=8, metadata={"help": "Default number of beams of the saved model."})
    lora: bool = field(
        default=False,
        metadata={"help": "Train low-rank adapters in the attention of the text model instead of all of it."},
    )

    def __post_init__(self):
        if self.model_name_or_path is None:
            raise ValueError("`--model_name_or_path` is required: the pretrained model that learns to translate.")

    @property
    def vision_model_name_or_path(self) -> list[str]:
        """What made the sign encoder, for the model card."""
        return [self.model_name_or_path]
