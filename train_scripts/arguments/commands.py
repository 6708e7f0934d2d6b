"""
The commands of `flallm`: their modules, arguments and help. Imports nothing heavy, so that help appears at once; a
command's module is imported when the command runs.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from .cluster_arguments import ClusterArguments
from .command_arguments import (
    AdaptationArguments,
    CalibrationArguments,
    ExtractionArguments,
    ImportArguments,
    InspectArguments,
    PrepareArguments,
    PushArguments,
    ScoreArguments,
    TrimArguments,
)
from .corpus_arguments import CorpusArguments
from .data_arguments import (
    AugmentationArguments,
    DataArguments,
    DatasetArguments,
    EncoderVideoArguments,
    FeatureCacheArguments,
    FeatureStoreArguments,
    FineTuningVideoArguments,
    VideoArguments,
)
from .dataclass_parser import DataclassParser, parse_arguments, preset_names
from .described_stage_arguments import MultimodalPretrainingArguments, TranslationFineTuningArguments
from .description_arguments import (
    DescribeArguments,
    DescriberArguments,
    DescriptionArguments,
    DescriptionEmbeddingArguments,
)
from .diffslt_stage_arguments import LatentDiffusionArguments, TextAutoencodingArguments
from .evaluation_arguments import ComparisonArguments, EvaluationArguments, GenerationArguments
from .export_arguments import ExportArguments
from .model_arguments import NamedEncoderArguments
from .pose_extraction_arguments import PosesArguments
from .quickstart_arguments import LlavaSltQuickstartArguments, QuickstartArguments, UniSignQuickstartArguments
from .serving_arguments import ServeArguments
from .stage_arguments import (
    CausalLanguageModelArguments,
    DenoisingArguments,
    LanguageModelArguments,
    LLMFineTuningArguments,
    PosePretrainingArguments,
    PoseRgbPretrainingArguments,
    SentenceArguments,
    TextArguments,
    UnifiedFineTuningArguments,
    VisualContrastivePretrainingArguments,
    VisualInitialingArguments,
    VisualLanguageTuningArguments,
)
from .system_rows import help_of_stage
from .training_defaults import (
    COMMON_TRAINER_FLAGS,
    AutoencodingTrainingDefaults,
    ConnectorTrainingDefaults,
    ContrastiveTrainingDefaults,
    DescribedTrainingDefaults,
    LanguageModelTrainingDefaults,
    LinguisticTrainingDefaults,
    TrainingDefaults,
)
from .translation_arguments import TranslateArguments

HELP_FLAGS, ALL_FLAGS = ("-h", "--help"), ("--help_all", "--help-all")
EXIT_STATUSES = (
    "Exit status: 0 if all went well; 1 if something could not be done, which is listed; 2 for a mistake that you can "
    "fix, in one line; 130 after Ctrl-C and 143 after SIGTERM, with a line on how to resume."
)


@dataclass(frozen=True)
class Command:
    """
    Args:
        module: below train_scripts; its `main` runs the command.
        arguments: dataclasses with the flags. A `TrainingDefaults` among them represents the Trainer's arguments, which
            are derived from it and cannot be imported here.
    """

    module: str
    summary: str
    arguments: tuple[type, ...]

    @property
    def name(self) -> str:
        return next(name for name, command in COMMANDS.items() if command is self)

    @property
    def defaults(self) -> type[TrainingDefaults] | None:
        """For a command that takes the Trainer's flags."""
        return next((each for each in self.arguments if issubclass(each, TrainingDefaults)), None)

    @property
    def presets(self) -> list[str]:
        """The presets whose names end in the command's name."""
        kind = self.name.removeprefix("train ").replace("-", "_")
        return [name for name in preset_names() if name.endswith(kind)] if self.defaults else []

    def parse(self, argv: Sequence[str] | None, training_arguments: type | None = None) -> tuple[Any, ...]:
        """
        Instances of `arguments` from the command line; the Trainer's arguments have the type `training_arguments`.

        Exits with status 0 after `--help` and `--help-all`, and as `parse_arguments` does.
        """
        argv = list(sys.argv[1:] if argv is None else argv)
        if any(flag in argv for flag in HELP_FLAGS):
            self.show_help()
        types = tuple(training_arguments if each is self.defaults else each for each in self.arguments)
        if self.defaults is not None and any(flag in argv for flag in ALL_FLAGS):
            DataclassParser(types, self.presets, **self._description()).parse_args(["--help"])
        return parse_arguments(types, argv, **self._description())

    def show_help(self) -> NoReturn:
        """Without flags that only transformers knows."""
        self.parser().parse_args(["--help"])
        raise AssertionError("--help exits")

    def parser(self) -> DataclassParser:
        """With all of our flags and the most used flags of transformers' Trainer."""
        parser = DataclassParser(self.arguments, self.presets, **self._description())
        if self.defaults is None:
            return parser
        hidden = {*self.defaults.fixed_flags, *self.defaults.idle_flags}
        for action in parser._actions:
            if action.dest in hidden:
                action.help = argparse.SUPPRESS
        group = parser.add_argument_group("The most used of transformers' TrainingArguments, whose flags all work here")
        for name, help_text in COMMON_TRAINER_FLAGS.items():
            if name not in hidden:
                group.add_argument(f"--{name}", metavar="VALUE", help=help_text)
        parser.add_argument(ALL_FLAGS[1], action="store_true", help="Also show the other flags of the Trainer.")
        return parser

    def _description(self) -> dict[str, str]:
        return {"description": self.summary, "prog": f"flallm {self.name}"}


ON_VIDEOS = (DataArguments, VideoArguments, AugmentationArguments, TrainingDefaults)
COMMANDS = {
    "quickstart": Command(
        "commands.quickstart",
        "A small FLa-LLM in minutes on a CPU: corpus, both stages, scores and translations. LLaVA-SLT: `flallm "
        "quickstart llava-slt`.",
        (QuickstartArguments,),
    ),
    "quickstart llava-slt": Command(
        "commands.quickstart_llava_slt",
        "A small LLaVA-SLT: corpus, all three stages, scores and translations.",
        (LlavaSltQuickstartArguments,),
    ),
    "quickstart uni-sign": Command(
        "commands.quickstart_uni_sign",
        "A small Uni-Sign on poses: corpus, pretraining, scores and translations.",
        (UniSignQuickstartArguments,),
    ),
    "translate": Command(
        "commands.translate", "Translate sign language videos.", (TranslateArguments, ClusterArguments)
    ),
    "serve": Command(
        "commands.serve",
        "Serve a trained model over HTTP, and live signing by WebSocket.",
        (ServeArguments,),
    ),
    "prepare": Command(
        "commands.prepare_dataset",
        "Make a video folder from a raw corpus or a spreadsheet, or a folder of ready-made features.",
        (PrepareArguments, ClusterArguments),
    ),
    "inspect": Command("commands.inspect_dataset", "Look at a data set before training.", (InspectArguments,)),
    "features": Command(
        "commands.extract_features",
        "Compute the visual features of a data set once, for training and for others.",
        (ExtractionArguments, NamedEncoderArguments, EncoderVideoArguments, FeatureStoreArguments, ClusterArguments),
    ),
    "describe": Command(
        "commands.describe_clips",
        "Describe what the signers of a data set do, with a vision-language model, as targets for training.",
        (DescribeArguments, DescriberArguments, DescriptionEmbeddingArguments, ClusterArguments),
    ),
    "poses": Command(
        "commands.extract_poses",
        "Extract the poses of the signers in videos, or in a data set.",
        (PosesArguments, ClusterArguments),
    ),
    "generate-corpus": Command(
        "commands.generate_corpus", "Render a corpus of animated signers in an invented language.", (CorpusArguments,)
    ),
    "trim-vocabulary": Command(
        "commands.trim_vocabulary",
        "Trim a text model and its tokenizer to the tokens that a text needs.",
        (TrimArguments,),
    ),
    "train language-model": Command(
        "stages.pretrain_language_model",
        "Pretrain a small encoder-decoder language model by denoising.",
        (LanguageModelArguments, LanguageModelTrainingDefaults),
    ),
    "train visual-initialing": Command(
        "stages.visual_initialing",
        help_of_stage("visual_initialing"),
        (VisualInitialingArguments, *ON_VIDEOS),
    ),
    "train llm-fine-tuning": Command(
        "stages.llm_fine_tuning",
        help_of_stage("llm_fine_tuning"),
        (LLMFineTuningArguments, *ON_VIDEOS, FeatureCacheArguments),
    ),
    "train linguistic-pretraining": Command(
        "stages.linguistic_pretraining",
        help_of_stage("linguistic_pretraining"),
        (CausalLanguageModelArguments, TextArguments, DenoisingArguments, LinguisticTrainingDefaults),
    ),
    "train visual-contrastive-pretraining": Command(
        "stages.visual_contrastive_pretraining",
        help_of_stage("visual_contrastive_pretraining"),
        (VisualContrastivePretrainingArguments, *ON_VIDEOS[:-1], ContrastiveTrainingDefaults),
    ),
    "train visual-language-tuning": Command(
        "stages.visual_language_tuning",
        help_of_stage("visual_language_tuning"),
        (VisualLanguageTuningArguments, *ON_VIDEOS[:-1], ConnectorTrainingDefaults, FeatureCacheArguments),
    ),
    "train pose-pretraining": Command(
        "stages.pose_pretraining",
        help_of_stage("pose_pretraining"),
        (PosePretrainingArguments, *ON_VIDEOS),
    ),
    "train pose-rgb-pretraining": Command(
        "stages.pose_rgb_pretraining",
        help_of_stage("pose_rgb_pretraining"),
        (PoseRgbPretrainingArguments, DataArguments, FineTuningVideoArguments, *ON_VIDEOS[2:]),
    ),
    "train unified-fine-tuning": Command(
        "stages.unified_fine_tuning",
        help_of_stage("unified_fine_tuning"),
        (UnifiedFineTuningArguments, DataArguments, FineTuningVideoArguments, *ON_VIDEOS[2:]),
    ),
    "train multimodal-pretraining": Command(
        "stages.multimodal_pretraining",
        help_of_stage("multimodal_pretraining"),
        (MultimodalPretrainingArguments, DescriptionArguments, *ON_VIDEOS[:-1], DescribedTrainingDefaults),
    ),
    "train translation-fine-tuning": Command(
        "stages.translation_fine_tuning",
        help_of_stage("translation_fine_tuning"),
        (TranslationFineTuningArguments, DataArguments, FineTuningVideoArguments, *ON_VIDEOS[2:]),
    ),
    "train text-autoencoding": Command(
        "stages.text_autoencoding",
        help_of_stage("text_autoencoding"),
        (TextAutoencodingArguments, SentenceArguments, AutoencodingTrainingDefaults),
    ),
    "train latent-diffusion": Command(
        "stages.latent_diffusion",
        help_of_stage("latent_diffusion"),
        (LatentDiffusionArguments, DataArguments, FineTuningVideoArguments, *ON_VIDEOS[2:], FeatureCacheArguments),
    ),
    "evaluate": Command(
        "commands.evaluate_model",
        "Translate a split with a trained model and score it.",
        (EvaluationArguments, DatasetArguments, GenerationArguments, ClusterArguments),
    ),
    "compare": Command(
        "commands.compare_evaluations",
        "Compare two evaluations of the same clips by paired tests.",
        (ComparisonArguments,),
    ),
    "score": Command(
        "commands.score_translations",
        "Score one text file against another: BLEU-1 to BLEU-4, chrF and ROUGE-L (mscoco).",
        (ScoreArguments,),
    ),
    "calibrate": Command(
        "commands.calibrate",
        "Measure how far a model's scores can be trusted.",
        (CalibrationArguments, DatasetArguments),
    ),
    "adapt": Command(
        "commands.adapt",
        "Adapt a trained model to a new signer from clips alone, without sentences.",
        (AdaptationArguments,),
    ),
    "export": Command(
        "commands.export_model",
        "Export a trained model to ONNX or OpenVINO, to run without torch.",
        (ExportArguments,),
    ),
    "push": Command("commands.push_to_hub", "Upload a model or a Space to the Hub.", (PushArguments,)),
    "import-checkpoint": Command(
        "commands.import_checkpoint", "Import a checkpoint of GFSLT-VLP, sltbaselines or Uni-Sign.", (ImportArguments,)
    ),
}
