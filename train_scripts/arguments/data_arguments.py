"""Which clips a command reads, and what it does with their pixels. Imports nothing heavy."""

import math
from dataclasses import dataclass, field

from ..languages.languages import SIGN_LANGUAGE_EXAMPLES, check_sign_language, check_spoken_language
from .flag_values import FEATURE_DTYPES, check_flags

SENTENCE, GLOSS = "text", "gloss"  # what a model may write, by the columns of a data set


@dataclass
class DatasetArguments:
    """Which data set, and what is known about it."""

    dataset: list[str] = field(
        metadata={"help": "A video folder (train/, dev/, test/ with metadata.csv) or the id of a data set on the Hub."}
    )
    text_column: str = field(default=SENTENCE, metadata={"help": "Column that holds the spoken language sentence."})
    spoken_language: str | None = field(
        default=None,
        metadata={"help": "Language tag of the sentences. zh, ja, ko, th and the like are scored by character."},
    )
    sign_language: str | None = field(
        default=None,
        metadata={"help": f"ISO 639-3 code of the sign language for the model card: {SIGN_LANGUAGE_EXAMPLES}."},
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Name of the data set in the model card. Default: its id on the Hub, or its folder's name."},
    )
    streaming: bool = field(
        default=False, metadata={"help": "Download only the files of the clips that are read, not the whole data set."}
    )
    target: str = field(
        default=SENTENCE,
        metadata={
            "help": "What the model writes: text, the sentence, or gloss, the glosses of the clip or the one of an "
            "isolated sign, from the column gloss (or --text_column). Evaluation then also reports wer, the word error "
            "rate, and accuracy, the share of clips with all glosses right.",
            "choices": (SENTENCE, GLOSS),
        },
    )

    def __post_init__(self):
        if isinstance(self.dataset, str):
            self.dataset = [self.dataset]
        if self.text_column == SENTENCE:
            self.text_column = self.target
        check_flags(vars(self))
        check_spoken_language(self.spoken_language)
        check_sign_language(self.sign_language)
        if self.dataset_name is not None and not self.dataset_name.strip():
            raise ValueError("--dataset_name must be a name for readers of the model card, got an empty string.")


@dataclass
class DataArguments(DatasetArguments):
    """Which videos and sentences to train on."""

    dataset: list[str] = field(
        metadata={
            "help": "A video folder (train/, dev/, test/ with metadata.csv) or the id of a data set on the Hub. If "
            "several are given, all are trained on, and evaluation uses the first."
        }
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training clips during training, and do not download data sets on the Hub in full. Needs "
            "--max_steps, because a stream has no end; evaluate and save with --eval_strategy steps and "
            "--save_strategy steps, because it has no epochs. Several data sets are mixed with the probabilities of "
            "--dataset_weights, by default in proportion to their numbers of clips. The evaluation split is downloaded."
        },
    )
    dataset_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "One number per data set: the shares of their clips in an epoch, which stays as long as all data "
            "sets together, or in a stream. Default: every clip once."
        },
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    evaluation_split: str = field(
        default="validation", metadata={"help": "Split that chooses the best checkpoint. 'dev' means the same."}
    )
    shuffle_buffer_size: int = field(
        default=1000,
        metadata={
            "help": "With --streaming: clips per data set and process that are buffered in main memory to draw the "
            "next one from; 1 keeps the order of each file. The clips are not decoded: the buffer holds the bytes of "
            "files from the Hub (1000 clips of 300 kB: 300 MB), but only the names of files in a video folder."
        },
    )
    max_train_clips: int | None = field(default=None, metadata={"help": "Use only the first N training clips."})
    max_evaluation_clips: int | None = field(default=None, metadata={"help": "Use only the first N evaluation clips."})
    keep_decoded_videos: bool = field(
        default=False,
        metadata={
            "help": "Keep the decoded frames of all clips in main memory (in every worker process): for small corpora, "
            "where decoding them again in every epoch would cost more than the training."
        },
    )

    mirror_left_handed: bool = field(
        default=False,
        metadata={
            "help": "Mirror training and validation clips whose column handedness is left, so that the model learns "
            "one way of signing. --horizontal_flip comes on top, at random."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_weights()

    def _check_weights(self) -> None:
        weights = self.dataset_weights
        if weights is None:
            return
        if len(weights) != len(self.dataset):
            raise ValueError(
                f"--dataset_weights must be one number for each data set, got {len(weights)} for {len(self.dataset)} "
                "data set(s)."
            )
        wrong = [weight for weight in weights if not 0 < weight < math.inf]
        if wrong:
            raise ValueError(f"--dataset_weights must be above 0, got {wrong[0]}. Leave out data sets you do not want.")


@dataclass
class AugmentationArguments:
    """Random changes to training clips, drawn once per clip for all its frames. Evaluation clips stay unchanged."""

    rotation_degrees: float = field(default=0.0, metadata={"help": "Rotate by up to this angle, with probability 0.5."})
    translation: float = field(
        default=0.0, metadata={"help": "Shift by up to this fraction of the frame size, with probability 0.5."}
    )
    random_crop: bool = field(
        default=True, metadata={"help": "Crop at a random position instead of the centre (resize 256, crop 224)."}
    )
    brightness: float = field(default=0.0, metadata={"help": "Largest relative change of brightness."})
    contrast: float = field(default=0.0, metadata={"help": "Largest relative change of contrast."})
    saturation: float = field(default=0.0, metadata={"help": "Largest relative change of saturation."})
    hue: float = field(default=0.0, metadata={"help": "Largest turn of all colours, up to 0.5, half the circle."})
    invert: float = field(
        default=0.0,
        metadata={"help": "Probability of inverting all colours: bright clothes on a dark wall become the opposite."},
    )
    blur: float = field(default=0.0, metadata={"help": "Largest blur, as standard deviation in pixels of the crop."})
    random_background: float = field(
        default=0.0,
        metadata={"help": "Probability of blending all frames of a clip with one random picture, of up to half."},
    )
    speed: float = field(default=0.0, metadata={"help": "Largest relative change of the signing speed."})
    frame_drop: float = field(default=0.0, metadata={"help": "Probability of leaving out a sampled frame."})
    frame_jitter: bool = field(
        default=True, metadata={"help": "Take a random frame of each sampling interval instead of its middle."}
    )
    horizontal_flip: float = field(
        default=0.0, metadata={"help": "Probability of a flip. It swaps the hands, which changes what is signed."}
    )
    scale: float = field(
        default=0.0,
        metadata={
            "help": "Largest relative change of size. Poses: of width and height, each drawn alone, which changes the "
            "proportions, as poses are measured in units of the body."
        },
    )
    joint_noise: float = field(
        default=0.0,
        metadata={
            "help": "Poses: standard deviation of the noise on each point in each frame, as a fraction of the square "
            "around the body."
        },
    )
    hand_drop: float = field(
        default=0.0, metadata={"help": "Poses: probability, for each hand, of being unseen for a part of the clip."}
    )

    def __post_init__(self):
        check_flags(vars(self))


@dataclass
class VideoArguments:
    """How the video processor prepares pixels; saved with the model."""

    frame_sampling_rate: float = field(default=0.25, metadata={"help": "Fraction of the frames to keep."})
    max_num_frames: int | None = field(default=None, metadata={"help": "Maximum frames per clip after sampling."})
    frame_size: int = field(default=256, metadata={"help": "Height and width to which frames are resized, in pixels."})
    crop_size: int = field(
        default=224, metadata={"help": "Height and width of the crop that the model sees, in pixels."}
    )
    keep_aspect_ratio: bool = field(
        default=True,
        metadata={
            "help": "Poses: keep the proportions of the signer. False divides x by the width and y by the height of "
            "the picture, as Uni-Sign's published weights expect."
        },
    )
    smoothing_seconds: float = field(
        default=0.0,
        metadata={
            "help": "Poses: average each point over neighbouring frames, with a Gaussian of this standard deviation, "
            "for detectors that shake or lose hands. 0: as they are."
        },
    )

    def __post_init__(self):
        check_flags(vars(self))
        if self.crop_size > self.frame_size:
            raise ValueError(
                f"--crop_size must be at most --frame_size, got {self.crop_size} of {self.frame_size} pixels."
            )


@dataclass
class EncoderVideoArguments(VideoArguments):
    """How clips are prepared, as in training. With an encoder that was saved with its processor, that decides."""

    frame_sampling_rate: float | None = field(
        default=None, metadata={"help": "Fraction of the frames to keep. Default: 0.25."}
    )
    frame_size: int | None = field(
        default=None,
        metadata={
            "help": "Height and width to which frames are resized, in pixels. Default: 256. Of image and video models, "
            "which bring their own sizes, only the ratio to --crop_size counts."
        },
    )
    crop_size: int | None = field(
        default=None, metadata={"help": "Height and width of the crop that the model sees, in pixels. Default: 224."}
    )
    keep_aspect_ratio: bool | None = field(
        default=None,
        metadata={"help": "Poses: False divides x by the width and y by the height of the picture. Default: True."},
    )
    smoothing_seconds: float | None = field(
        default=None, metadata={"help": "Poses: average each point over neighbouring frames. Default: 0, not at all."}
    )

    def __post_init__(self):
        self.completed()

    def given(self) -> dict[str, float | int]:
        """The flags that were set."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def completed(self) -> VideoArguments:
        """
        With the defaults of training.

        Raises:
            ValueError: for values that are not allowed.
        """
        return VideoArguments(**self.given())


@dataclass
class FineTuningVideoArguments(EncoderVideoArguments):
    """How clips are prepared. What is not given stays as the model was pretrained."""

    frame_sampling_rate: float | None = field(
        default=None, metadata={"help": "Fraction of the frames to keep. Default: the model's."}
    )
    max_num_frames: int | None = field(
        default=None, metadata={"help": "Maximum frames per clip after sampling. Default: the model's."}
    )
    frame_size: int | None = field(
        default=None,
        metadata={"help": "Height and width to which frames are resized, in pixels. Default: the model's."},
    )
    crop_size: int | None = field(
        default=None,
        metadata={"help": "Height and width of the crop that the model sees, in pixels. Default: the model's."},
    )
    keep_aspect_ratio: bool | None = field(
        default=None,
        metadata={
            "help": "Poses: False divides x by the width and y by the height of the picture. Default: the model's."
        },
    )
    smoothing_seconds: float | None = field(
        default=None, metadata={"help": "Poses: average each point over neighbouring frames. Default: the model's."}
    )


@dataclass
class FeatureStoreArguments:
    """How and where visual features are kept on disk."""

    features_dtype: str = field(default="float16", metadata={"help": "float16, bfloat16 or float32 on disk."})
    feature_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the feature cache, shared by all runs. Default: flallm/features in Hugging Face's cache "
            "folder, $HF_HOME or ~/.cache/huggingface."
        },
    )

    def __post_init__(self):
        if self.features_dtype not in FEATURE_DTYPES:
            raise ValueError(f"--features_dtype must be {', '.join(FEATURE_DTYPES)}, got {self.features_dtype!r}.")


@dataclass
class FeatureCacheArguments(FeatureStoreArguments):
    """Visual features of a frozen encoder, computed once and kept on disk for all later epochs and runs."""

    cache_features: bool = field(
        default=False,
        metadata={
            "help": "Compute the visual features of every clip once, keep them on disk and train from them. Training "
            "clips are then either not augmented, or come in the few augmented versions of --feature_views."
        },
    )
    feature_views: int | None = field(
        default=None,
        metadata={
            "help": "With --cache_features: keep this many augmented versions of each training clip and cycle through "
            "them, one per epoch. Default: one version, without augmentation."
        },
    )
    feature_cache_days: float | None = field(
        default=None,
        metadata={
            "help": "With --cache_features: remove features that no run has used for this many days. Default: never."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.feature_cache_days is not None and not self.feature_cache_days >= 1:
            raise ValueError(f"--feature_cache_days must be 1 or more, got {self.feature_cache_days:g}.")
        check_flags(vars(self))
        if self.feature_views is not None and not self.cache_features:
            raise ValueError("--feature_views needs --cache_features True: without it every epoch draws new ones.")
