"""What the quickstarts ask for, one for each system. Imports nothing heavy."""

from dataclasses import dataclass, field

from .command_arguments import LEAST_CLIPS


@dataclass
class QuickstartSizes:
    """What all quickstarts ask for."""

    output_dir: str = field(default="quickstart_output", metadata={"help": "New or empty folder for everything."})
    seed: int = field(default=0, metadata={"help": "Seed of corpus, initial weights and order of the clips."})
    num_train_clips: int = field(default=1200, metadata={"help": "Training clips."})
    num_dev_clips: int = field(
        default=60, metadata={"help": f"Clips that choose the best checkpoint and calibrate it; {LEAST_CLIPS} or more."}
    )
    num_test_clips: int = field(default=150, metadata={"help": "Test clips, by signers never seen in training."})
    num_text_only_sentences: int = field(default=6000, metadata={"help": "Sentences for the language model."})
    language_model_epochs: float = field(default=3, metadata={"help": "Epochs of the language model's pretraining."})

    def __post_init__(self):
        if self.num_dev_clips < LEAST_CLIPS:
            raise ValueError(
                f"--num_dev_clips must be {LEAST_CLIPS} or more, got {self.num_dev_clips}: fewer are not enough to "
                "calibrate the model."
            )


@dataclass
class QuickstartArguments(QuickstartSizes):
    """Sizes; the defaults take under ten minutes on two CPU cores."""

    stage1_epochs: float = field(default=12, metadata={"help": "Epochs of visual initialing."})
    stage2_epochs: float = field(default=6, metadata={"help": "Epochs of LLM fine-tuning."})


@dataclass
class LlavaSltQuickstartArguments(QuickstartArguments):
    """Sizes; the defaults take under twenty minutes on two CPU cores."""

    output_dir: str = field(
        default="quickstart_llava_slt_output", metadata={"help": "New or empty folder for everything."}
    )
    language_model_epochs: float = field(default=3, metadata={"help": "Epochs of linguistic pretraining (stage 1)."})
    stage2_epochs: float = field(default=12, metadata={"help": "Epochs of visual contrastive pretraining."})
    stage3_epochs: float = field(default=8, metadata={"help": "Epochs of visual language tuning."})


@dataclass
class UniSignQuickstartArguments(QuickstartSizes):
    """Sizes; the defaults take about two minutes on two CPU cores."""

    output_dir: str = field(
        default="quickstart_uni_sign_output", metadata={"help": "New or empty folder for everything."}
    )
    pretraining_epochs: float = field(default=11, metadata={"help": "Epochs of pretraining on poses."})
    pose_errors: float = field(
        default=1.0,
        metadata={"help": "Errors of the imagined pose detector: 0 for true keypoints, 2 for errors twice as large."},
    )
