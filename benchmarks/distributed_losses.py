"""
Whether several processes, and several machines, train what one process trains: the losses of the first steps, side by
side.

    python benchmarks/distributed_losses.py

Both stages of the quickstart of FLa-LLM run for some steps with the same clips in a step, however many processes share
them. "Two machines" are two launchers (torchrun) on this one, which find each other by a rendezvous on the loopback
device. FSDP2 and DeepSpeed split the model over two processes; without DeepSpeed, its ways are left out. Everything is
on CPUs, in float32, with gloo. The table of docs/scale.md and its figures (.json) are written at the end;
`--report_only True` writes them again from existing results.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmark_parts import DOCS, check_counts, command_line, processor_name, run_benchmark
from seeded_parts import heading

from train_scripts.arguments.dataclass_parser import flags
from train_scripts.arguments.quickstart_arguments import QuickstartArguments
from train_scripts.commands.quickstart import CORPUS, WORK, Folders, make_corpus, pretrain, run_steps

PAGE = DOCS / "scale.md"
TABLE_START = "<!-- written by benchmarks/distributed_losses.py -->"
CLIPS_OF_A_STEP = 12
FIRST_STEPS = 5
SECONDS_OF_A_RUN = 900
SHARDING_ON_CPUS = Path(__file__).resolve().parent / "sharding_on_cpus.py"


def settings_of_zero(stage: int) -> str:
    """For `--deepspeed`."""
    settings = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True},
    }
    return json.dumps(settings)


@dataclass(frozen=True)
class Way:
    """So many machines, and processes on each, with the flags that split the model over them."""

    machines: int
    processes: int
    sharding: tuple[str, ...] = ()

    @property
    def num_processes(self) -> int:
        return self.machines * self.processes


WAYS = {
    "one process": Way(1, 1),
    "two processes": Way(1, 2),
    "three processes": Way(1, 3),
    "two machines with one process": Way(2, 1),
    "two machines with two processes": Way(2, 2),
    "two processes, FSDP2": Way(1, 2, ("--fsdp", "True")),
    "two processes, ZeRO-2": Way(1, 2, ("--deepspeed", settings_of_zero(2))),
    "two processes, ZeRO-3": Way(1, 2, ("--deepspeed", settings_of_zero(3))),
}
WITHOUT_DEEPSPEED = "DeepSpeed is not installed: its ways are left out."
ALONE = "one process"
STAGES = {"visual-initialing": "stage 1", "llm-fine-tuning": "stage 2"}


@dataclass
class BenchmarkArguments:
    """How much is trained."""

    output_dir: str = field(default="outputs/distributed_losses", metadata={"help": "Folder of all runs and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Train nothing, report what there is."})
    num_train_clips: int = field(default=96, metadata={"help": f"Training clips, a multiple of {CLIPS_OF_A_STEP}."})
    num_steps: int = field(default=20, metadata={"help": "Steps of each run."})
    seed: int = field(default=0, metadata={"help": "Of corpus, weights and augmentation."})

    def __post_init__(self):
        check_counts(self, "num_train_clips", "num_steps")
        if self.num_train_clips % CLIPS_OF_A_STEP:
            raise ValueError(
                f"--num_train_clips must be a multiple of {CLIPS_OF_A_STEP}, the clips of a step, got "
                f"{self.num_train_clips}."
            )


def possible_ways() -> dict[str, Way]:
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    return {name: way for name, way in WAYS.items() if has_deepspeed or "--deepspeed" not in way.sharding}


def losses_of(stage: str, name: str, arguments: BenchmarkArguments, folders: Folders) -> list[float]:
    """Train a stage in a way -> the loss of each step"""
    way = WAYS[name]
    output = _folder_of(stage, name, folders)
    shutil.rmtree(output, ignore_errors=True)
    argv = flags(
        config=f"quickstart_{stage.replace('-', '_')}",
        dataset=folders.corpus,
        **_parts_of(stage, folders),
        per_device_train_batch_size=CLIPS_OF_A_STEP // way.num_processes,
        max_steps=arguments.num_steps,
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        bf16=False,
        num_threads=1,
        disable_tqdm=True,
        seed=arguments.seed,
        output_dir=output,
        **CORPUS,
    )
    start = [str(SHARDING_ON_CPUS)] if way.sharding else ["-m", "train_scripts"]
    _run(way, [*start, "train", stage, *argv, *way.sharding])
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    return [row["loss"] for row in state["log_history"] if "loss" in row]


def _folder_of(stage: str, name: str, folders: Folders) -> Path:
    return folders.output / f"{stage} {name}".replace(",", "").replace(" ", "_")


def _parts_of(stage: str, folders: Folders) -> dict[str, Path]:
    if stage == "visual-initialing":
        return {"tokenizer_name_or_path": folders.language_model}
    encoder = _folder_of("visual-initialing", ALONE, folders)
    return {"vision_model_name_or_path": encoder, "text_model_name_or_path": folders.language_model}


def _run(way: Way, command: Sequence[str]) -> None:
    """
    Raises:
        RuntimeError: if one of the machines fails; it holds the end of what it printed.
    """
    repository = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([repository, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    launcher = [] if way.num_processes == 1 else ["-m", "torch.distributed.run", *_rendezvous(way)]
    machines = [
        subprocess.Popen(
            [sys.executable, *launcher, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(way.machines)
    ]
    outputs = [machine.communicate(timeout=SECONDS_OF_A_RUN)[0] for machine in machines]
    for machine, output in zip(machines, outputs, strict=True):
        if machine.returncode != 0:
            raise RuntimeError(f"A training failed with exit status {machine.returncode}:\n{output[-3000:]}")


def _rendezvous(way: Way) -> list[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    values = {
        "nnodes": way.machines,
        "nproc_per_node": way.processes,
        "rdzv_backend": "c10d",
        "rdzv_endpoint": f"127.0.0.1:{port}",
        "rdzv_id": "flallm",
    }
    return [f"--{name}={value}" for name, value in values.items()]


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    folders = Folders(Path(arguments.output_dir) / "run")
    shutil.rmtree(folders.output, ignore_errors=True)
    sizes = {"num_train_clips": arguments.num_train_clips, "num_dev_clips": 20, "num_test_clips": 1}
    of_quickstart = QuickstartArguments(
        output_dir=str(folders.output), seed=arguments.seed, num_text_only_sentences=500, **sizes
    )
    run_steps({"corpus": make_corpus, "language model": pretrain}, of_quickstart, folders, WORK)
    losses = {}
    for stage in STAGES:
        for name in possible_ways():
            print(f"=== {stage}: {name}", flush=True)
            losses.setdefault(stage, {})[name] = losses_of(stage, name, arguments, folders)
    values = {name: getattr(arguments, name) for name in ("num_train_clips", "num_steps", "seed")}
    return {"machine": f"{processor_name()}, torch {torch.__version__}", "arguments": values, "losses": losses}


def largest_difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """Relative to the loss of one process."""
    return max(abs(loss - other) / abs(other) for loss, other in zip(losses, expected, strict=True))


def format_report(report: Mapping[str, Any]) -> str:
    lines = [f"On {report['machine']}:", "", f"    {command_line('distributed_losses.py', report['arguments'])}", ""]
    num_steps = report["arguments"]["num_steps"]
    first = f"largest difference in steps 1 to {FIRST_STEPS}"
    lines += heading("stage", "how", "loss of step 1", f"loss of step {num_steps}", first, "in all steps")
    for stage, of_stage in report["losses"].items():
        expected = of_stage[ALONE]
        for name, losses in of_stage.items():
            cells = [STAGES[stage], name, f"{losses[0]:.4f}", f"{losses[-1]:.4f}"]
            differences = [largest_difference(losses[:end], expected[:end]) for end in (FIRST_STEPS, num_steps)]
            cells += ["", ""] if name == ALONE else [f"{difference:.1e}" for difference in differences]
            lines.append(f"| {' | '.join(cells)} |")
    if any(of_stage.keys() != WAYS.keys() for of_stage in report["losses"].values()):
        lines += ["", WITHOUT_DEEPSPEED]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
