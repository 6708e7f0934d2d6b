"""What `flallm evaluate` takes besides a data set. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .flag_values import DTYPES, QUANTIZATIONS


@dataclass
class EvaluationArguments:
    """Model, split and how to score."""

    model: str = field(default=None, metadata={"help": "Folder or Hub id of a trained model. Required."})
    output_dir: str = field(
        default=None,
        metadata={"help": "New or empty folder for the results, or the one of a run to go on with. Required."},
    )
    split: str = field(default="test", metadata={"help": "Split to translate."})
    max_clips: int | None = field(default=None, metadata={"help": "Only the first so many clips."})
    append_period: bool = field(
        default=False, metadata={"help": "Append ' .' to both sides, a habit on PHOENIX14T; the signature says so."}
    )
    lowercase: bool = field(default=False, metadata={"help": "Compare in lower case; the signature says so."})
    max_control_clips: int = field(
        default=100,
        metadata={
            "help": "How many clips, at most, are also translated without what they show, once as noise and once with "
            "their first frame frozen, to measure what the model guesses; 0 for none."
        },
    )
    score_models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders or Hub ids of models that also score: text encoders, by the cosine of embeddings, and "
            "text classification models with one label, such as ports of BLEURT."
        },
    )
    add_to_model_card: bool = field(
        default=False,
        metadata={"help": "Write the scores into README.md of the model's folder, in place of those of this split."},
    )

    def __post_init__(self):
        if self.model is None:
            raise ValueError("`--model` must name a trained model.")
        if self.output_dir is None:
            raise ValueError("`--output_dir` must name a new or empty folder.")


@dataclass
class ComparisonArguments:
    """Which evaluations to compare."""

    first: Path = field(
        metadata={"help": "Folder that flallm evaluate wrote, or its predictions.jsonl.", "positional": True}
    )
    second: Path = field(metadata={"help": "The same of another system, on the same clips.", "positional": True})
    output_dir: str | None = field(default=None, metadata={"help": "New or empty folder for comparison.json."})


@dataclass
class GenerationArguments:
    """How to translate."""

    batch_size: int = field(default=8, metadata={"help": "Clips of each device that are translated together."})
    num_beams: int | None = field(default=None, metadata={"help": "Beams. Default: as the model was saved."})
    num_candidates: int | None = field(
        default=None,
        metadata={
            "help": "Sample so many translations of each clip, and take the one that agrees best with all of them. "
            "With as many --num_beams they are the best beams, and the first is taken."
        },
    )
    choose_by: str | None = field(
        default=None,
        metadata={
            "help": "How well two candidates agree: bleu (the default), chrf, or the cosine of their embeddings by a "
            "text encoder, by folder or Hub id."
        },
    )
    seed: int | None = field(
        default=None,
        metadata={"help": "Seed of samples. Default: 42; a diffusion takes the same noise for every clip."},
    )
    generation_max_length: int | None = field(
        default=None, metadata={"help": "Longest sentence, in tokens. Default: as the model was saved."}
    )
    generation_config: str | None = field(
        default=None,
        metadata={"help": "Folder, file or Hub id of a generation_config.json in place of the model's own."},
    )
    dtype: str = field(default="float32", metadata={"help": "In what the model computes.", "choices": DTYPES})
    quantization: str | None = field(
        default=None,
        metadata={
            "help": "Bits in which the language model keeps its weights. As in `flallm translate`.",
            "choices": QUANTIZATIONS,
        },
    )
    left_handed: bool | Literal["auto"] = field(
        default=False,
        metadata={
            "help": "Mirror the clips of left-handed signers, for models that learned from right-handed ones: True for "
            "all clips, auto for those of which the model is surer in a mirror."
        },
    )
    num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that read videos beside the model. Default: none on a CPU, where the model takes all "
            "cores; up to eight with an accelerator, if there are cores for them."
        },
    )
    num_threads: int | None = field(
        default=None,
        metadata={"help": "Threads of a CPU to compute in. Default: one for each core that other programs leave free."},
    )
    device: str | None = field(
        default=None, metadata={"help": "Such as cuda or cpu. Default: the accelerator if there is one."}
    )
    preprocess_on_device: bool = field(
        default=False,
        metadata={"help": "Resize and normalise frames on the accelerator, not in the reading processes."},
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self):
        if self.choose_by is not None and self.num_candidates is None:
            raise ValueError("--choose_by chooses among candidates: pass --num_candidates, how many to write.")
