"""
Peak memory of a training step and of an evaluation batch of the `paper` presets, by flag.

    python benchmarks/peak_memory.py --output_dir outputs/peak_memory

GPU figures are computed, not measured: the step runs with the real model classes at their real sizes on tensors
without content (torch's FakeTensorMode), and every storage is counted from allocation to release. If there is a GPU,
the same steps also run there, for `torch.cuda.max_memory_allocated` beside the computed figures. CPU figures are
measured: the growth of the peak resident memory over one step in a fresh process, beside the computed figure. The
tables of docs/memory.md and its figures (.json) are written at the end; `--report_only True` writes them again.
"""

import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_to_fp32
from benchmark_parts import DOCS, measure_and_report, processor_name
from peft import get_peft_model
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import DynamicCache, EncoderDecoderCache, MBartConfig, Trainer

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation
from train_scripts.arguments.command_line import run_command
from train_scripts.arguments.data_arguments import FeatureCacheArguments
from train_scripts.arguments.dataclass_parser import parse_arguments
from train_scripts.arguments.stage_arguments import LLMFineTuningArguments, VisualInitialingArguments
from train_scripts.arguments.training_arguments import TRAINING_ARGUMENTS, FLaLLMTrainingArguments
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.stages.visual_initialing import build_light_transformer_config

PAGE = DOCS / "memory.md"
TABLE_START = "<!-- written by benchmarks/peak_memory.py -->"
GIGABYTE = 1e9
GRANULE_IN_BYTES = 512  # torch's CUDA allocator hands out multiples of it
LARGEST_KNOWN = 1 << 20  # numbers; masks and indices are smaller, activations are not integers
# The trimmed vocabulary of a large corpus: PHOENIX14T alone needs some 2,500.
VOCABULARY_SIZE = 24_000
COMMANDS = {
    "visual_initialing": (VisualInitialingArguments, "flallm train visual-initialing", "--tokenizer_name_or_path x"),
    "llm_fine_tuning": (
        LLMFineTuningArguments,
        "flallm train llm-fine-tuning",
        "--vision_model_name_or_path x --text_model_name_or_path x",
    ),
}
STAGE1, STAGE2 = COMMANDS
CHUNKED = "--bf16 True --frames_per_chunk 32"
SMALL_EVALUATION = "--per_device_eval_batch_size 2"
FLAGS = (
    (STAGE1, ""),
    (STAGE1, "--bf16 True"),
    (STAGE1, "--bf16 True --gradient_checkpointing True"),
    (STAGE1, "--bf16 True --per_device_train_batch_size 2 --gradient_accumulation_steps 4"),
    (STAGE1, f"--bf16 True --max_frames_per_batch 240 {SMALL_EVALUATION}"),
    (STAGE1, f"{CHUNKED} {SMALL_EVALUATION}"),
    (STAGE2, ""),
    (STAGE2, "--bf16 True --optim adamw_torch_fused"),
    (STAGE2, f"{CHUNKED} --optim adafactor {SMALL_EVALUATION}"),
    (STAGE2, f"{CHUNKED} --optim adafactor --gradient_checkpointing True {SMALL_EVALUATION}"),
    (STAGE2, f"--bf16 True --cache_features True --optim adafactor {SMALL_EVALUATION}"),
    (STAGE2, f"{CHUNKED} --lora True --gradient_checkpointing True {SMALL_EVALUATION}"),
    (STAGE2, f"--bf16 True --cache_features True --lora True --gradient_checkpointing True {SMALL_EVALUATION}"),
)
ON_CPU = (
    (STAGE1, "--bf16 True"),
    (STAGE1, CHUNKED),
    (STAGE2, "--bf16 True --cache_features True --lora True"),
)


@dataclass
class BenchmarkArguments:
    """What is computed and measured."""

    output_dir: str = field(default="outputs/peak_memory", metadata={"help": "Folder of the results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    measure_on_cpu: bool = field(default=True, metadata={"help": "Also run real steps on the CPU: needs 8 GB."})
    measure_row: int | None = field(
        default=None, metadata={"help": "Only this of the rows on the CPU, in this process; prints its figures."}
    )


@dataclass(frozen=True)
class Workload:
    """From PHOENIX14T, where a clip has 29 frames on average after sampling, and at most 119."""

    name: str
    frames_per_clip: int
    words_per_sentence: int


USUAL = Workload("usual", 29, 20)
LARGEST = Workload("largest", 119, 60)


@dataclass(frozen=True)
class Recipe:
    """A preset with extra flags, as the command reads it."""

    stage: str
    model: Any
    training: FLaLLMTrainingArguments
    features: FeatureCacheArguments
    crop_size: int

    def num_clips(self, workload: Workload) -> int:
        budget = self.training.max_frames_per_batch
        clips = self.training.per_device_train_batch_size
        return clips if budget is None else max(budget // workload.frames_per_clip, 1)


def read_recipe(stage: str, flags: str) -> Recipe:
    own, _, required = COMMANDS[stage]
    types = (own, *TRAINING_ARGUMENTS, FeatureCacheArguments)
    usual = "--dataset x --output_dir x --report_to none --bf16 False"  # whatever this machine supports
    argv = f"--config paper_{stage} {usual} {required} {flags}".split()
    model, _, video, _, training, features = parse_arguments(types, argv, description="A recipe.")
    return Recipe(stage, model, training, features, video.crop_size)


def build_model(recipe: Recipe, vocabulary_size: int = VOCABULARY_SIZE) -> torch.nn.Module:
    """A model with random weights; stage 2 has an mBART-large with a trimmed vocabulary."""
    first = recipe.model if recipe.stage == STAGE1 else read_recipe(STAGE1, "").model
    if recipe.stage == STAGE1:
        tokenizer = train_tokenizer(["a"], 10)
        tokenizer.add_tokens([f"w{number}" for number in range(vocabulary_size - len(tokenizer))])
        text_config = build_light_transformer_config(first, tokenizer)
    else:
        text_config = MBartConfig(vocab_size=vocabulary_size)
    text_config.decoder_start_token_id = text_config.eos_token_id
    config = FLaLLMConfig(
        vision_config=first.frame_encoder_config(temporal_padding=first.temporal_padding),
        text_config=text_config,
        adapter_hidden_size=recipe.model.adapter_hidden_size,
        label_smoothing=recipe.model.label_smoothing,
    )
    model = FLaLLMForTranslation(config)
    if recipe.stage == STAGE2:
        model.freeze_visual_encoder()
        if recipe.model.lora:
            model = get_peft_model(model, recipe.model.lora_config(**model.get_lora_settings()))
    return model


def with_fake_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Inside FakeTensorMode: turn weights and buffers on the meta device into fake ones on the CPU."""
    made: dict[int, torch.Tensor] = {}  # shared weights stay shared
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is not None and id(value) not in made:
                    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
                    is_weight = isinstance(value, torch.nn.Parameter)
                    made[id(value)] = torch.nn.Parameter(fake, value.requires_grad) if is_weight else fake
                if value is not None:
                    held[name] = made[id(value)]
    return model


def _known(value: torch.Tensor) -> torch.Tensor | None:
    return getattr(value, "known", None) if isinstance(value, FakeTensor) else value


class KnownIntegers(TorchDispatchMode):
    """
    Inside FakeTensorMode: masks, lengths and indices keep their content, because shapes depend on it.

    Each fake tensor of integers carries a real one, `known`, through the same operations.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        all_known = all(_known(each) is not None for each in inputs)
        if all_known and func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default):
            return _run_real(lambda: _known(args[0]).item())
        if func is torch.ops.aten.nonzero.default and all_known:
            return self._with_known(torch.empty, _run_real(lambda: func(_known(args[0]))))
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [index for each in args[1] for index in self._as_positions(each)])
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        small_integers = all(not each.is_floating_point() and each.numel() < LARGEST_KNOWN for each in made)
        if made and all_known and small_integers:
            self._run_beside(func, args, kwargs, made)
        return out

    def _as_positions(self, index: torch.Tensor | None) -> list[torch.Tensor | None]:
        if index is None or index.dtype != torch.bool:
            return [index]
        positions = _run_real(lambda: _known(index).nonzero().unbind(1))
        return [self._with_known(torch.empty, each) for each in positions]

    @staticmethod
    def _with_known(make: Callable, real: torch.Tensor) -> torch.Tensor:
        fake = make(real.shape, dtype=real.dtype)
        fake.known = real
        return fake

    @staticmethod
    def _run_beside(func: Any, args: tuple, kwargs: dict, made: Sequence[torch.Tensor]) -> None:
        real_args, real_kwargs = tree_map_only(torch.Tensor, _known, (args, kwargs))
        real = _run_real(lambda: func(*real_args, **real_kwargs))
        for fake, twin in zip(
            made, [leaf for leaf in tree_leaves(real) if isinstance(leaf, torch.Tensor)], strict=True
        ):
            fake.known = twin


def _run_real(function: Callable[[], Any]) -> Any:
    with unset_fake_temporarily():
        return function()


class LiveMemory(TorchDispatchMode):
    """Bytes of all live storages that have been seen, and their peak."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.add(out)
        return out

    def add(self, tensors: Any) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor):
                self._add_storage(tensor.untyped_storage())

    def _add_storage(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._sizes:
            return
        self._sizes[key] = -(-storage.nbytes() // GRANULE_IN_BYTES) * GRANULE_IN_BYTES
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


@contextmanager
def layer_norm_as_on_gpus() -> Iterator[None]:
    """Autocast runs it in float32 on GPUs, in bfloat16 on CPUs: its results are half of the saved activations."""
    original = torch.nn.functional.layer_norm

    def in_float32(values: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return original(values.float(), *args, **kwargs)

    torch.nn.functional.layer_norm = in_float32
    try:
        yield
    finally:
        torch.nn.functional.layer_norm = original


class Run:
    """Training steps and evaluation batches of one recipe on a device, as the Trainer makes them."""

    def __init__(self, recipe: Recipe, model: torch.nn.Module, device: str):
        self.recipe = recipe
        self.device = device
        self.model = model
        self.base = model.get_base_model() if recipe.stage == STAGE2 and recipe.model.lora else model
        # One huge chunk means none; without the flag, a CPU would use chunks in evaluation, which a GPU does not.
        self.base.vision_model.frames_per_chunk = recipe.training.frames_per_chunk or 10**9
        if recipe.training.gradient_checkpointing:
            self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if self.base is not self.model:
                self.base.enable_input_require_grads()
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer_class, values = Trainer.get_optimizer_cls_and_kwargs(recipe.training, model)
        if optimizer_class in (torch.optim.AdamW, torch.optim.SGD) and not values.get("fused"):
            values["foreach"] = True  # torch's choice on GPUs
        self.optimizer = optimizer_class(self.trained, **values)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.recipe.training.bf16)

    def inputs(self, num_clips: int, workload: Workload) -> dict[str, torch.Tensor]:
        make = {"device": self.device}
        labels = torch.full((num_clips, workload.words_per_sentence), 5, **make)
        mask = torch.ones(num_clips, workload.frames_per_clip, dtype=torch.long, **make)
        if self.recipe.features.cache_features:
            width = self.base.config.vision_config.hidden_size
            features = torch.zeros(*mask.shape, width, dtype=torch.float16, **make)
            return {"visual_features": features, "visual_attention_mask": mask, "labels": labels}
        pixels = torch.zeros(*mask.shape, 3, self.recipe.crop_size, self.recipe.crop_size, **make)
        return {"pixel_values_videos": pixels, "pixel_attention_mask": mask, "labels": labels}

    def train(self, workload: Workload) -> None:
        """A step with the optimiser's memory already allocated by an earlier step."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        self._update()
        self.model.train()
        for _ in range(min(self.recipe.training.gradient_accumulation_steps, 2)):
            inputs = self.inputs(self.recipe.num_clips(workload), workload)
            with self.autocast():
                outputs = self.model(**inputs)
            outputs = convert_to_fp32(outputs)  # as accelerate does around the model
            outputs["loss"].backward()
            del outputs, inputs
        self._update()

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, workload: Workload) -> None:
        """Encoder, loss, and the last word of a beam search with full caches."""
        self.model.eval()
        inputs = self.inputs(self.recipe.training.per_device_eval_batch_size, workload)
        with self.autocast():
            if "pixel_values_videos" in inputs:
                pixels, mask = inputs.pop("pixel_values_videos"), inputs.pop("pixel_attention_mask")
                encoded = self.base.vision_model(pixels, mask)
                del pixels
                inputs["visual_features"], inputs["visual_attention_mask"] = encoded.values()
            convert_to_fp32(self.model(**inputs))
            self._generate_last_word(inputs)

    def _generate_last_word(self, inputs: Mapping[str, torch.Tensor]) -> None:
        num_beams = self.recipe.training.generation_num_beams or self.recipe.model.num_beams
        names = ("visual_features", "visual_attention_mask")
        encoded = self.base.encode(**{name: inputs[name] for name in names})
        states = encoded.last_hidden_state.repeat_interleave(num_beams, 0)
        mask = encoded.attention_mask.repeat_interleave(num_beams, 0)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        words = torch.full((len(states), self.recipe.training.generation_max_length), 5, device=self.device)
        decode = partial(
            self.base.text_model.get_decoder(),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
        for part in words[:, :-1].split(50, 1):  # a search goes word by word; this only fills the cache
            decode(input_ids=part)
        hidden = decode(input_ids=words[:, -1:]).last_hidden_state
        scores = self.base.text_model.get_output_embeddings()(hidden)[:, -1].float().log_softmax(-1)
        (scores + 1).view(-1, num_beams * scores.shape[-1]).topk(2 * num_beams)
        cache.reorder_cache(torch.arange(len(states), device=self.device))


def compute(
    stage: str, flags: str, workload: Workload, with_evaluation: bool, as_on_gpus: bool = True
) -> dict[str, float]:
    """-> gigabytes at the peak of a training step and, if requested, of an evaluation batch"""
    recipe = read_recipe(stage, flags)
    with torch.device("meta"):
        model = build_model(recipe)
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        run = Run(recipe, with_fake_weights(model), "cpu")
        if as_on_gpus and recipe.training.bf16:
            stack.enter_context(layer_norm_as_on_gpus())
        stack.enter_context(KnownIntegers())
        memory = stack.enter_context(LiveMemory())
        memory.add([*run.model.parameters(), *run.model.buffers()])
        run.train(workload)
        peaks = {"training": memory.peak / GIGABYTE}
        if with_evaluation:
            memory.peak = memory.live
            run.evaluate(workload)
            peaks["evaluation"] = memory.peak / GIGABYTE
    return peaks


def measure_on_gpu(stage: str, flags: str, workload: Workload, with_evaluation: bool) -> dict[str, float]:
    """Like `compute`, but measured by torch on a GPU."""
    recipe = read_recipe(stage, flags)
    run = Run(recipe, build_model(recipe).to("cuda"), "cuda")
    peaks = {}
    works = {"training": run.train, "evaluation": run.evaluate}
    for name, work in list(works.items())[: 1 + with_evaluation]:
        torch.cuda.reset_peak_memory_stats()
        work(workload)
        peaks[name] = torch.cuda.max_memory_allocated() / GIGABYTE
    del run
    torch.cuda.empty_cache()
    return peaks


def measure_on_cpu(number: int) -> dict[str, float]:
    """Growth of this process' peak resident memory by one real step, model included, and the computed figure."""
    stage, flags = ON_CPU[number]
    computed = compute(stage, flags, USUAL, with_evaluation=False, as_on_gpus=False)["training"]
    before = peak_resident_bytes()
    recipe = read_recipe(stage, flags)
    Run(recipe, build_model(recipe), "cpu").train(USUAL)
    return {"computed": computed, "measured": (peak_resident_bytes() - before) / GIGABYTE, "before": before / GIGABYTE}


def peak_resident_bytes() -> int:
    """Peak resident memory, as Linux counts it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measure_in_fresh_process(number: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure_row", str(number)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise ValueError(f"Measuring row {number} on the CPU failed:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    rows = []
    for stage, flags in FLAGS:
        row: dict[str, Any] = {"stage": stage, "flags": flags}
        for workload, with_evaluation in ((USUAL, False), (LARGEST, True)):
            row[workload.name] = compute(stage, flags, workload, with_evaluation)
            if torch.cuda.is_available():
                row[f"{workload.name}, measured"] = measure_on_gpu(stage, flags, workload, with_evaluation)
        rows.append(row)
        print(row, flush=True)
    report = {"machine": f"{processor_name()}, torch {torch.__version__}", "rows": rows, "on_cpu": []}
    if torch.cuda.is_available():
        report["gpu"] = torch.cuda.get_device_name()
    for number in range(len(ON_CPU)) if arguments.measure_on_cpu else ():
        stage, flags = ON_CPU[number]
        report["on_cpu"].append({"stage": stage, "flags": flags, **measure_in_fresh_process(number)})
        print(report["on_cpu"][-1], flush=True)
    return report


def format_row(row: Mapping[str, Any], with_gpu: bool) -> str:
    cells = [f"`{row['flags']}`" if row["flags"] else "none"]
    columns = [(USUAL.name, "training"), (LARGEST.name, "training"), (LARGEST.name, "evaluation")]
    for workload, work in columns:
        cell = f"{row[workload][work]:.1f}"
        cells.append(f"{cell} ({row[f'{workload}, measured'][work]:.1f})" if with_gpu else cell)
    peak = max(row[LARGEST.name].values())
    cells.append("**yes**" if peak <= 5 else "no")
    return f"| {' | '.join(cells)} |"


def format_report(report: Mapping[str, Any]) -> str:
    """Commands and tables in Markdown."""
    with_gpu = "gpu" in report
    how = f"computed, in brackets measured on {report['gpu']}" if with_gpu else "computed, not measured"
    lines = [f"On {report['machine']}:", "", "    python benchmarks/peak_memory.py", ""]
    for stage, (_, command, _) in COMMANDS.items():
        lines += [
            f"`{command} --config paper_{stage}`, gigabytes of a GPU's memory ({how}):",
            "",
            "| flags on top | training, usual batch | training, largest | evaluation, largest | fits 6 GB |",
            "| --- | --- | --- | --- | --- |",
            *(format_row(row, with_gpu) for row in report["rows"] if row["stage"] == stage),
            "",
        ]
    if report["on_cpu"]:
        lines += ["Main memory of a CPU, usual batch, a step with the optimiser's, each in a fresh process:", ""]
        lines += ["| command | measured | computed |", "| --- | --- | --- |"]
        for row in report["on_cpu"]:
            command = f"`{COMMANDS[row['stage']][1]} --config paper_{row['stage']} {row['flags']}`"
            lines.append(f"| {command} | {row['measured']:.1f} GB | {row['computed']:.1f} GB |")
    return "\n".join(lines).rstrip()


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse_arguments((BenchmarkArguments,), argv, description="Peak memory by flag.")
    if arguments.measure_row is not None:
        print(json.dumps(measure_on_cpu(arguments.measure_row)))
        return
    measure_and_report(arguments, measure, format_report, TABLE_START)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
