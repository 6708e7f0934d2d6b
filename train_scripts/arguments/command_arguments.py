"""Arguments of the commands that do not train. Imports nothing heavy."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..corpora.corpus_readers import KINDS
from ..corpora.corpus_tables import COLUMN_NAMES
from ..languages.languages import check_sign_language, check_spoken_language
from ..machine.cores import num_cores
from ..machine.process_pool import check_num_workers
from .flag_values import DTYPES, check_license, check_repo_id
from .system_rows import systems

TOKENIZERS = ("13a", "intl", "none", "char", "zh")
CHECKPOINT_SOURCES = ("sltbaselines_stage1", "sltbaselines_stage2", "gfslt_vlp", systems.UNI_SIGN.model_type)
LEAST_CLIPS = 20
WHY_SO_MANY = f"At least {LEAST_CLIPS} clips are needed to measure how sure the model is, and 200 or more are better."


@dataclass
class CalibrationArguments:
    """Model, split, and what counts as right."""

    model: str = field(default=None, metadata={"help": "Folder of a trained model. Required."})
    split: str = field(default="dev", metadata={"help": "Split to learn from; the model must not have trained on it."})
    also_measure_on: str | None = field(
        default=None, metadata={"help": "Another split, such as test, on which the result is only measured."}
    )
    least_chrf: float = field(
        default=95.0,
        metadata={
            "help": "A translation counts as right if its chrF is at least this high. 95 leaves room for a capital "
            "letter or the final punctuation mark; 100 requires the exact sentence."
        },
    )
    max_clips: int | None = field(default=None, metadata={"help": "Use only the first N clips."})
    batch_size: int = field(default=8, metadata={"help": "Clips to translate at once."})
    num_threads: int | None = field(
        default=None,
        metadata={"help": "CPU threads to compute with. Default: one per core that other programs leave free."},
    )

    def __post_init__(self):
        if self.model is None:
            raise ValueError("`--model` must name the folder of a trained model.")
        if not 0 < self.least_chrf <= 100:
            raise ValueError(f"--least_chrf must be above 0 and at most 100, got {self.least_chrf:g}.")
        for name in ("batch_size", "num_threads"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"--{name} must be 1 or more, got {number}.")
        if self.max_clips is not None and self.max_clips < LEAST_CLIPS:
            raise ValueError(f"--max_clips must be {LEAST_CLIPS} or more, got {self.max_clips}. {WHY_SO_MANY}")


@dataclass
class AdaptationArguments:
    """Which model, and the clips of whom."""

    model: str = field(default=None, metadata={"help": "Folder or Hub id of a trained model. Required."})
    dataset: str = field(
        default=None, metadata={"help": "A video folder or the id of a data set on the Hub. Required."}
    )
    output_dir: str = field(default=None, metadata={"help": "New or empty folder for the adapted model. Required."})
    split: str = field(default="test", metadata={"help": "Split with the clips. Its sentences are not read."})
    signer: str | None = field(
        default=None, metadata={"help": "Only the clips of this signer, by the column signer. Default: all clips."}
    )
    max_clips: int | None = field(default=None, metadata={"help": "Only the first so many of these clips."})
    prior_clips: int = field(
        default=16,  # ours
        metadata={
            "help": "How many clips the trained statistics count as. With as many clips of the signer, old and new "
            "count the same; 0 takes the new ones alone."
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Clips to encode at once."})
    num_threads: int | None = field(
        default=None,
        metadata={"help": "CPU threads to compute with. Default: one per core that other programs leave free."},
    )

    def __post_init__(self):
        for name, what in (("model", "a trained model"), ("dataset", "a data set"), ("output_dir", "a new folder")):
            if getattr(self, name) is None:
                raise ValueError(f"`--{name}` must name {what}.")


@dataclass
class PrepareArguments:
    """Which corpus, and how to write it."""

    corpus: str = field(metadata={"help": f"Layout of the raw corpus: {', '.join(KINDS)}."})
    source: str = field(metadata={"help": "Folder of the raw corpus. Nothing in it is changed."})
    output_dir: str = field(metadata={"help": "New or empty folder, or that of an interrupted run to resume."})
    videos: str | None = field(
        default=None,
        metadata={"help": "Folder of the videos, frames, features or poses. Default: the usual place below --source."},
    )
    poses: str | None = field(
        default=None,
        metadata={"help": "For corpora of videos: folder of their poses, which are put beside them. Default: none."},
    )
    table: str | None = field(
        default=None,
        metadata={
            "help": "For table, frame_folders, features and poses: the CSV or TSV file, if --source holds several; for "
            "table also the subtitles (srt, vtt) or ELAN annotations (eaf, or a tab-delimited export) of one video."
        },
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"For tables: their names for the columns {', '.join(COLUMN_NAMES)} and, for features, "
            "features_per_second, as in text=Satz file=Datei."
        },
    )
    tier: str | None = field(
        default=None, metadata={"help": "For ELAN files with several tiers: the one that holds the sentences."}
    )
    quality: int = field(
        default=18,
        metadata={"help": "Of videos encoded from pictures, from 0 (lossless, large) to 35 (blurred, small)."},
    )
    frames_per_second: float | None = field(
        default=None,
        metadata={
            "help": "Of folders of pictures, and of poses whose files do not state it. Default: the corpus's own frame "
            "rate."
        },
    )
    features_per_second: float | None = field(
        default=None,
        metadata={
            "help": "For features: the frame rate of their videos, divided by the frames from one feature to the next. "
            "Default: as the files state it."
        },
    )
    features_layer: int | None = field(
        default=None,
        metadata={"help": "For features of several layers: which one to keep, counted from 0; -1 is the last."},
    )
    sign_language: str | None = field(
        default=None, metadata={"help": "ISO 639-3 code of the sign language. Default: the corpus's."}
    )
    spoken_language: str | None = field(
        default=None, metadata={"help": "Language tag of the sentences. Default: the corpus's."}
    )
    num_workers: int = field(default_factory=num_cores, metadata={"help": "Worker processes."})
    push_to_hub: str | None = field(
        default=None, metadata={"help": "OWNER/NAME of a data set repository to upload the folder to at the end."}
    )
    private: bool = field(
        default=True,
        metadata={"help": "With --push_to_hub: False makes it public. Default: only you and those you invite."},
    )
    dataset_license: str | None = field(
        default=None,
        metadata={"help": "Licence for the data set's card, as the Hub writes it. Default: none."},
    )

    def __post_init__(self):
        if self.corpus not in KINDS:
            raise ValueError(f"--corpus must be one of {', '.join(KINDS)}, got {self.corpus!r}.")
        for column in self.columns:
            if not re.fullmatch("[^=]+=.+", column):
                raise ValueError(f"--columns takes OUR_NAME=THEIR_NAME pairs, such as text=Satz, got {column!r}.")
        ours = [column.partition("=")[0] for column in self.columns]
        if len(set(ours)) < len(ours):
            raise ValueError(f"--columns must name each of our columns once, got {' '.join(self.columns)}.")
        if not 0 <= self.quality <= 35:
            raise ValueError(f"--quality must be from 0 to 35, got {self.quality}.")
        if self.frames_per_second is not None and not 1 <= self.frames_per_second <= 1000:
            raise ValueError(f"--frames_per_second must be from 1 to 1000, got {self.frames_per_second}.")
        if self.features_per_second is not None and not 0 < self.features_per_second <= 1000:
            raise ValueError(f"--features_per_second must be above 0 and at most 1000, got {self.features_per_second}.")
        check_num_workers("--num_workers", self.num_workers)
        check_repo_id("push_to_hub", self.push_to_hub, "me/phoenix14t")
        check_license("dataset_license", self.dataset_license, "cc-by-4.0 or other")
        check_sign_language(self.sign_language)
        check_spoken_language(self.spoken_language)


@dataclass
class InspectArguments:
    """Which data set, and where the report goes."""

    dataset: str = field(metadata={"help": "A video folder, or the id of a data set on the Hub."})
    output_dir: str = field(default="inspection", metadata={"help": "New or empty folder for the report."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the spoken language sentence."})
    spoken_language: str | None = field(
        default=None, metadata={"help": "Language tag of sentences whose rows have none. zh, ja, ko, th: by character."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer whose unknown characters and sentence lengths are counted."}
    )
    num_strips: int = field(default=4, metadata={"help": "Clips per split to show on the page."})
    num_workers: int = field(default_factory=num_cores, metadata={"help": "Decoding processes."})

    def __post_init__(self):
        check_spoken_language(self.spoken_language)
        check_num_workers("--num_workers", self.num_workers)
        if self.num_strips < 0:
            raise ValueError(f"--num_strips must be 0 or more, got {self.num_strips}.")


@dataclass
class ExtractionArguments:
    """Which clips, and which encoder."""

    dataset: list[str] = field(
        metadata={"help": "Video folders (train/, dev/, test/ with metadata.csv) or ids of data sets on the Hub."}
    )
    splits: list[str] | None = field(default=None, metadata={"help": "Splits to encode. Default: all."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the spoken language sentence."})
    output_dir: Path | None = field(
        default=None,
        metadata={
            "help": "Also write the features as a data set that others can read: a new or empty folder, or the one of "
            "an interrupted run to go on with."
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Clips of each device that are encoded together."})
    frames_per_chunk: int | None = field(
        default=None, metadata={"help": "Most frames that go through the encoder at once: saves memory."}
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision to compute in. Default: bfloat16 where the processor does so natively, else float32.",
            "choices": DTYPES,
        },
    )
    num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that read videos beside the encoder. Default: none on a CPU; up to eight with an "
            "accelerator, if there are cores for them."
        },
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads. Default: one per free core."})
    device: str | None = field(
        default=None, metadata={"help": "Such as cuda or cpu. Default: the accelerator if there is one."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})


@dataclass
class PushArguments:
    """What to send where."""

    repo_id: str = field(metadata={"help": "The model's repository on the Hub, as OWNER/NAME."})
    model: str | None = field(
        default=None, metadata={"help": "Folder of a trained model, or of a LoRA adapter, to upload to --repo_id."}
    )
    space: str | None = field(
        default=None, metadata={"help": "OWNER/NAME of a Space to upload the demo to; it shows the model of --repo_id."}
    )
    private: bool = field(
        default=True,
        metadata={"help": "False makes the upload public. Default: only you and those you invite."},
    )
    revision: str | None = field(
        default=None, metadata={"help": "Branch of the model's repository; created if missing. Default: main."}
    )
    commit_message: str | None = field(default=None, metadata={"help": "Commit message for the repository."})
    base_model_repo_id: str | None = field(
        default=None, metadata={"help": "For a LoRA adapter: its base model's repository, as OWNER/NAME."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Only list what would be uploaded. Needs neither network nor token."}
    )

    def __post_init__(self):
        if self.model is None and self.space is None:
            raise ValueError("say what to upload: --model FOLDER, --space OWNER/NAME, or both.")
        for name in ("repo_id", "space", "base_model_repo_id"):
            check_repo_id(name, getattr(self, name), "me/flallm-phoenix")
        if self.revision is not None and re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ValueError(f"--revision must be a branch, so that a commit can be added, got {self.revision}.")


@dataclass
class TrimArguments:
    """A checkpoint, the text it must be able to write, and anything else it should know."""

    text_model_name_or_path: str = field(
        default=None, metadata={"help": "Folder or Hub id of an encoder-decoder and its tokenizer. Required."}
    )
    output_dir: str = field(default=None, metadata={"help": "New or empty folder for the smaller model. Required."})
    text_file: list[str] = field(
        default_factory=list, metadata={"help": "UTF-8 text files, one sentence per line: the training text."}
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Video folder or data set on the Hub, for its sentences."}
    )
    text_column: str = field(default="text", metadata={"help": "Column that holds the spoken language sentence."})
    split: list[str] = field(
        default_factory=lambda: ["train"], metadata={"help": "Splits of the data set whose sentences are used."}
    )
    target_language: str | None = field(
        default=None, metadata={"help": "Language code of a multilingual tokenizer, such as de_DE or deu_Latn."}
    )
    keep: list[str] = field(
        default_factory=list, metadata={"help": "Words or sentences whose tokens are kept even if the text lacks them."}
    )
    keep_text_file: list[str] = field(
        default_factory=list, metadata={"help": "UTF-8 text files of these, one word or sentence per line."}
    )

    def __post_init__(self):
        for name in ("text_model_name_or_path", "output_dir"):
            if getattr(self, name) is None:
                raise ValueError(f"`--{name}` is required.")
        if not self.text_file and self.dataset is None:
            raise ValueError("There is no text to trim to. Pass --text_file, --dataset, or both.")


@dataclass
class ScoreArguments:
    """Which files, and how to score."""

    hypotheses: Path = field(
        metadata={"help": "Translations to score, UTF-8, one per line; lines may be empty.", "positional": True}
    )
    references: Path = field(metadata={"help": "Raw reference sentences, UTF-8, one per line.", "positional": True})
    spoken_language: str | None = field(
        default=None,
        metadata={"help": "Language tag of the sentences. zh, ja, ko, th and the like are scored by character."},
    )
    tokenize: str | None = field(
        default=None, metadata={"help": "sacrebleu tokenizer. Default: depends on the language.", "choices": TOKENIZERS}
    )
    lowercase: bool = field(default=False, metadata={"help": "Compare in lower case; the signature says so."})
    append_period: bool = field(
        default=False, metadata={"help": "Append ' .' to both sides, a habit on PHOENIX14T; the signature says so."}
    )
    num_resamples: int = field(default=1000, metadata={"help": "Bootstrap resamples; 0 for no confidence intervals."})
    seed: int = field(default=12345, metadata={"help": "Seed of the bootstrap; the default is that of sacrebleu."})
    json: bool = field(default=False, metadata={"help": "Print JSON with unrounded scores instead of the table."})

    def __post_init__(self):
        check_spoken_language(self.spoken_language)


@dataclass
class ImportArguments:
    """Which checkpoint, and which models it was trained with."""

    checkpoint: Path = field(metadata={"help": "best_checkpoint.pth or checkpoint.pth."})
    source: str = field(metadata={"help": "Project that wrote it.", "choices": CHECKPOINT_SOURCES})
    text_model_name_or_path: str = field(
        metadata={
            "help": "The text model it was trained with: its configuration and tokenizer. An mBART (MBart_trimmed), or "
            "for Uni-Sign google/mt5-base."
        }
    )
    output_dir: Path = field(metadata={"help": "New or empty folder."})
    text_config_file: str | None = field(
        default=None,
        metadata={"help": "config.json of the text model, if it is neither that mBART nor Light-T (mytran)."},
    )
    target_language: str | None = field(
        default=None, metadata={"help": "Language code that the tokenizer writes, such as de_DE or zh_CN."}
    )
    spoken_language: str | None = field(
        default=None,
        metadata={"help": "Uni-Sign: language that the prompt names, zh for its CSL weights and en for the others."},
    )
