"""Arguments of `flallm generate-corpus`. Imports nothing heavy."""

from dataclasses import dataclass, field

from ..machine.cores import num_cores


@dataclass
class CorpusArguments:
    """What to generate. `output_dir` must be new or empty."""

    output_dir: str = field(metadata={"help": "Folder for the corpus; new or empty."})
    seed: int = field(default=0, metadata={"help": "Seed of everything: sentences, signers, performances."})
    num_train_clips: int = field(default=1200, metadata={"help": "Clips in the training split."})
    num_dev_clips: int = field(default=100, metadata={"help": "Clips in the dev split."})
    num_test_clips: int = field(default=150, metadata={"help": "Clips in the test split."})
    num_signs: int | None = field(
        default=None, metadata={"help": "Signs in the vocabulary. Default: the whole lexicon."}
    )
    num_training_signers: int = field(default=14, metadata={"help": "Signers of the training split."})
    num_dev_signers: int = field(
        default=2, metadata={"help": "Signers of the dev split only; training signers perform the other half of it."}
    )
    num_test_signers: int = field(default=3, metadata={"help": "Signers of the test split, seen nowhere else."})
    left_handed_fraction: float = field(default=0.2, metadata={"help": "Share of all signers who are left-handed."})
    resolution: int = field(default=64, metadata={"help": "Height and width of the clips in pixels; even."})
    videos: bool = field(default=True, metadata={"help": "Render the clips; False, with --poses True, is much faster."})
    poses: bool = field(
        default=False, metadata={"help": "Write the keypoints of each clip, 133 in the layout COCO-WholeBody."}
    )
    pose_errors: float = field(
        default=1.0,
        metadata={"help": "Errors of the imagined pose detector: 0 for true keypoints, 2 for errors twice as large."},
    )
    descriptions: bool = field(
        default=False, metadata={"help": "Write what hands and body do, in words, a few frames at a time."}
    )
    missing_descriptions: float = field(default=0.0, metadata={"help": "Share of the descriptions to leave out."})
    wrong_descriptions: float = field(
        default=0.0, metadata={"help": "Share of the descriptions to replace by those of other frames."}
    )
    ambiguous_clips: float = field(
        default=0.0,
        metadata={
            "help": "Share of the clips of each split to make ambiguous: one sign stands for two words, so that two "
            "sentences are right. Column `readings` names the right sentences of every clip."
        },
    )
    num_text_only_sentences: int = field(
        default=6000, metadata={"help": "Sentences without a clip; fewer if the signs do not give as many."}
    )
    num_workers: int = field(
        default_factory=num_cores, metadata={"help": "Processes; the result does not depend on it."}
    )
