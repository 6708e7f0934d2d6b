"""Every flag that training commands inherit from the Trainer works, or is rejected with a reason before work begins."""

import dataclasses
import itertools
import json
import random
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_corpus import (
    RUN,
    WITHOUT_EVALUATION,
    build_stage2,
    contrastive_flags,
    corpus,
    error_of,
    flags,
    stage1_flags,
    stage2_flags,
    tuning_flags,
)
from transformers import Seq2SeqTrainingArguments

from train_scripts.arguments import training_flags
from train_scripts.arguments.data_arguments import AugmentationArguments, VideoArguments
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.arguments.training_flags import REFUSED, check_steps, num_idle_gpus
from train_scripts.runs import trainers, training
from train_scripts.stages import (
    linguistic_pretraining,
    llm_fine_tuning,
    pretrain_language_model,
    visual_contrastive_pretraining,
    visual_initialing,
    visual_language_tuning,
)

SHORT = {"max_train_clips": 4, "max_evaluation_clips": 2, "max_steps": 2, "per_device_train_batch_size": 2}
TEXT = {"hidden_size": 32, "feed_forward_size": 48, "layers": 1, "attention_heads": 2, "max_steps": 2}


def text_flags(output_dir: Path, **values: Any) -> list[str]:
    run = {name: RUN[name] for name in ("use_cpu", "bf16", "disable_tqdm", "report_to", "optim", "logging_steps")}
    return flags(**{"text_file": corpus() / "text_only.txt", "output_dir": output_dir, **TEXT, **run, **values})


COMMANDS = {
    "visual_initialing": (visual_initialing, lambda output, **values: stage1_flags(output, **{**SHORT, **values})),
    "llm_fine_tuning": (llm_fine_tuning, lambda output, **values: stage2_flags(output, **{**SHORT, **values})),
    "visual_contrastive_pretraining": (
        visual_contrastive_pretraining,
        lambda output, **values: contrastive_flags(output, **{**SHORT, **values}),
    ),
    "visual_language_tuning": (
        visual_language_tuning,
        lambda output, **values: tuning_flags(output, **{**SHORT, **values}),
    ),
    "linguistic_pretraining": (
        linguistic_pretraining,
        lambda output, **values: text_flags(output, **{"block_size": 64, **values}),
    ),
    "pretrain_language_model": (pretrain_language_model, text_flags),
}
BY_STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
ONE_WORKER = {"dataloader_num_workers": 1}
# Flag -> values to try, each with the other flags that it needs.
TRIED: dict[str, list[dict[str, Any]]] = {
    "num_train_epochs": [{"num_train_epochs": 0.5, "max_steps": -1}],
    "lr_scheduler_type": [
        *({"lr_scheduler_type": name} for name in ("linear", "constant", "inverse_sqrt", "polynomial")),
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": '{"num_decay_steps": 1}'},
    ],
    "lr_scheduler_kwargs": [{"lr_scheduler_kwargs": '{"num_cycles": 2}'}],
    "optim": [
        {"optim": name} for name in ("sgd", "adafactor", "adagrad", "rmsprop", "adamw_8bit", "adamw_torch_fused")
    ],
    "optim_args": [{"optim": "sgd", "optim_args": "momentum=0.9"}],
    "optim_target_modules": [{"optim_target_modules": "all-linear"}],
    "activation_checkpointing_kwargs": [
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": '{"use_reentrant": false}'}
    ],
    "gradient_checkpointing_kwargs": [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": '{"use_reentrant": false}'}
    ],
    "torch_compile": [{"torch_compile": True, "torch_compile_backend": "eager"}],
    "torch_compile_mode": [{"torch_compile_mode": "x"}],  # with a right one, three minutes of inductor, which works
    "logging_strategy": [{"logging_strategy": "epoch"}, {"logging_strategy": "no"}],
    "logging_steps": [{"logging_steps": 2}, {"logging_steps": 0.5}],
    "log_level": [{"log_level": "error"}],
    "log_level_replica": [{"log_level_replica": "error"}],
    "report_to": [{"report_to": "tensorboard"}, {"report_to": "wandb"}, {"report_to": "none"}],
    "eval_strategy": [BY_STEPS, {"eval_strategy": "no", "load_best_model_at_end": False}],
    "eval_steps": [BY_STEPS, {**BY_STEPS, "eval_steps": 0.5, "save_steps": 0.5}],
    "save_strategy": [{"save_strategy": "best"}, {"save_strategy": "no", "load_best_model_at_end": False}],
    "save_steps": [{"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": False}],
    "enable_jit_checkpoint": [{"enable_jit_checkpoint": True}],
    "push_to_hub": [],  # test_push_to_hub.py
    "hub_strategy": [{"hub_strategy": "end"}],
    "load_best_model_at_end": [{"load_best_model_at_end": False}],
    "metric_for_best_model": [{"metric_for_best_model": "loss"}],
    "prediction_loss_only": [{"prediction_loss_only": True, "metric_for_best_model": "loss"}],
    "predict_with_generate": [
        {"predict_with_generate": False, "metric_for_best_model": "loss"},
        {"predict_with_generate": False, "eval_strategy": "no", "load_best_model_at_end": False},
    ],
    "accelerator_config": [{"accelerator_config": '{"even_batches": false}'}],
    "dataloader_num_workers": [ONE_WORKER],
    "dataloader_persistent_workers": [{"dataloader_persistent_workers": True, **ONE_WORKER}],
    "dataloader_prefetch_factor": [{"dataloader_prefetch_factor": 2, **ONE_WORKER}],
    "dataloader_multiprocessing_context": [{"dataloader_multiprocessing_context": "fork", **ONE_WORKER}],
    "dataloader_drop_last": [{"dataloader_drop_last": True, "per_device_eval_batch_size": 4}],
    "remove_unused_columns": [{"remove_unused_columns": True}],
    "train_sampling_strategy": [
        {"train_sampling_strategy": name} for name in ("sequential", "group_by_length", "batch_rebalance")
    ],
    "fsdp": [{"fsdp": "full_shard"}],
    "fsdp_config": [{"fsdp_config": '{"min_num_params": 1}'}],
    "deepspeed": [{"deepspeed": "{}"}],
    "debug": [{"debug": "underflow_overflow"}],
    "include_for_metrics": [{"include_for_metrics": "inputs"}],
    "generation_config": [],  # test_distributed_training.py
    "use_cpu": [],  # every test has it
    "output_dir": [],
    "resume_from_checkpoint": [],  # test_resuming.py
    "hub_revision": [{"hub_revision": "main"}],
    "warmup_steps": [{"warmup_steps": 1}, {"warmup_steps": 0.5}],
    "parallelism_config": [],  # argparse cannot make one
    "liger_kernel_config": [],
    "include_num_input_tokens_seen": [{"include_num_input_tokens_seen": True}],
    "tf32": [],  # for GPUs
    "ddp_backend": [{"ddp_backend": "gloo"}],
    "trackio_static_space_id": [{"trackio_static_space_id": "a/b"}],
}


def other_values(field: dataclasses.Field) -> list[dict[str, Any]]:
    """One that is not the default, by the type of the flag."""
    default = field.default
    if isinstance(default, bool) or "bool" in str(field.type):
        return [{field.name: not default}]
    if isinstance(default, int | float) or "int" in str(field.type) or "float" in str(field.type):
        return [{field.name: 2 if default != 2 else 3} if "adam_" not in field.name else {field.name: 0.5}]
    return [{field.name: "x"}]


ALL = [
    (field.name, values)
    for field in dataclasses.fields(Seq2SeqTrainingArguments)
    for values in TRIED.get(field.name, other_values(field))
]


def run_of(command: str, values: dict[str, Any], output: Path, capsys) -> str | None:
    """`None` if it trained and saved a model, else its error before it did anything."""
    main, make_flags = COMMANDS[command]
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = main.main(make_flags(output, **values))
        except SystemExit as end:
            status = end.code
    error = capsys.readouterr().err
    if status == 0:
        assert (output / "model.safetensors").is_file()
        return None
    assert status == 2 and "Traceback" not in error
    assert not output.exists(), "refused after work had begun"
    *_, last = error.strip().splitlines()
    return last.removeprefix("error: ")


# On clips and on text; the other commands share their Trainer with one of these. Of the two on clips a run of the tests
# takes one for each flag, as they read the flags in the same way.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "values"), ALL, ids=[f"{name}-{index}" for index, (name, _) in enumerate(ALL)])
@pytest.mark.parametrize("on_clips", [True, False])
def test_every_flag_works_or_is_refused(on_clips, name, values, seed, tmp_path, capsys):
    commands = ["visual_initialing", "visual_language_tuning"] if on_clips else ["linguistic_pretraining"]
    command = random.Random(f"{seed} {values}").choice(commands)
    said = run_of(command, values, tmp_path / "run", capsys)
    assert said is None or name in said or name.replace("_", "-") in said


@pytest.mark.parametrize("command", COMMANDS)
def test_label_smoothing_of_the_trainer_is_refused(command, tmp_path, capsys):
    assert run_of(command, {"label_smoothing_factor": 0.1}, tmp_path / "run", capsys) == (
        "--label_smoothing_factor does not work with this command: the Trainer would take the labels away from the "
        "model. Use --label_smoothing, where the command has it."
    )


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("visual_language_tuning", "bias_learning_rate"),
        ("visual_contrastive_pretraining", "adapter_learning_rate"),
        ("linguistic_pretraining", "max_frames_per_batch"),
        ("pretrain_language_model", "early_stopping_patience"),
        ("visual_contrastive_pretraining", "stop_on_collapse"),
    ],
)
def test_flags_of_ours_that_would_do_nothing_are_refused(command, name, tmp_path, capsys):
    expected = f"--{name} has no effect with this command. Leave it out."
    assert run_of(command, {name: 1}, tmp_path / "run", capsys) == expected


def test_refused_flags_exist_and_each_has_a_reason():
    names = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    assert set(REFUSED) <= names and all(REFUSED.values())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size must be 1 or more, got 0."),
        ({"per_device_eval_batch_size": -1}, "--per_device_eval_batch_size must be 1 or more, got -1."),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps must be 1 or more, got 0."),
        ({"num_train_epochs": -1}, "--num_train_epochs must be above 0, got -1.0."),
        ({"num_train_epochs": "nan"}, "--num_train_epochs must be above 0, got nan."),
        ({"max_steps": 0}, "--max_steps must be 1 or more, or -1 for --num_train_epochs, got 0."),
        ({"learning_rate": -1}, "--learning_rate must be 0 or more, got -1.0."),
        ({"learning_rate": "inf"}, "--learning_rate must be 0 or more, got inf."),
        ({"adapter_learning_rate": -1}, "--adapter_learning_rate must be 0 or more, got -1.0."),
        ({"adam_beta1": 1}, "--adam_beta1 must be 0 or more and below 1, got 1.0."),
        ({"adam_epsilon": 0}, "--adam_epsilon must be above 0, got 0.0."),
        ({"save_total_limit": 0}, "--save_total_limit must be 1 or more, got 0."),
        ({"seed": -1}, "--seed must be from 0 to 4294967295, got -1."),
        ({"eval_accumulation_steps": 0}, "--eval_accumulation_steps must be 1 or more, got 0."),
        ({"early_stopping_patience": 0}, "--early_stopping_patience must be 1 or more, got 0."),
        ({"dataloader_num_workers": -1}, "--dataloader_num_workers must be 0 or more, got -1."),
        ({"generation_num_beams": 0}, "--generation_num_beams must be from 1 to 100, got 0."),
        ({"dataloader_prefetch_factor": 2}, "--dataloader_prefetch_factor needs --dataloader_num_workers 1 or more."),
        (
            {"max_frames_per_batch": 9, "dataloader_drop_last": True},
            "--dataloader_drop_last has no effect with --max_frames_per_batch. Leave one of them out.",
        ),
        (
            {"predict_with_generate": False},
            "--predict_with_generate False leaves the loss as the only score, but --metric_for_best_model is bleu4. "
            "Set it to loss, or leave the first flag out.",
        ),
        (
            {"prediction_loss_only": True, "metric_for_best_model": "eval_chrf"},
            "--prediction_loss_only True leaves the loss as the only score, but --metric_for_best_model is chrf. "
            "Set it to loss, or leave the first flag out.",
        ),
        (
            {"greater_is_better": False},
            "--greater_is_better False would choose the worst checkpoint: for bleu4, more is better. Leave the flag "
            "out.",
        ),
        (
            {"greater_is_better": True, "metric_for_best_model": "loss"},
            "--greater_is_better True would choose the worst checkpoint: for loss, less is better. Leave the flag out.",
        ),
        (
            {"save_strategy": "steps"},
            "The best checkpoint must be saved when it is evaluated: --eval_strategy and --save_strategy must be the "
            "same, got epoch and steps. Set --load_best_model_at_end False to end with the last one.",
        ),
        (
            {**BY_STEPS, "eval_steps": 2},
            "--save_steps must be a multiple of --eval_steps, got 1 and 2. Set --load_best_model_at_end False to end "
            "with the last one.",
        ),
        (
            {**BY_STEPS, "eval_steps": 100, "save_steps": 100, "max_steps": 5},
            "--eval_steps 100 is more than the 5 steps of the run, which would have no evaluation.",
        ),
        (
            {**BY_STEPS, "save_steps": 7, "max_steps": 5},
            "--save_steps 7 is more than the 5 steps of the run, which would have no checkpoint.",
        ),
        ({"eval_delay": 9}, "--eval_delay 9 leaves none of the 3 epochs for an evaluation."),
        (
            {"report_to": "wandb"},
            "--report_to wandb needs a package that is not installed. Install it, or leave it out.",
        ),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, None),
        ({"lr_scheduler_kwargs": "nojson"}, None),
        ({"lr_scheduler_kwargs": '{"nonsense": 2}'}, None),
        ({"optim_args": "nonsense"}, "--optim adamw_torch with --optim_args nonsense cannot be used: "),
        ({"optim": "lomo"}, "--optim lomo cannot be used: You need to install `lomo_optim`"),
        (
            {"optim": "galore_adamw", "optim_target_modules": "attn", "bias_learning_rate": 1},
            "--bias_learning_rate cannot be combined with --optim galore_adamw: it has one rate for all weights.",
        ),
        (
            {"optim_target_modules": "attn"},
            "--optim_target_modules is for GaLore and APOLLO; --optim adamw_torch applies to all weights.",
        ),
        ({"crop_size": 40}, "--crop_size must be at most --frame_size, got 40 of 36 pixels."),
        ({"frame_sampling_rate": 2}, "--frame_sampling_rate must be above 0 and at most 1, got 2.0."),
        ({"translation": 4}, "--translation must be from 0 to 1, got 4.0."),
        ({"max_evaluation_clips": 0}, "--max_evaluation_clips must be 1 or more, got 0."),
    ],
)
def test_mistakes_are_told_before_any_model_or_data_is_read(values, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "open_splits", lambda *_: pytest.fail("data is read"))
    monkeypatch.setattr(training_flags, "get_available_reporting_integrations", lambda: ["tensorboard"])
    text = error_of(visual_initialing.main, stage1_flags(tmp_path / "run", **values), capsys)
    if expected is None:
        assert text.startswith("--lr_scheduler_type cosine") and " cannot be used: " in text
    else:
        assert text == expected or (expected.endswith((": ", "`")) and text.startswith(expected))


def test_reports_are_to_what_is_installed(tmp_path, capsys):
    text = error_of(visual_initialing.main, stage1_flags(tmp_path / "run", report_to="weights"), capsys)
    assert text.startswith("--report_to must be none, all or of azure_ml, ") and text.endswith(", got 'weights'.")


def test_evaluations_that_never_come_are_told_before_the_first_step(tmp_path, capsys):
    values = {**BY_STEPS, "eval_steps": 50, "save_steps": 50, "num_train_epochs": 1}
    text = error_of(visual_initialing.main, stage1_flags(tmp_path / "run", **values), capsys)
    assert text == "--eval_steps 50 is more than the 3 steps of the run, which would have no evaluation."
    arguments = FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **{**BY_STEPS})
    check_steps(arguments, 1)


@pytest.mark.parametrize(
    ("command", "values", "expected"),
    [
        (
            "pretrain_language_model",
            {"eval_strategy": "epoch"},
            "--eval_strategy must be no for this command, got epoch.",
        ),
        (
            "linguistic_pretraining",
            {"predict_with_generate": True},
            "--predict_with_generate must be False for this command, got True.",
        ),
        (
            "linguistic_pretraining",
            {"metric_for_best_model": "bleu4"},
            "--metric_for_best_model must be one of loss, perplexity, got 'bleu4'.",
        ),
        (
            "linguistic_pretraining",
            {"train_sampling_strategy": "group_by_length"},
            "--train_sampling_strategy must be one of random, sequential for this command, got group_by_length.",
        ),
        (
            "visual_contrastive_pretraining",
            {"metric_for_best_model": "median_rank", "greater_is_better": True},
            "--greater_is_better True would choose the worst checkpoint: for median_rank, less is better. Leave the "
            "flag out.",
        ),
    ],
)
def test_mistakes_in_other_commands(command, values, expected, tmp_path, capsys):
    assert run_of(command, values, tmp_path / "run", capsys) == expected


@pytest.mark.parametrize("command", ["visual_initialing", "visual_language_tuning", "linguistic_pretraining"])
def test_dropping_the_last_batch_drops_nothing_of_the_evaluation(command, tmp_path, capsys):
    values = {"dataloader_drop_last": True, "per_device_eval_batch_size": 4, "max_steps": 2, **WITHOUT_EVALUATION}
    assert run_of(command, values, tmp_path / "run", capsys) is None
    scores = json.loads((tmp_path / "run" / "eval_results.json").read_text(encoding="utf-8"))
    assert {"eval_perplexity", "eval_bleu4"} & scores.keys()


def test_dropping_the_only_batch_is_told(tmp_path, capsys):
    argv = stage1_flags(tmp_path / "run", dataloader_drop_last=True, max_train_clips=3, num_train_epochs=1)
    assert error_of(visual_initialing.main, argv, capsys) == (
        "--dataloader_drop_last True leaves nothing to train on: 3 row(s) do not fill a batch of 4. Lower "
        "--per_device_train_batch_size."
    )


@pytest.mark.parametrize("command", ["visual_initialing", "visual_language_tuning"])
def test_training_without_generation_is_scored_by_its_loss(command, tmp_path, capsys):
    values = {"predict_with_generate": False, "metric_for_best_model": "loss"}
    assert run_of(command, values, tmp_path / "run", capsys) is None
    scores = json.loads((tmp_path / "run" / "eval_results.json").read_text(encoding="utf-8"))
    assert "eval_loss" in scores and "eval_bleu4" not in scores


@pytest.mark.parametrize("command", ["visual_initialing", "visual_language_tuning", "linguistic_pretraining"])
def test_the_model_is_saved_before_its_last_evaluation(command, tmp_path, monkeypatch):
    """Whatever goes wrong there, the trained model is kept."""

    class EvaluationError(Exception):
        pass

    def fail(*_, **__):
        raise EvaluationError

    for trainer in (trainers.FLaLLMTrainer, trainers.LlavaSltTrainer, linguistic_pretraining.TextTrainer):
        monkeypatch.setattr(trainer, "evaluate", fail)
    main, make_flags = COMMANDS[command]
    with pytest.raises(EvaluationError):
        main.train(make_flags(tmp_path / "run", **WITHOUT_EVALUATION))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "config.json", "trainer_state.json"} <= names
    if command != "linguistic_pretraining":
        assert {"README.md", "training_run.json", "processor_config.json"} <= names


# One GPU, and optimisers


def test_two_gpus_without_a_launcher_are_one(tmp_path, monkeypatch):
    """torch's DataParallel would split each batch, which changes BatchNorm and the loss."""

    class TwoGPUs(FLaLLMTrainingArguments):
        n_gpu = property(lambda self: self._n_gpu)

    monkeypatch.setattr(Seq2SeqTrainingArguments, "_setup_devices", property(_two_gpus), raising=False)
    arguments = TwoGPUs(output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, arguments.per_device_train_batch_size)


def _two_gpus(self) -> torch.device:
    self.__dict__.setdefault("_n_gpu", 2)
    return torch.device("cpu")


@pytest.mark.parametrize(("device", "num_processes", "expected"), [("cuda", 1, 1), ("cuda", 2, 0), ("cpu", 1, 0)])
def test_gpus_that_stay_idle_are_counted(device, num_processes, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    run = SimpleNamespace(device=torch.device(device), world_size=num_processes)
    assert num_idle_gpus(run) == expected


def make_optimizer(folder: Path, **values: Any) -> tuple[torch.optim.Optimizer, dict[int, str]]:
    model, processor = build_stage2()
    arguments = FLaLLMTrainingArguments(
        **{
            "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "eval_strategy": "no",
            "load_best_model_at_end": False, "adapter_learning_rate": 2e-2, "learning_rate": 1e-3, **values,
        }
    )  # fmt: skip
    trainer = trainers.FLaLLMTrainer(model=model, args=arguments, processing_class=processor)
    return trainer.create_optimizer(), {id(value): name for name, value in model.named_parameters()}


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor", "rmsprop", "adamw_bnb_8bit", "lion_8bit"])
def test_optimisers_have_a_learning_rate_for_each_part(optim, tmp_path):
    if "8bit" in optim:
        pytest.importorskip("bitsandbytes")
    optimizer, names = make_optimizer(tmp_path, optim=optim)
    rates = {names[id(value)]: group["lr"] for group in optimizer.param_groups for value in group["params"]}
    assert {rate for name, rate in rates.items() if name.startswith("adapter.")} == {2e-2}
    assert {rate for name, rate in rates.items() if name.startswith("text_model.")} == {1e-3}


def test_embeddings_keep_32_bits_in_8_bit_optimisers(tmp_path):
    """As in transformers: an 8-bit state of embeddings is unstable."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.initialize()
    make_optimizer(tmp_path, optim="adamw_bnb_8bit")
    assert {values["optim_bits"] for _, _, values in manager.module_weight_config_triple} == {32}


@pytest.mark.parametrize("keyword", ["params", "model", "optimizer_dict"])
def test_optimisers_that_group_the_weights_themselves_do_so(keyword, tmp_path, monkeypatch):
    """GaLore, LOMO and the layer-wise ones return to transformers what it should pass to them."""
    given = {}

    class OwnGroups(torch.optim.SGD):
        def __init__(self, params, **values):
            given["params"] = params
            super().__init__([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    marker = object()
    make = staticmethod(lambda *_: (OwnGroups, {keyword: marker}))
    monkeypatch.setattr(trainers.FLaLLMTrainer, "get_optimizer_cls_and_kwargs", make)
    make_optimizer(tmp_path)
    assert given["params"] is marker


def test_ranges_of_pixels_and_augmentation():
    for values in itertools.chain([{"frame_size": 32, "crop_size": 32}], [{"max_num_frames": 1}]):
        VideoArguments(**values)
    AugmentationArguments(speed=0.99, frame_drop=1, translation=1, rotation_degrees=180)
