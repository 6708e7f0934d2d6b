"""
LLaVA-SLT with and without what its stages learned, on finished quickstarts of several seeds.

    flallm quickstart llava-slt --seed 0 --output_dir run_0  # and 1 and 2
    python benchmarks/llava_slt_ablation.py --quickstarts run_0 run_1 run_2 --output_dir outputs/llava_slt_ablation

Each arm repeats the quickstart's stage 3 on the same corpus with the same settings, but with one part replaced: by
random weights, as before the part's stage, or by a language model that stage 1 trained on packed sentences alone,
without our denoising examples. The other parts are those of the finished stages. The table of
docs/llava-slt-ablation.md and its figures (.json) are written at the end; `--report_only True` writes them again from
existing results.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark_parts import DOCS, RESULTS_FILE, write_json, write_report
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from modeling_flallm import LlavaSltContrastiveConfig, LlavaSltForContrastivePreTraining
from train_scripts.arguments.command_line import run_command
from train_scripts.arguments.dataclass_parser import flags, parse_arguments
from train_scripts.commands.quickstart import CORPUS, TimeLeft, test_model
from train_scripts.commands.quickstart_llava_slt import Folders, LlavaSltQuickstartArguments, train_stage3
from train_scripts.stages import linguistic_pretraining

PAGE = DOCS / "llava-slt-ablation.md"
TABLE_START = "<!-- written by benchmarks/llava_slt_ablation.py -->"


def save_random_language_model(whole: Folders, arm: Folders, seed: int) -> None:
    set_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(whole.stage1)).save_pretrained(arm.stage1)
    AutoTokenizer.from_pretrained(whole.stage1).save_pretrained(arm.stage1)


def save_random_visual_encoder(whole: Folders, arm: Folders, seed: int) -> None:
    set_seed(seed)
    config = LlavaSltContrastiveConfig.from_pretrained(whole.stage2)
    LlavaSltForContrastivePreTraining(config).save_pretrained(arm.stage2)


def pretrain_on_packed_sentences(whole: Folders, arm: Folders, seed: int) -> None:
    """For as many optimiser steps as with the denoising examples."""
    state = json.loads((whole.stage1 / "trainer_state.json").read_text(encoding="utf-8"))
    linguistic_pretraining.train(
        flags(
            config="quickstart_llava_slt_linguistic_pretraining",
            text_file=whole.corpus / "text_only.txt",
            spoken_language=CORPUS["spoken_language"],
            denoising=False,
            max_steps=state["global_step"],
            seed=seed,
            output_dir=arm.stage1,
        )
    )


# The part that is replaced for an arm, and how.
ARMS: dict[str, tuple[str, Callable[[Folders, Folders, int], None]]] = {
    "without stage 1: a random language model": ("stage1", save_random_language_model),
    "stage 1 from packed sentences alone, without denoising": ("stage1", pretrain_on_packed_sentences),
    "without stage 2: a random visual encoder": ("stage2", save_random_visual_encoder),
}
WHOLE = "all three stages"


@dataclass
class AblationArguments:
    """Which quickstarts, and where the results go."""

    quickstarts: list[str] = field(default_factory=list, metadata={"help": "Output folders of finished quickstarts."})
    output_dir: str = field(default="outputs/llava_slt_ablation", metadata={"help": "Folder of models and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Train nothing, report what there is."})
    stage3_epochs: float = field(
        default=LlavaSltQuickstartArguments.stage3_epochs, metadata={"help": "As in the quickstarts."}
    )

    def __post_init__(self):
        unfinished = [name for name in self.quickstarts if not (Folders(Path(name)).test / "scores.json").is_file()]
        if unfinished:
            raise ValueError(f"--quickstarts: {unfinished[0]} is not the output folder of a finished quickstart.")
        if not (self.quickstarts or self.report_only):
            raise ValueError("--quickstarts must name output folders of finished quickstarts.")


def run_arm(name: str, whole: Folders, output: Path, stage3_epochs: float) -> dict[str, Any]:
    """Scores on the test clips, and the models trained for the arm in `output`."""
    part, make = ARMS[name]
    seed = json.loads((whole.model / "training_arguments.json").read_text(encoding="utf-8"))["seed"]
    arm = Folders(output)
    arm.corpus, arm.stage1, arm.stage2 = whole.corpus, whole.stage1, whole.stage2
    setattr(arm, part, output / part)
    if part != "stage2":
        arm.features = whole.features  # of the same encoder
    if not (output / part).is_dir():
        make(whole, arm, seed)
    arguments = LlavaSltQuickstartArguments(output_dir=str(output), seed=seed, stage3_epochs=stage3_epochs)
    train_stage3(arguments, arm, TimeLeft({"stage 3": 1}))
    scores, _ = test_model(arm.model, arm, arm.test)
    return scores


def run_quickstart(folder: Path, arguments: AblationArguments, results: dict[str, dict[str, Any]]) -> None:
    """Add the scores of all arms that have none yet."""
    whole = Folders(folder)
    results.setdefault(WHOLE, {})[folder.name] = json.loads((whole.test / "scores.json").read_text(encoding="utf-8"))
    for number, name in enumerate(ARMS, 1):
        of_arm = results.setdefault(name, {})
        if folder.name not in of_arm:
            print(f"\n=== {folder.name}: {name}", flush=True)
            output = Path(arguments.output_dir) / folder.name / f"arm{number}"
            of_arm[folder.name] = run_arm(name, whole, output, arguments.stage3_epochs)
            write_json(Path(arguments.output_dir) / RESULTS_FILE, results)


def format_report(results: Mapping[str, Mapping[str, Any]]) -> str:
    runs = list(results[WHOLE])
    lines = [
        f"BLEU-4 on {results[WHOLE][runs[0]]['num_segments']} test clips, signers never seen in training.",
        "",
        f"| what was trained | {' | '.join(runs)} | mean |",
        f"| --- {'| --- ' * len(runs)}| --- |",
    ]
    for name in (WHOLE, *ARMS):
        scores = [results.get(name, {}).get(run, {}).get("bleu4") for run in runs]
        known = [score for score in scores if score is not None]
        mean = f"{statistics.mean(known):.1f}" if known else ""
        cells = ["" if score is None else f"{score:.1f}" for score in scores]
        lines.append(f"| {name} | {' | '.join(cells)} | {mean} |")
    return "\n".join([*lines, "", f"BLEU-4: `{results[WHOLE][runs[0]]['signatures']['bleu4']}`."])


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse_arguments((AblationArguments,), argv, description="LLaVA-SLT without parts of its stages.")
    output = Path(arguments.output_dir)
    if not arguments.report_only:
        output.mkdir(parents=True, exist_ok=True)
        file = output / RESULTS_FILE
        results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for name in arguments.quickstarts:
            run_quickstart(Path(name), arguments, results)
        write_json(file, results)
    write_report(output, Path(arguments.report), TABLE_START, format_report)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
