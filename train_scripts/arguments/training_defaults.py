"""
Our training flags, and defaults for transformers' Trainer that suit translation: what `--help` shows without importing
transformers. The arguments of a run are these and all of the Trainer's, in training_arguments.py.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from .system_rows import systems

# The Trainer's flags that most runs set: `--help` shows these, and `--help-all` the others.
COMMON_TRAINER_FLAGS = {
    "num_train_epochs": "Epochs; --max_steps counts steps of the optimiser instead.",
    "max_steps": "Steps of the optimiser, instead of epochs.",
    "per_device_train_batch_size": "Clips, or lines of text, per device and step.",
    "per_device_eval_batch_size": "The same in evaluation.",
    "gradient_accumulation_steps": "Batches per step of the optimiser.",
    "gradient_checkpointing": "Save memory by computing activations again in the backward pass.",
    "learning_rate": "Peak learning rate.",
    "warmup_steps": "Warm-up steps or, below 1, warm-up share of the run.",
    "weight_decay": "Weight decay.",
    "optim": "Optimiser.",
    "seed": "Seed of initial weights, augmentation and the order of the clips.",
    "logging_steps": "Steps between two log lines.",
    "eval_steps": "With --eval_strategy steps: steps between two evaluations.",
    "save_steps": "With --save_strategy steps: steps between two checkpoints.",
    "resume_from_checkpoint": "Checkpoint to resume from, or last; auto for the last one, or a new run.",
    "push_to_hub": "Upload the model to the Hub at the end, as --hub_model_id.",
    "hub_model_id": "OWNER/NAME of the repository on the Hub.",
    "use_cpu": "Compute on the CPU, even if there is an accelerator.",
    "disable_tqdm": "No progress bars.",
}
CONTRASTIVE_SCORES = ("recall_at_1", "recall_at_5", "median_rank", "word_f1")
DESCRIBED_SCORES = ("recall_at_1", "recall_at_5", "median_rank", "mapper_loss")


@dataclass
class TrainingDefaults:
    """
    How to train.

    The defaults suit translation: evaluation by generation once per epoch, the best checkpoint by BLEU-4 on the
    evaluation split, and no columns removed.
    """

    output_dir: str = field(default=None, metadata={"help": "New or empty folder for checkpoints, model and logs."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep besides the best."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    metric_for_best_model: str = field(
        default="bleu4",
        metadata={"help": "Score that chooses the best checkpoint. With --target gloss the default is wer."},
    )
    predict_with_generate: bool = field(default=True, metadata={"help": "Evaluate what the model generates."})
    generation_num_beams: int | None = field(default=None, metadata={"help": "Beams in evaluation while training."})
    generation_max_length: int | None = field(default=150, metadata={"help": "Longest sentence, in tokens."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be False: videos are not model inputs."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"], metadata={"help": "Where to log."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "See torch's DDP."})
    adapter_learning_rate: float | None = field(
        default=None,
        metadata={"help": f"Learning rate of {systems.adapter_titles()}. Default: `learning_rate`."},
    )
    bias_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the text model's biases. Default: `learning_rate`."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better score."}
    )
    stop_on_collapse: bool = field(
        default=False,
        metadata={
            "help": "Stop a run whose model writes one sentence for nearly all clips, or for noise what it writes for "
            "clips, in two evaluations in a row after a tenth of the training."
        },
    )
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "With --push_to_hub: only you and those you invite see the repository."}
    )
    hub_strategy: str = field(default="end", metadata={"help": "With --push_to_hub: the model is uploaded at the end."})
    max_frames_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Make batches of as many clips as fit into this many sampled frames per device, instead of "
            "`per_device_train_batch_size` clips."
        },
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Compute in bfloat16 where that is safe. Default: if the processor or GPU has instructions for it; "
            "without them it is very slow."
        },
    )
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that read videos during training. Default: none on a CPU, where training uses all "
            "cores; up to eight with an accelerator, if there are cores for them."
        },
    )
    num_threads: int | None = field(
        default=None,
        metadata={"help": "CPU threads to compute with. Default: one per core that other programs leave free."},
    )
    preprocess_on_device: bool = field(
        default=False,
        metadata={"help": "Resize, augment and normalise frames on the accelerator, not in the loading processes."},
    )
    frames_per_chunk: int | None = field(
        default=None,
        metadata={
            "help": "To save memory: run the CNN over at most this many frames of a batch at a time, and in training "
            "again in the backward pass. In training, BatchNorm statistics then come from each chunk instead of the "
            "batch (ghost batch norm); a frozen encoder and evaluation give the same results as without."
        },
    )
    model_license: str | None = field(
        default=None,
        metadata={"help": "Licence of the trained model for its card, as the Hub writes it, such as cc-by-nc-4.0."},
    )

    # What evaluation scores, flags that this command gives one value, and flags that do nothing here: its help leaves
    # them out, and those that are not transformers' own raise an error.
    needs_generation: ClassVar[bool] = True
    fixed_flags: ClassVar[dict[str, Any]] = {}
    idle_flags: ClassVar[tuple[str, ...]] = ()
    sampling_strategies: ClassVar[tuple[str, ...]] = ("random", "sequential", "group_by_length")


@dataclass
class LanguageModelTrainingDefaults(TrainingDefaults):
    """
    How to train.

    No evaluation: a text file has no splits.
    """

    eval_strategy: str = field(default="no", metadata={"help": "Must be no."})
    save_strategy: str = field(default="no", metadata={"help": "When to save checkpoints: no, steps or epoch."})
    load_best_model_at_end: bool = field(default=False, metadata={"help": "Must be False."})
    predict_with_generate: bool = field(default=False, metadata={"help": "Must be False."})
    needs_generation: ClassVar[bool] = False
    sampling_strategies: ClassVar[tuple[str, ...]] = ("random", "sequential")
    fixed_flags: ClassVar[dict[str, Any]] = {
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "predict_with_generate": False,
        "eval_on_start": False,
    }
    idle_flags: ClassVar[tuple[str, ...]] = (
        "metric_for_best_model",
        "generation_num_beams",
        "generation_max_length",
        "remove_unused_columns",
        "adapter_learning_rate",
        "bias_learning_rate",
        "early_stopping_patience",
        "stop_on_collapse",
        "max_frames_per_batch",
        "preprocess_on_device",
        "frames_per_chunk",
        "model_license",
        "per_device_eval_batch_size",
        "eval_steps",
    )


# Of stages that learn from sentences, and leave a model for a later stage.
IDLE_ON_TEXT = (
    "remove_unused_columns",
    "adapter_learning_rate",
    "bias_learning_rate",
    "stop_on_collapse",
    "hub_private_repo",
    "hub_strategy",
    "push_to_hub",
    "hub_model_id",
    "max_frames_per_batch",
    "preprocess_on_device",
    "frames_per_chunk",
)


@dataclass
class LinguisticTrainingDefaults(TrainingDefaults):
    """
    How to train.

    Held-out perplexity chooses the best checkpoint.
    """

    metric_for_best_model: str = field(default="perplexity", metadata={"help": "perplexity or loss."})
    predict_with_generate: bool = field(default=False, metadata={"help": "Must be False."})
    needs_generation: ClassVar[bool] = False
    sampling_strategies: ClassVar[tuple[str, ...]] = ("random", "sequential")
    fixed_flags: ClassVar[dict[str, Any]] = {"predict_with_generate": False}
    idle_flags: ClassVar[tuple[str, ...]] = (
        "generation_num_beams",
        "generation_max_length",
        *IDLE_ON_TEXT,
        "model_license",
    )


@dataclass
class AutoencodingTrainingDefaults(TrainingDefaults):
    """
    How to train.

    The reconstruction of held-out sentences chooses the best checkpoint.
    """

    metric_for_best_model: str = field(
        default="bleu4",
        metadata={"help": "Score of the reconstruction that chooses the best checkpoint: exact_matches, a BLEU, loss."},
    )
    sampling_strategies: ClassVar[tuple[str, ...]] = ("random", "sequential")
    idle_flags: ClassVar[tuple[str, ...]] = IDLE_ON_TEXT


@dataclass
class ContrastiveTrainingDefaults(TrainingDefaults):
    """
    How to train.

    Evaluation by retrieval instead of generation.
    """

    metric_for_best_model: str = field(
        default="recall_at_1",
        metadata={"help": f"Score that chooses the best checkpoint: {', '.join(CONTRASTIVE_SCORES)} or loss."},
    )
    predict_with_generate: bool = field(default=False, metadata={"help": "Must be False."})
    needs_generation: ClassVar[bool] = False
    fixed_flags: ClassVar[dict[str, Any]] = {"predict_with_generate": False}
    idle_flags: ClassVar[tuple[str, ...]] = (
        "generation_num_beams",
        "generation_max_length",
        "adapter_learning_rate",
        "bias_learning_rate",
        "stop_on_collapse",
    )


@dataclass
class DescribedTrainingDefaults(ContrastiveTrainingDefaults):
    """
    How to train.

    Evaluation by retrieval instead of generation, and by the error of the description mapper.
    """

    metric_for_best_model: str = field(
        default="recall_at_1",
        metadata={"help": f"Score that chooses the best checkpoint: {', '.join(DESCRIBED_SCORES)} or loss."},
    )


@dataclass
class ConnectorTrainingDefaults(TrainingDefaults):
    """
    How to train.

    The biases of the language model have no rate of their own.
    """

    idle_flags: ClassVar[tuple[str, ...]] = ("bias_learning_rate",)
