"""
The claim of FLa-LLM (https://arxiv.org/abs/2403.12556) on a small scale: factorised learning against joint learning,
stage 1 alone, a random visual encoder and a random language model, at equal optimiser steps; factorised and joint
learning without the word-presence loss; and stage 1 on whole frames, of which the mean frame is not subtracted.

    python benchmarks/factorised_against_joint.py --output_dir outputs/factorised_against_joint

Every arm of every seed writes a file of results and is not run again once it has one, so that a run can be interrupted
and resumed, and `--seeds 0` and `--seeds 1 2` can run in parallel in one folder. At the end, and with `--report_only
True`, the table of docs/factorised-against-joint.md, its figures (.json) and its curves (.png) are written from the
existing results. A small run, in a few minutes:

    python benchmarks/factorised_against_joint.py --output_dir outputs/tiny --report outputs/tiny/page.md --seeds 0 \
        --num_train_clips 16 --num_dev_clips 4 --num_test_clips 4 --num_text_only_sentences 100 \
        --stage1_steps 4 --stage2_steps 2 --evaluation_interval_in_steps 2
"""

import dataclasses
import gc
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from benchmark_parts import DOCS, check_sizes, write_json, write_page
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

from train_scripts.arguments.command_line import run_command
from train_scripts.arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from train_scripts.arguments.dataclass_parser import flags, parse_arguments
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.commands import evaluate_model
from train_scripts.commands.generate_corpus import CorpusArguments, generate_corpus
from train_scripts.rendered_corpus.signing_language import LEXICON
from train_scripts.runs.pictures import read_log
from train_scripts.scores.metrics import TITLE_OF_SCORE
from train_scripts.stages import llm_fine_tuning, pretrain_language_model, visual_initialing

SIZES_FILE = "sizes.json"
BATCH_SIZE = 8  # in both stages, so that equal steps are equal numbers of clips
PAGE = DOCS / "factorised-against-joint.md"
TABLE_START = "<!-- written by benchmarks/factorised_against_joint.py -->"
NO_WORD_PRESENCE = {"word_presence_loss_weight": 0}
WHOLE_FRAMES = {"subtract_mean_frame": False}
TRAINED_FROM_RANDOM = {"freeze_visual_encoder": False, "word_presence_loss_weight": 10}  # stage 1's weight


@dataclass(frozen=True)
class Arm:
    """One way to train: which command, from which visual encoder and language model, with which extra flags."""

    title: str
    visual_encoder: str | None  # None: stage 1, which has its own; else the folder that stage 2 starts from
    language_model: str = "language_model"
    flags: Mapping[str, Any] = field(default_factory=dict)
    trains_for_all_steps: bool = True  # else: for the steps of its own stage

    @property
    def is_stage1(self) -> bool:
        return self.visual_encoder is None

    @property
    def uses_word_presence(self) -> bool:
        return self.flags.get("word_presence_loss_weight") != 0

    def own_steps(self, arguments: "BenchmarkArguments") -> int:
        if self.trains_for_all_steps:
            return arguments.stage1_steps + arguments.stage2_steps
        return arguments.stage1_steps if self.is_stage1 else arguments.stage2_steps

    def steps_before(self, arguments: "BenchmarkArguments") -> int:
        """Steps of the arm that this one starts from."""
        starts_from = ARMS.get(self.visual_encoder)
        return starts_from.own_steps(arguments) if starts_from is not None else 0


# In the order of the table; an arm comes after the one it starts from.
ARMS = {
    "stage1": Arm("stage 1, its share of the steps", None, trains_for_all_steps=False),
    "stage1_without_word_presence": Arm(
        "stage 1, its share of the steps", None, flags=NO_WORD_PRESENCE, trains_for_all_steps=False
    ),
    "stage1_whole_frames": Arm(
        "stage 1, its share of the steps, on whole frames", None, flags=WHOLE_FRAMES, trains_for_all_steps=False
    ),
    "factorised": Arm("**factorised**: stage 1, then stage 2", "stage1", trains_for_all_steps=False),
    "joint": Arm(
        "**joint**: the model of stage 2, nothing frozen", "untrained_visual_encoder", flags=TRAINED_FROM_RANDOM
    ),
    "stage1_alone": Arm("stage 1 alone, all the steps", None),
    "random_encoder": Arm("stage 2 on a random visual encoder, frozen", "untrained_visual_encoder"),
    "random_language_model": Arm(
        "stage 1, then stage 2 with a random language model",
        "stage1",
        language_model="untrained_language_model",
        trains_for_all_steps=False,
    ),
    "factorised_without_word_presence": Arm(
        "factorised: stage 1, then stage 2",
        "stage1_without_word_presence",
        flags=NO_WORD_PRESENCE,
        trains_for_all_steps=False,
    ),
    "joint_without_word_presence": Arm(
        "joint: the model of stage 2, nothing frozen",
        "untrained_visual_encoder",
        flags=TRAINED_FROM_RANDOM | NO_WORD_PRESENCE,
    ),
}
SCORES = ("bleu4", "chrf", "rouge_l_mscoco")


@dataclass
class BenchmarkArguments:
    """Sizes; the defaults make 9,450 optimiser steps a seed, most of them with the visual encoder trained."""

    output_dir: str = field(
        default="outputs/factorised_against_joint", metadata={"help": "Folder of models and results; may exist."}
    )
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures and curves land beside it."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds to run now."})
    arms: list[str] = field(default_factory=lambda: list(ARMS), metadata={"help": f"Of {', '.join(ARMS)}."})
    report_only: bool = field(default=False, metadata={"help": "Train nothing, report what there is."})
    num_train_clips: int = field(default=800, metadata={"help": "Training clips."})
    num_dev_clips: int = field(default=60, metadata={"help": "Clips of the curves."})
    num_test_clips: int = field(default=150, metadata={"help": "Clips of the table, by signers never seen before."})
    num_text_only_sentences: int = field(default=6000, metadata={"help": "Sentences for the language model."})
    num_signs: int = field(default=len(LEXICON), metadata={"help": "Signs of the invented language."})
    language_model_epochs: float = field(default=2, metadata={"help": "Epochs of the language model's pretraining."})
    stage1_steps: int = field(default=900, metadata={"help": "Optimiser steps of stage 1."})
    stage2_steps: int = field(default=450, metadata={"help": "Optimiser steps of stage 2."})
    evaluation_interval_in_steps: int = field(default=150, metadata={"help": "Steps between points of a curve."})

    def __post_init__(self):
        unknown = sorted(set(self.arms) - set(ARMS))
        if unknown:
            raise ValueError(f"--arms takes {', '.join(ARMS)}, got {', '.join(unknown)}.")

    def sizes(self) -> dict[str, float]:
        """The sizes, which must be equal in all results of one folder."""
        names = ("output_dir", "report", "seeds", "arms", "report_only")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in names}


def keep_sizes(arguments: BenchmarkArguments) -> None:
    """
    Raises:
        ValueError: if the output folder holds results of other sizes.
    """
    output_dir = Path(arguments.output_dir)
    if not (output_dir / SIZES_FILE).is_file():
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / SIZES_FILE, arguments.sizes())
    check_sizes(output_dir, read_json(output_dir / SIZES_FILE), arguments.sizes())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


class SeedRun:
    """The corpus, the models and the arms of one seed, in one folder."""

    def __init__(self, arguments: BenchmarkArguments, seed: int):
        self.arguments = arguments
        self.seed = seed
        self.folder = Path(arguments.output_dir) / f"seed_{seed}"
        self.corpus = self.folder / "corpus"

    def run(self) -> None:
        """
        Raises:
            ValueError: if an arm is asked for before the one it starts from.
        """
        self._prepare("corpus", self._make_corpus)
        self._prepare("language_model", self._pretrain_language_model)
        self._prepare("untrained_language_model", self._save_untrained_language_model)
        self._prepare("untrained_visual_encoder", self._save_untrained_visual_encoder)
        for name in (name for name in ARMS if name in self.arguments.arms):
            result = self.folder / f"{name}.json"
            if not result.is_file():
                print(f"\n=== seed {self.seed}: {name}", flush=True)
                write_json(result, self._run_arm(name))
                gc.collect()  # the Trainer's reference cycles hold a decoded corpus

    def _prepare(self, name: str, make: Callable[[], None]) -> None:
        finished = self.folder / f"{name}.done"
        if not finished.is_file():
            shutil.rmtree(self.folder / name, ignore_errors=True)  # left by a run that was stopped
            print(f"\n=== seed {self.seed}: {name}", flush=True)
            make()
            finished.touch()

    def _make_corpus(self) -> None:
        names = ("num_train_clips", "num_dev_clips", "num_test_clips", "num_text_only_sentences", "num_signs")
        sizes = {name: getattr(self.arguments, name) for name in names}
        generate_corpus(CorpusArguments(output_dir=str(self.corpus), seed=self.seed, resolution=72, **sizes))

    def _pretrain_language_model(self) -> None:
        pretrain_language_model.train(
            flags(
                config="quickstart_language_model",
                text_file=self.corpus / "text_only.txt",
                num_train_epochs=self.arguments.language_model_epochs,
                seed=self.seed,
                report_to="none",
                output_dir=self.folder / "language_model",
            )
        )

    def _save_untrained_language_model(self) -> None:
        """The same architecture and tokenizer, never trained."""
        set_seed(self.seed)
        pretrained = self.folder / "language_model"
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(pretrained))
        model.save_pretrained(self.folder / "untrained_language_model")
        AutoTokenizer.from_pretrained(pretrained).save_pretrained(self.folder / "untrained_language_model")

    def _save_untrained_visual_encoder(self) -> None:
        """The model with which stage 1 begins."""
        types = (visual_initialing.VisualInitialingArguments, DataArguments, VideoArguments)
        types += (AugmentationArguments, FLaLLMTrainingArguments)
        output_dir = self.folder / "untrained_visual_encoder"
        argv = [*self._shared_flags("quickstart_visual_initialing", output_dir), *self._stage1_flags()]
        arguments, _, video, *_ = parse_arguments(types, argv, description="")
        set_seed(self.seed)
        model, _ = visual_initialing.build_model(arguments, video)
        model.save_pretrained(output_dir)

    def _shared_flags(self, config: str, output_dir: Path) -> list[str]:
        return flags(
            config=config,
            dataset=self.corpus,
            output_dir=output_dir,
            seed=self.seed,
            per_device_train_batch_size=BATCH_SIZE,
            eval_strategy="steps",
            eval_steps=self.arguments.evaluation_interval_in_steps,
            save_strategy="no",
            load_best_model_at_end=False,
            report_to="none",
        )

    def _stage1_flags(self) -> list[str]:
        return flags(tokenizer_name_or_path=self.folder / "language_model")

    def _stage2_flags(self, arm: Arm) -> list[str]:
        visual_encoder = self.folder / arm.visual_encoder
        if not (visual_encoder / "config.json").is_file():
            raise ValueError(f"{visual_encoder} does not exist yet. Add {arm.visual_encoder} to --arms.")
        return flags(
            vision_model_name_or_path=visual_encoder,
            text_model_name_or_path=self.folder / arm.language_model,
            learning_rate=0.001,  # 0.7 times the preset's, whose batches are twice as large
            adapter_learning_rate=0.002,
        )

    def _run_arm(self, name: str) -> dict[str, Any]:
        arm = ARMS[name]
        model = self.folder / name
        shutil.rmtree(model, ignore_errors=True)  # left by a run that was stopped
        steps = flags(max_steps=arm.own_steps(self.arguments), **arm.flags)
        if arm.is_stage1:
            shared = self._shared_flags("quickstart_visual_initialing", model)
            visual_initialing.train([*shared, *self._stage1_flags(), *steps])
        else:
            shared = self._shared_flags("quickstart_llm_fine_tuning", model)
            llm_fine_tuning.train([*shared, *self._stage2_flags(arm), *steps])
        return {
            "arm": name,
            "seed": self.seed,
            "test": self._test(model),
            "dev_curve": dev_curve(model, arm.steps_before(self.arguments)),
        }

    def _test(self, model: Path) -> dict[str, Any]:
        output_dir = model / "test"
        scores, _ = evaluate_model.run_evaluation(
            flags(
                model=model,
                dataset=self.corpus,
                split="test",
                batch_size=50,
                output_dir=output_dir,
            )
        )
        return {name: scores[name] for name in SCORES} | {"signature": scores["signatures"]["bleu4"]}


def dev_curve(model: Path, steps_before: int) -> list[tuple[int, float]]:
    """-> (optimiser steps from the very beginning, BLEU-4 on the dev split), one pair per step."""
    scores = {row["step"]: row["eval_bleu4"] for row in read_log(model) if "eval_bleu4" in row}
    return [(steps_before + step, score) for step, score in scores.items()]


def read_results(output_dir: Path) -> dict[str, Any]:
    """
    -> sizes, machine and the results of every arm and seed in the folder, the content of the page's .json.

    Raises:
        ValueError: if there are none.
    """
    paths = sorted(output_dir.glob("seed_*/*.json"))
    results = [read_json(path) for path in paths]
    if not results:
        raise ValueError(f"--output_dir {output_dir} holds no results. Run without --report_only first.")
    results.sort(key=lambda result: (list(ARMS).index(result["arm"]), result["seed"]))
    device = "one GPU" if torch.accelerator.is_available() else "no GPU"
    machine = f"{os.cpu_count()} CPU cores, {device}"
    return {"sizes": read_json(output_dir / SIZES_FILE), "machine": machine, "results": results}


def write_report(arguments: BenchmarkArguments) -> None:
    """Replace the text between the two marks of the page, or start a page; write figures and curves beside it."""
    page = Path(arguments.report)
    report = read_results(Path(arguments.output_dir))
    page.parent.mkdir(parents=True, exist_ok=True)
    table = format_report(report, page.with_suffix(".png").name)
    write_page(page, TABLE_START, table)
    write_json(page.with_suffix(".json"), report)
    draw_dev_curves(report, page.with_suffix(".png"))
    print(table)


def format_report(report: Mapping[str, Any], curves: str) -> str:
    """Sizes, command, table and curves in Markdown; `curves` is the picture's file name."""
    sizes = report["sizes"]
    seeds = sorted({result["seed"] for result in report["results"]})
    command = " ".join(f"--{name} {value}" for name, value in sizes.items())
    lines = [
        f"{sizes['num_train_clips']} training clips, {sizes['num_dev_clips']} dev clips (the curves) and "
        f"{sizes['num_test_clips']} test clips by signers never seen in training (the table), {sizes['num_signs']} "
        f"signs; stage 1 has {sizes['stage1_steps']} optimiser steps, stage 2 has {sizes['stage2_steps']}, each of "
        f"{BATCH_SIZE} clips. Seeds {', '.join(map(str, seeds))}; each has a corpus and a language model of its own. "
        f"Run on {report['machine']}:",
        "",
        f"    python benchmarks/factorised_against_joint.py {command}",
        "",
        *_format_table(report),
        "",
        "Mean over the seeds (lowest to highest). The last column is the difference to factorised learning on the same "
        "seed.",
        "",
        f"BLEU-4: `{report['results'][0]['test']['signature']}`.",
        "",
        f"![BLEU-4 on the dev split over the optimiser steps]({curves})",
    ]
    return "\n".join(lines)


def _format_table(report: Mapping[str, Any]) -> list[str]:
    titles = ["training", "word-presence loss", "optimiser steps", "seeds", *(TITLE_OF_SCORE[name] for name in SCORES)]
    titles.append("BLEU-4 against factorised")
    rows = [_format_row(name, report) for name in ARMS if _tests_by_seed(name, report)]
    return [f"| {' | '.join(cells)} |" for cells in [titles, ["---"] * len(titles), *rows]]


def _format_row(name: str, report: Mapping[str, Any]) -> list[str]:
    arm, tests = ARMS[name], _tests_by_seed(name, report)
    arguments = BenchmarkArguments(**report["sizes"])
    steps = arm.steps_before(arguments) + arm.own_steps(arguments)
    cells = [arm.title, "yes" if arm.uses_word_presence else "no", str(steps), str(len(tests))]
    cells += [_format_spread([test[score] for test in tests.values()]) for score in SCORES]
    return [*cells, _format_difference(tests, _tests_by_seed("factorised", report))]


def _tests_by_seed(name: str, report: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    return {result["seed"]: result["test"] for result in report["results"] if result["arm"] == name}


def _format_spread(values: Sequence[float], sign: str = "") -> str:
    mean, lowest, highest = statistics.mean(values), min(values), max(values)
    return f"{mean:{sign}.1f} ({lowest:{sign}.1f} to {highest:{sign}.1f})"


def _format_difference(tests: Mapping[int, Mapping], factorised: Mapping[int, Mapping]) -> str:
    differences = [tests[seed]["bleu4"] - factorised[seed]["bleu4"] for seed in tests if seed in factorised]
    return _format_spread(differences, sign="+") if differences and tests != factorised else ""


def draw_dev_curves(report: Mapping[str, Any], path: Path) -> None:
    """Mean over the seeds as a line, lowest to highest as a band; arms that start from stage 1 begin where it ends."""
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for name, arm in ARMS.items():
        curves = [dict(result["dev_curve"]) for result in report["results"] if result["arm"] == name]
        if not curves:
            continue
        steps = sorted(set.intersection(*map(set, curves)))
        scores = [[curve[step] for curve in curves] for step in steps]
        label = arm.title.replace("**", "") + ("" if arm.uses_word_presence else ", no word-presence loss")
        (line,) = axes.plot(steps, [statistics.mean(values) for values in scores], marker="o", label=label)
        lowest, highest = [min(values) for values in scores], [max(values) for values in scores]
        axes.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.15)
    axes.set(xlabel="optimiser steps", ylabel="BLEU-4, dev split", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse_arguments((BenchmarkArguments,), argv, description="Factorised against joint learning.")
    if not arguments.report_only:
        keep_sizes(arguments)
        for seed in arguments.seeds:
            SeedRun(arguments, seed).run()
    write_report(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
