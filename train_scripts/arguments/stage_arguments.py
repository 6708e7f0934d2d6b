"""What each training command takes of its own. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..languages.languages import check_spoken_language
from .model_arguments import (
    AdapterArguments,
    EncoderTrainingArguments,
    FrameEncoderArguments,
    LoadedEncoderArguments,
    LoraArguments,
    NewTemporalArguments,
    OtherClipsArguments,
)
from .pose_arguments import PoseEncoderArguments

# Uni-Sign's.
POSE_PROMPT = "Translate sign language video to {spoken_language}: "
# For LLaVA-SLT; a test checks that it equals the default of `LlavaSltProcessor`.
PROMPT = "Translate this sign language video into {spoken_language}."


@dataclass
class VisualInitialingArguments(
    AdapterArguments,
    FrameEncoderArguments,
    LoadedEncoderArguments,
    EncoderTrainingArguments,
    LoraArguments,
    OtherClipsArguments,
):
    """The visual encoder and Light-T."""

    stage_name: ClassVar[str] = "visual_initialing"

    tokenizer_name_or_path: str = field(
        default=None, metadata={"help": "Tokenizer of the LLM of stage 2, which Light-T shares. Required."}
    )
    target_language: str | None = field(
        default=None, metadata={"help": "Language code of a multilingual tokenizer, such as de_DE or deu_Latn."}
    )
    temporal_padding: str = field(default="zero", metadata={"help": "zero, none or replicate."})
    light_hidden_size: int = field(default=512, metadata={"help": "Width of Light-T."})
    light_feed_forward_size: int = field(default=2048, metadata={"help": "Feed-forward width of Light-T."})
    light_layers: int = field(default=3, metadata={"help": "Layers of Light-T's encoder, and of its decoder."})
    light_attention_heads: int = field(default=8, metadata={"help": "Attention heads of Light-T."})
    light_dropout: float = field(default=0.1, metadata={"help": "Dropout of Light-T."})

    def __post_init__(self):
        if self.tokenizer_name_or_path is None:
            raise ValueError("`--tokenizer_name_or_path` must name the tokenizer of the LLM of stage 2.")
        if self.imagenet_weights and self.chosen_row is not None:
            raise ValueError(
                f"--imagenet_weights is for a visual encoder; with --{self.chosen_row.flag} there is none."
            )
        self.check_loaded_encoder()
        self.check_not_both()
        if self.light_hidden_size % self.light_attention_heads:
            raise ValueError(
                f"--light_hidden_size must be a multiple of --light_attention_heads, got {self.light_hidden_size} and "
                f"{self.light_attention_heads}."
            )


@dataclass
class LLMFineTuningArguments(
    AdapterArguments,
    LoadedEncoderArguments,
    EncoderTrainingArguments,
    NewTemporalArguments,
    LoraArguments,
    OtherClipsArguments,
):
    """The pretrained parts and what of them is trained."""

    stage_name: ClassVar[str] = "llm_fine_tuning"

    text_model_name_or_path: str = field(
        default=None, metadata={"help": "Folder or Hub id of an encoder-decoder language model. Required."}
    )
    target_language: str | None = field(
        default=None, metadata={"help": "Language code of a multilingual tokenizer, such as de_DE or deu_Latn."}
    )
    text_model_dropout: float | None = field(
        default=None, metadata={"help": "Dropout of the text model. Default: as it was pretrained."}
    )
    lora: bool = field(default=False, metadata={"help": "Train low-rank adapters instead of the whole text model."})
    prompt: str | None = field(
        default=None,
        metadata={
            "help": "Prompt that the text model reads before the visual tokens; {spoken_language} is replaced by the "
            "name of the language. Default: none."
        },
    )
    visual_text_alignment_weight: float = field(
        default=0.0, metadata={"help": "Weight of SpaMo's contrast of clips and sentences; 0 is off."}
    )
    alignment_warm_up_steps: int = field(
        default=0,
        metadata={"help": "First steps of the optimiser, in which this contrast is the whole loss (SpaMo: 4000)."},
    )

    def __post_init__(self):
        self.check_loaded_encoder(reads_ready_made_features=self.chosen_row is not None)
        self.check_one_start(self.vision_model_name_or_path)
        if self.text_model_name_or_path is None:
            raise ValueError("`--text_model_name_or_path` is required.")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("--prompt must be a text. Leave it out for a model that reads no prompt.")
        if self.alignment_warm_up_steps and not self.visual_text_alignment_weight:
            raise ValueError(
                f"--alignment_warm_up_steps {self.alignment_warm_up_steps} needs a --visual_text_alignment_weight "
                "above 0: the weight after the warm-up."
            )


@dataclass
class LanguageModelArguments:
    """Text, tokenizer, model and noise. All defaults are ours."""

    text_file: str = field(default=None, metadata={"help": "UTF-8 text, one sentence per line. Required."})
    max_vocabulary_size: int = field(default=4000, metadata={"help": "Largest number of tokens."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the model."})
    feed_forward_size: int = field(default=1024, metadata={"help": "Feed-forward width."})
    layers: int = field(default=3, metadata={"help": "Layers of the encoder, and of the decoder."})
    attention_heads: int = field(default=4, metadata={"help": "Attention heads."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout."})
    mask_probability: float = field(default=0.3, metadata={"help": "Share of the tokens that are masked."})
    deletion_probability: float = field(default=0.1, metadata={"help": "Share of the tokens that are deleted."})
    shuffle_probability: float = field(default=0.5, metadata={"help": "Share of the sentences in shuffled order."})
    repetition_probability: float = field(
        default=0.3, metadata={"help": "Probability that a token is repeated, and then repeated again."}
    )

    def __post_init__(self):
        if self.text_file is None:
            raise ValueError("`--text_file` must name a text file with one sentence per line.")
        if self.hidden_size % self.attention_heads:
            raise ValueError(
                f"--hidden_size must be a multiple of --attention_heads, got {self.hidden_size} and "
                f"{self.attention_heads}."
            )


@dataclass
class SentenceArguments:
    """Which sentences a model of text learns from, and on which it is measured. All defaults are ours."""

    text_file: list[str] | None = field(
        default=None, metadata={"help": "UTF-8 text files with one sentence, or one paragraph, per line."}
    )
    dataset: list[str] | None = field(
        default=None,
        metadata={"help": "Video folders or ids of data sets on the Hub: the sentences of their training clips."},
    )
    text_column: str = field(default="text", metadata={"help": "Column of --dataset that holds the sentence."})
    train_split: str = field(default="train", metadata={"help": "Split of --dataset whose sentences are used."})
    spoken_language: str | None = field(default=None, metadata={"help": "Language tag of the sentences, such as de."})
    evaluation_text_file: str | None = field(
        default=None, metadata={"help": "Text file of held-out sentences to measure on. Default: --evaluation_share."}
    )
    evaluation_share: float = field(
        default=0.02, metadata={"help": "Share of the distinct lines that is held out to measure on."}
    )

    def __post_init__(self):
        if not self.text_file and not self.dataset:
            raise ValueError("`--text_file` or `--dataset` must name the text to learn from.")
        if not 0 < self.evaluation_share < 1:
            raise ValueError(f"--evaluation_share must be above 0 and below 1, got {self.evaluation_share}.")
        check_spoken_language(self.spoken_language)


@dataclass
class TextArguments(SentenceArguments):
    """Which sentences. The paper does not specify its text further; all defaults are ours."""

    block_size: int = field(default=512, metadata={"help": "Tokens per block of packed sentences."})

    def __post_init__(self):
        super().__post_init__()
        if self.block_size < 2:
            raise ValueError(f"--block_size must be 2 or more, got {self.block_size}.")


@dataclass
class CausalLanguageModelArguments(LoraArguments):
    """The language model: a pretrained one, trained in full or with low-rank adapters, or a new small Llama."""

    text_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a decoder-only language model. Default: a new one of the sizes below."},
    )
    prompt: str = field(
        default=PROMPT,
        metadata={"help": "Prompt of the model, as in stage 3; {spoken_language} is replaced by the language's name."},
    )
    lora: bool = field(default=False, metadata={"help": "Train low-rank adapters instead of the whole model."})
    max_vocabulary_size: int = field(default=4000, metadata={"help": "New model: largest number of tokens."})
    hidden_size: int = field(default=256, metadata={"help": "New model: width."})
    feed_forward_size: int = field(default=768, metadata={"help": "New model: feed-forward width."})
    layers: int = field(default=4, metadata={"help": "New model: layers."})
    attention_heads: int = field(default=4, metadata={"help": "New model: attention heads."})

    def __post_init__(self):
        if self.lora and self.text_model_name_or_path is None:
            raise ValueError("--lora True needs --text_model_name_or_path: a new model must be trained in full.")
        if self.hidden_size % (2 * self.attention_heads):
            raise ValueError(
                f"--hidden_size must be a multiple of twice --attention_heads, got {self.hidden_size} and "
                f"{self.attention_heads}."
            )


@dataclass
class DenoisingArguments:
    """Examples in the format of stage 3, with words in place of the video. All of this is ours."""

    denoising: bool = field(
        default=False, metadata={"help": "Also learn to answer the prompt with a sentence given its noised words."}
    )
    max_pieces: int = field(default=3, metadata={"help": "Maximum pieces that the words are split into, in any order."})
    max_shift: float = field(default=3.0, metadata={"help": "How far a word moves within its piece, in words."})
    deletion_probability: float = field(default=0.3, metadata={"help": "Share of the words that are deleted."})
    replacement_probability: float = field(
        default=0.1, metadata={"help": "Share of the words replaced by a word of any other sentence."}
    )
    repetition_probability: float = field(
        default=0.6, metadata={"help": "Probability that a word is repeated, and then repeated again."}
    )
    blank_probability: float = field(
        default=0.15, metadata={"help": "Probability of an empty position after a word, and then of another one."}
    )

    def __post_init__(self):
        for name in ("deletion", "replacement", "repetition", "blank"):
            value = getattr(self, f"{name}_probability")
            if not 0 <= value < 1:
                raise ValueError(f"--{name}_probability must be 0 or more and below 1, got {value}.")
        if self.max_pieces < 1 or self.max_shift < 0:
            raise ValueError(
                f"--max_pieces must be 1 or more and --max_shift 0 or more, got {self.max_pieces} and {self.max_shift}."
            )


@dataclass
class VisualContrastivePretrainingArguments(
    FrameEncoderArguments, LoadedEncoderArguments, EncoderTrainingArguments, LoraArguments
):
    """The visual encoder and what it is contrasted with. The abstract gives no numbers: all defaults are ours."""

    stage_name: ClassVar[str] = "visual_contrastive_pretraining"
    target_language: ClassVar[None] = None

    text_model_name_or_path: str = field(
        default=None,
        metadata={
            "help": "Folder of stage 1, or Hub id of a decoder-only language model: its token embeddings. Required."
        },
    )
    text_encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the frozen text encoder, for transformers or sentence-transformers, that "
            "embeds the sentences. Default: the language model, averaging its last hidden states."
        },
    )
    word_window_size: int = field(default=8, metadata={"help": "Frames, after sampling, that a word-like token sees."})
    word_window_stride: int = field(default=2, metadata={"help": "Frames from one word-like token to the next."})
    word_hidden_size: int = field(default=512, metadata={"help": "Width of a word-like token."})
    word_layers: int = field(default=2, metadata={"help": "Transformer layers over the word-like tokens."})
    word_attention_heads: int = field(default=8, metadata={"help": "Attention heads of these layers."})
    word_feed_forward_size: int = field(default=2048, metadata={"help": "Feed-forward width of these layers."})
    word_dropout: float = field(default=0.1, metadata={"help": "Dropout of these layers."})
    temperature: float = field(default=0.07, metadata={"help": "Initial contrastive temperature; it is learned."})
    word_alignment_weight: float = field(
        default=10.0, metadata={"help": "Weight of the word-level loss relative to the sentence-level loss; 0 is off."}
    )
    memory_bank_size: int = field(
        default=0, metadata={"help": "Earlier sentences that each video is also contrasted with; 0 is off."}
    )
    also_measure_on: str | None = field(
        default=None, metadata={"help": "Another split, such as test, on which retrieval is measured once at the end."}
    )

    def __post_init__(self):
        if self.text_model_name_or_path is None:
            raise ValueError("`--text_model_name_or_path` must name the language model of stage 1.")
        self.check_loaded_encoder()


@dataclass
class VisualLanguageTuningArguments(LoadedEncoderArguments, NewTemporalArguments, LoraArguments, OtherClipsArguments):
    """The pretrained parts, the connector and the prompt."""

    stage_name: ClassVar[str] = "visual_language_tuning"
    target_language: ClassVar[None] = None
    freeze_visual_encoder: ClassVar[bool] = True
    vision_lora: ClassVar[bool] = False

    text_model_name_or_path: str = field(
        default=None,
        metadata={"help": "Folder of stage 1, or Hub id of a decoder-only language model. Required."},
    )
    connector_hidden_size: int | None = field(
        default=None, metadata={"help": "Hidden width of the connector. Default: that of the language model."}
    )
    connector_activation: str = field(default="gelu", metadata={"help": "Activation of the connector."})
    label_smoothing: float = field(default=0.0, metadata={"help": "Label smoothing of the cross entropy."})
    prompt: str = field(
        default=PROMPT,
        metadata={"help": "Prompt of the model; {spoken_language} is replaced by the name of the language."},
    )
    num_beams: int = field(default=5, metadata={"help": "Default number of beams of the saved model."})
    lora: bool = field(
        default=False, metadata={"help": "Train low-rank adapters in the language model as well as the connector."}
    )

    def __post_init__(self):
        self.check_loaded_encoder(reads_ready_made_features=self.chosen_row is not None)
        self.check_one_start(self.vision_model_name_or_path)
        if self.text_model_name_or_path is None:
            raise ValueError("`--text_model_name_or_path` is required.")


@dataclass
class PosePretrainingArguments(PoseEncoderArguments):
    """The new pose encoder and the pretrained text model, which are trained together."""

    stage_name: ClassVar[str] = "pose_pretraining"

    text_model_name_or_path: str = field(
        default=None, metadata={"help": "Folder or Hub id of an encoder-decoder language model. Required."}
    )
    target_language: str | None = field(
        default=None, metadata={"help": "Language code of a multilingual tokenizer, such as de_DE or deu_Latn."}
    )
    prompt: str = field(
        default=POSE_PROMPT,
        metadata={
            "help": "Prompt that the text model reads before the poses; {spoken_language} is replaced by the name of "
            "the language."
        },
    )
    label_smoothing: float = field(default=0.2, metadata={"help": "Label smoothing of the cross entropy."})
    word_presence_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the word-presence loss (ours, not in the paper); 0 is off."}
    )
    num_beams: int = field(default=4, metadata={"help": "Default number of beams of the saved model."})

    def __post_init__(self):
        if self.text_model_name_or_path is None:
            raise ValueError("`--text_model_name_or_path` is required.")
        _check_prompt(self.prompt)


@dataclass
class UnifiedFineTuningArguments:
    """The whole model that is fine-tuned, and what changes of it."""

    stage_name: ClassVar[str] = "unified_fine_tuning"
    target_language: ClassVar[None] = None

    model_name_or_path: str = field(
        default=None,
        metadata={"help": "Folder or Hub id of a whole model: pretrained on poses, fine-tuned or imported. Required."},
    )
    prompt: str | None = field(
        default=None,
        metadata={
            "help": "Another prompt; {spoken_language} is replaced by the language's name. Default: the model's."
        },
    )
    label_smoothing: float = field(default=0.2, metadata={"help": "Label smoothing of the cross entropy."})
    num_beams: int = field(default=4, metadata={"help": "Default number of beams of the saved model."})

    def __post_init__(self):
        if self.model_name_or_path is None:
            raise ValueError("`--model_name_or_path` is required: the whole model that is fine-tuned.")
        if self.prompt is not None:
            _check_prompt(self.prompt)

    @property
    def vision_model_name_or_path(self) -> list[str]:
        """What made the sign encoder, for the model card."""
        return [self.model_name_or_path]


@dataclass
class PoseRgbPretrainingArguments(UnifiedFineTuningArguments):
    """The model pretrained on poses that learns to see the hands, too."""

    stage_name: ClassVar[str] = "pose_rgb_pretraining"

    imagenet_weights: bool = field(
        default=False, metadata={"help": "Start the network of a new fusion from ImageNet weights."}
    )


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise ValueError("--prompt must be a text, got an empty one.")
