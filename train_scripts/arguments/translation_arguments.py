"""Arguments of flallm translate. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..languages.languages import check_spoken_language
from ..machine.cores import num_cores
from .flag_values import DTYPES, QUANTIZATIONS
from .system_rows import systems

FORMATS = ("text", "jsonl", "csv")
MOST_READING_THREADS = 4


@dataclass
class TranslateArguments:
    """Which videos, with which model."""

    model: str = field(metadata={"help": "Folder or Hub id of a trained model."})
    videos: list[str] = field(
        default_factory=list, metadata={"help": "Video files, or folders of them.", "positional": True}
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "In place of videos: a folder of clips with tables, or of shards, or the id of a data set on the "
            "Hub, one split of which is translated."
        },
    )
    split: str = field(default="test", metadata={"help": "Which split of --dataset."})
    format: str = field(default="text", metadata={"help": "Form of the output.", "choices": FORMATS})
    output: Path | None = field(default=None, metadata={"help": "File to write. Default: standard output."})
    batch_size: int = field(default=8, metadata={"help": "Clips to translate at once."})
    num_beams: int | None = field(default=None, metadata={"help": "Beams. Default: as the model was saved."})
    num_candidates: int | None = field(
        default=None,
        metadata={
            "help": "Write so many translations of each video, and take the one that agrees best with all of them. "
            "They are sampled, unless there are as many --num_beams."
        },
    )
    choose_by: str | None = field(
        default=None,
        metadata={
            "help": "How well two candidates agree: bleu (the default), chrf, or the cosine of their embeddings by a "
            "text encoder, by folder or Hub id."
        },
    )
    start: float | None = field(default=None, metadata={"help": "Where to start in each video, in seconds."})
    end: float | None = field(default=None, metadata={"help": "Where to stop in each video, in seconds."})
    long: bool = field(default=False, metadata={"help": "Split videos longer than one sentence where the hands rest."})
    srt: bool = field(default=False, metadata={"help": "Write captions beside each video, as clip.srt."})
    vtt: bool = field(default=False, metadata={"help": "Write captions beside each video, as clip.vtt."})
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision to compute in. Default: bfloat16 where the processor does so natively, else float32.",
            "choices": DTYPES,
        },
    )
    quantization: str | None = field(
        default=None,
        metadata={
            "help": "Bits per weight of the language model: saves memory, and on CPUs int8 is the fastest.",
            "choices": QUANTIZATIONS,
        },
    )
    num_workers: int = field(
        default_factory=lambda: min(MOST_READING_THREADS, max(num_cores() - 1, 1)),
        metadata={"help": "Threads that read videos ahead of the model."},
    )
    num_processes: int = field(default=1, metadata={"help": "Each has a model of its own, on the GPUs in turn."})
    spoken_language: str | None = field(
        default=None,
        metadata={
            "help": f"{systems.titles(is_prompted=True)}, and models trained with --prompt: tag of the language to "
            "write, such as de. Default: the one it was trained on."
        },
    )
    left_handed: bool | Literal["auto"] = field(
        default=False,
        metadata={
            "help": "Mirror the clips of left-handed signers, for models that learned from right-handed ones: True for "
            "all clips, auto for those of which the model is surer in a mirror."
        },
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads. Default: one per free core."})
    device: str | None = field(
        default=None, metadata={"help": "Such as cuda or cpu. Default: the accelerator if there is one."}
    )

    def __post_init__(self):
        check_spoken_language(self.spoken_language)
        self._check_videos()
        if self.choose_by is not None and self.num_candidates is None:
            raise ValueError("--choose_by chooses among candidates: pass --num_candidates, how many to write.")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError(f"--start must come before --end, got {self.start:g} and {self.end:g} seconds.")

    def _check_videos(self) -> None:
        if bool(self.videos) == (self.dataset is not None):
            raise ValueError("Name either videos, or by --dataset a data set of them.")
        given = [name for name in ("start", "end", "long", "srt", "vtt") if getattr(self, name) not in (None, False)]
        if self.dataset is not None and given:
            raise ValueError(
                f"--{given[0]} is for video files: the rows of a data set say what each of its clips is, a sentence."
            )
