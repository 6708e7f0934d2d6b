"""Arguments of `flallm describe`, and of trainings on what it makes. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path

from .flag_values import DTYPES, FEATURE_DTYPES, QUANTIZATIONS

POOLINGS = ("cls", "mean")
# Ours. MMSLT, too, asks only for motions and gestures of the person, above all of hands and face.
PROMPT = (
    "Describe only the motions and gestures of the person. Above all, say what each hand does: its shape, where it is "
    "and which way it moves or points. Then say what the face does: eyebrows, eyes, mouth, and how the head is held. "
    "Leave out clothes, hair and background, and do not guess what the person means."
)
MMSLT_TEXT_ENCODER = "google-bert/bert-base-cased"


@dataclass
class DescribeArguments:
    """Which clips, and how the command runs."""

    dataset: str = field(
        metadata={"help": "A video folder (train/, dev/, test/ with metadata.csv) or the id of a data set on the Hub."}
    )
    output_dir: Path = field(
        metadata={"help": "Folder for the descriptions: new, empty, or the one of an interrupted run to go on with."}
    )
    splits: list[str] | None = field(default=None, metadata={"help": "Splits to describe. Default: all."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the spoken language sentence."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads. Default: one per free core."})
    device: str | None = field(
        default=None, metadata={"help": "Such as cuda or cpu. Default: the accelerator if there is one."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self):
        sliced = [name for name in self.splits or () if "[" in name]
        if sliced:
            raise ValueError(
                f"--splits must name whole splits, got {sliced[0]!r}: descriptions are kept by split. To try the "
                "command, stop it after some clips: the same command goes on."
            )


@dataclass
class DescriberArguments:
    """Who describes the clips: a model, or a column of the data set."""

    describer_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a model of transformers that answers questions about images or videos, such "
            "as llava-hf/llava-onevision-qwen2-7b-ov-hf (MMSLT's)."
        },
    )
    description_column: str | None = field(
        default=None,
        metadata={
            "help": "In place of a model: the column that holds descriptions by people or other tools. A text "
            'describes the whole clip; [{"start": 0, "end": 4, "text": "..."}, ...] describes its frames.'
        },
    )
    description_prompt: str = field(default=PROMPT, metadata={"help": "What the model is asked about each picture."})
    description_stride: int = field(
        default=4,
        metadata={
            "help": "Show the model every Nth frame of a clip. A description is valid until the next one. MMSLT: 1."
        },
    )
    segment_frames: int | None = field(
        default=None,
        metadata={
            "help": "Describe segments of N frames as videos, of which the model sees every --description_stride-th "
            "frame. Default: single images."
        },
    )
    max_new_tokens: int = field(default=256, metadata={"help": "Most tokens of a description."})
    batch_size: int = field(default=8, metadata={"help": "Images or segments that are described together."})
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision of the describer. Default: bfloat16 where the processor does so natively, else float32.",
            "choices": DTYPES,
        },
    )
    quantization: str | None = field(
        default=None, metadata={"help": "Bits per weight of the describer: saves memory.", "choices": QUANTIZATIONS}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the Python code in the describer's repository. Read it first."}
    )

    def __post_init__(self):
        if (self.describer_name_or_path is None) == (self.description_column is None):
            raise ValueError(
                "Name either --describer_name_or_path, a model that describes the clips, or --description_column, a "
                "column that holds descriptions."
            )
        if self.segment_frames is not None and self.segment_frames < self.description_stride:
            raise ValueError(
                f"--segment_frames must be at least --description_stride, {self.description_stride}, got "
                f"{self.segment_frames}."
            )
        if not self.description_prompt.strip():
            raise ValueError("--description_prompt must not be empty.")


@dataclass
class DescriptionEmbeddingArguments:
    """How descriptions become embeddings."""

    text_encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the text encoder, of transformers or sentence-transformers, such as "
            f"{MMSLT_TEXT_ENCODER} (MMSLT's). Required."
        },
    )
    description_pooling: str | None = field(
        default=None,
        metadata={
            "help": "Which vector of a text is kept: cls, that of its first token (MMSLT), or mean, over all tokens. "
            "Default: as a sentence-transformers model says; mean for others.",
            "choices": POOLINGS,
        },
    )
    embeddings_dtype: str = field(
        default="float16", metadata={"help": "Of the embeddings on disk.", "choices": FEATURE_DTYPES}
    )

    def __post_init__(self):
        if self.text_encoder_name_or_path is None:
            raise ValueError(
                "`--text_encoder_name_or_path` must name the text encoder that makes the embeddings, such as "
                f"{MMSLT_TEXT_ENCODER} with --description_pooling cls, as MMSLT has it."
            )


@dataclass
class DescriptionArguments:
    """What the sign encoder learns to predict beside the sentences."""

    descriptions: str | None = field(
        default=None,
        metadata={
            "help": "Descriptions of the clips, for training and evaluation: a folder that `flallm describe` has made, "
            "or the id of such a data set on the Hub. Default: none, and the description mapper learns nothing."
        },
    )
