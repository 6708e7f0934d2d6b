"""Two processes that share a model and the optimizer's state, by FSDP2 or DeepSpeed, train what one process trains."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_distributed_training import GLOBAL_BATCH_SIZE, STAGE_1, VALUES, logged
from tiny_corpus import contrastive_flags, error_of, stage1_flags, stage2_flags, tuning_flags
from two_processes import sharded_command_in_two_processes

from train_scripts.arguments import sharding_flags
from train_scripts.arguments.sharding_flags import complete_sharding
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.runs.resuming import check_checkpoint
from train_scripts.stages import (
    llm_fine_tuning,
    visual_contrastive_pretraining,
    visual_initialing,
    visual_language_tuning,
)

pytestmark = pytest.mark.slow

STAGES = {
    "train visual-initialing": (visual_initialing.train, stage1_flags),
    "train llm-fine-tuning": (llm_fine_tuning.train, stage2_flags),
    "train visual-contrastive-pretraining": (visual_contrastive_pretraining.train, contrastive_flags),
    "train visual-language-tuning": (visual_language_tuning.train, tuning_flags),
}
FSDP = {"fsdp": True, "use_cpu": False}
# Evaluated and saved in each epoch of three steps; ends with the best, the same one for one process and for two, which
# evaluate the same two batches.
SAVED = {
    **VALUES,
    "num_train_epochs": 2,
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "max_evaluation_clips": 4,
    "save_total_limit": 9,
}
# The same for stages that have no word-presence loss.
OF_OTHERS = {
    name: value
    for name, value in SAVED.items()
    if name not in ("adapter_learning_rate", "word_presence_loss_weight", "label_smoothing", "generation_num_beams")
}


def zero(stage: int) -> dict[str, Any]:
    config = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True},
        "zero_force_ds_cpu_optimizer": False,
    }
    return {"deepspeed": json.dumps(config), "use_cpu": False}


needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
WAYS = [
    pytest.param(FSDP, id="FSDP2"),
    pytest.param(zero(2), id="ZeRO-2", marks=needs_deepspeed),
    pytest.param(zero(3), id="ZeRO-3", marks=needs_deepspeed),
]


def train_both(command: str, way: dict[str, Any], values: dict[str, Any], folder: Path) -> None:
    """In one process, into `one`, and in two that share the model, into `two`."""
    train, make_flags = STAGES[command]
    train(make_flags(folder / "one", **values, per_device_train_batch_size=GLOBAL_BATCH_SIZE))
    sharded = make_flags(folder / "two", **{**values, **way}, per_device_train_batch_size=GLOBAL_BATCH_SIZE // 2)
    sharded_command_in_two_processes(command, sharded)


def assert_same_losses(folder: Path) -> None:
    """Sums in another order differ by rounding, which BatchNorm amplifies from step to step."""
    (losses, evaluations), (others, other_evaluations) = logged(folder / "one"), logged(folder / "two")
    assert len(losses) == 6
    assert others[:2] == pytest.approx(losses[:2], rel=1e-4) and others[2:5] == pytest.approx(losses[2:5], rel=1e-3)
    assert len(evaluations) == len(other_evaluations) and other_evaluations[:1] == evaluations[:1]


def assert_same_files(folder: Path) -> None:
    """The folders load in the same way, with the same code."""
    names, others = ({path.name for path in (folder / name).iterdir()} for name in ("one", "two"))
    assert names == others
    configs = [json.loads((folder / name / "config.json").read_text(encoding="utf-8")) for name in ("one", "two")]
    assert configs[0] == configs[1]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("command", "values"),
    [
        pytest.param("train visual-initialing", {**SAVED, **STAGE_1}, id="stage 1"),
        pytest.param("train llm-fine-tuning", SAVED, id="stage 2"),
        pytest.param("train llm-fine-tuning", {**SAVED, "lora": True, "lora_dropout": 0}, id="stage 2 with LoRA"),
        pytest.param(
            "train visual-language-tuning", {**OF_OTHERS, "lora": True, "lora_dropout": 0}, id="tuning with LoRA"
        ),
        pytest.param(
            "train visual-contrastive-pretraining",
            # Its loss goes up and down: two ways might take another epoch for the best.
            {**OF_OTHERS, "optim": "sgd", "learning_rate": 0.002, "load_best_model_at_end": False},
            id="contrastive",
        ),
    ],
)
def test_two_processes_that_share_a_model_train_as_one(command, values, way, tmp_path):
    train_both(command, way, values, tmp_path)
    assert_same_losses(tmp_path)
    assert_same_files(tmp_path)
    weights, others = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert others[name].shape == weight.shape and others[name].dtype == weight.dtype, name
        torch.testing.assert_close(others[name], weight, rtol=0.1, atol=0.02, msg=name)
    # From the checkpoint of the first epoch, the run ends in the same weights.
    shutil.copytree(tmp_path / "two" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    if values.get("lora"):
        shutil.copytree(tmp_path / "two" / "lora_base", tmp_path / "resumed" / "lora_base")
    _, make_flags = STAGES[command]
    again = {**values, **way, "resume_from_checkpoint": "last", "eval_on_start": False}
    arguments = make_flags(tmp_path / "resumed", **again, per_device_train_batch_size=GLOBAL_BATCH_SIZE // 2)
    sharded_command_in_two_processes(command, arguments)
    resumed = weights_of(tmp_path / "resumed")
    assert all(torch.equal(resumed[name], weight) for name, weight in others.items())


# ------------------------------------------------------------------------------------------ what is refused


NEEDS_GPUS = "needs GPUs: on CPUs nothing would be sharded. Leave it out and train with torchrun alone."


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"fsdp": True}, f"--fsdp {NEEDS_GPUS}"),
        ({"deepspeed": "zero.json"}, f"--deepspeed {NEEDS_GPUS}"),
        (
            {"fsdp": False, "fsdp_config": "{}"},
            "--fsdp_config has no effect without --fsdp True. Add it, or leave both out.",
        ),
        (
            {"fsdp": True, "deepspeed": "zero.json"},
            "FSDP and DeepSpeed both shard the parameters. Leave out --fsdp or --deepspeed.",
        ),
    ],
)
def test_nothing_is_sharded_in_silence(values, expected, tmp_path, capsys):
    assert error_of(visual_initialing.main, stage1_flags(tmp_path / "run", **values), capsys) == expected


@pytest.mark.parametrize(
    ("variable", "name"),
    [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DEEPSPEED")],
)
def test_what_accelerate_launch_asks_for_is_refused_without_gpus(variable, name, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, "true")
    expected = f"ACCELERATE_USE_{name}, which `accelerate launch` has set, {NEEDS_GPUS}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        FLaLLMTrainingArguments(output_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "--fsdp is for several processes: start the command with torchrun or `accelerate launch`."),
        (
            {"auto_find_batch_size": True},
            "--auto_find_batch_size starts again with whole parameters, which --fsdp has split.",
        ),
        (
            {"optim": "adafactor"},
            "--optim adafactor needs whole parameters, which --fsdp has split. Use --optim adamw_torch.",
        ),
        (
            {"torch_compile": True},
            "--torch_compile needs parameters that stay in one place, which --fsdp gathers and frees.",
        ),
    ],
)
def test_flags_that_sharding_excludes(values, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding_flags, "can_shard", lambda device: True)
    if values:
        monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match=re.escape(expected)):
        FLaLLMTrainingArguments(output_dir=str(tmp_path), fsdp=True, **values)


@pytest.mark.parametrize(
    ("is_installed", "values", "expected"),
    [
        (True, {"bf16": True}, "--bf16 cannot be combined with DeepSpeed: it would halve all weights, also those of "
         "BatchNorm, "),
        (False, {}, "--deepspeed needs the package deepspeed: pip install 'flallm[deepspeed]'."),
    ],
)  # fmt: skip
def test_what_deepspeed_needs(is_installed, values, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding_flags, "can_shard", lambda device: True)
    monkeypatch.setattr(sharding_flags.importlib.util, "find_spec", lambda name: name if is_installed else None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match=re.escape(expected)):
        FLaLLMTrainingArguments(output_dir=str(tmp_path), deepspeed="zero.json", **values)


WHOLE = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"fsdp_version": 1}, "FSDP's version must be 2, got 1: "),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "FSDP's `state_dict_type` must be FULL_STATE_DICT, "),
        ({"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 10}, "FSDP's `auto_wrap_policy` must be "),
        ({"cpu_ram_efficient_loading": True}, "FSDP's `cpu_ram_efficient_loading` must be false: "),
    ],
)
def test_settings_of_fsdp_that_do_not_work(values, expected, monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # accelerate sets it
    complete_sharding(SimpleNamespace(fsdp=True, deepspeed=None, fsdp_plugin_args=WHOLE))
    training = SimpleNamespace(fsdp=True, deepspeed=None, fsdp_plugin_args={**WHOLE, **values})
    with pytest.raises(ValueError, match=re.escape(expected)):
        complete_sharding(training)


@pytest.mark.parametrize(
    ("config", "frames_per_chunk", "expected"),
    [
        ({"zero_optimization": {"stage": 1}}, None, "DeepSpeed's `stage` must be 2 or 3, got 1: "),
        (
            {"zero_optimization": {"stage": 2}, "optimizer": {}},
            None,
            "DeepSpeed's `optimizer` must be left out: --optim ",
        ),
        (
            {"zero_optimization": {"stage": 2}, "scheduler": {}},
            None,
            "DeepSpeed's `scheduler` must be left out: --lr_scheduler_type ",
        ),
        (
            {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}},
            None,
            "DeepSpeed's `bf16` cannot be enabled: ",
        ),
        ({"zero_optimization": {"stage": 3}}, None, "DeepSpeed's `stage3_gather_16bit_weights_on_model_save` "),
        (
            {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}},
            8,
            "--frames_per_chunk cannot be combined with ZeRO-3: ",
        ),
    ],
)
def test_settings_of_deepspeed_that_do_not_work(config, frames_per_chunk, expected):
    plugin = SimpleNamespace(deepspeed_config=config)
    training = SimpleNamespace(
        fsdp=None, deepspeed="zero.json", deepspeed_plugin=plugin, frames_per_chunk=frames_per_chunk
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        complete_sharding(training)


# ------------------------------------------------------------------------------------------ checkpoints of DeepSpeed


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """With the files that a run of two processes leaves, and next to nothing in them."""
    folder = tmp_path / "checkpoint-3"
    (folder / "global_step3").mkdir(parents=True)
    (folder / "latest").write_text("global_step3", encoding="utf-8")
    (folder / "trainer_state.json").write_text('{"global_step": 3}', encoding="utf-8")
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    parts = [f"global_step3/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(2)]
    for name in ("scheduler.pt", "rng_state_0.pth", "rng_state_1.pth", *parts):
        torch.save({}, folder / name)
    return folder


def test_whole_checkpoints_of_deepspeed_are_accepted(checkpoint):
    check_checkpoint(checkpoint, 2, of_deepspeed=True)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("latest", "latest is missing: the checkpoint is from a run without DeepSpeed. "),
        (
            "global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
            "global_step3/zero_pp_rank_1_mp_rank_00_optim_states.pt is missing (the checkpoint is from a run "
            "with a different number of processes). ",
        ),
        ("scheduler.pt", "scheduler.pt is missing. "),
    ],
)
def test_checkpoints_of_deepspeed_without_a_file_are_refused(name, others, checkpoint):
    (checkpoint / name).unlink()
    with pytest.raises(ValueError, match=re.escape(f"{checkpoint}/{others}")):
        check_checkpoint(checkpoint, 2, of_deepspeed=True)


def test_damaged_checkpoints_of_deepspeed_are_refused(checkpoint):
    (checkpoint / "global_step3" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match="bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt is damaged "):
        check_checkpoint(checkpoint, 2, of_deepspeed=True)


def test_checkpoints_of_deepspeed_are_refused_without_it(checkpoint):
    expected = f"{checkpoint / 'optimizer.pt'} is missing (the checkpoint is from a run with DeepSpeed). "
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_checkpoint(checkpoint, 2)
