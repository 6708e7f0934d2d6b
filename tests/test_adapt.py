"""`flallm adapt`: the new statistics against values by hand, what does not change, and what it refuses."""

import csv
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_model_card import card_of, check_for_the_hub, run_folder
from tiny_corpus import copy_of_weights, corpus, error_of, flags, trained_model
from tiny_models import (
    draw_batch_norm_statistics,
    random_batch,
    tiny_diffslt,
    tiny_llava_slt,
    tiny_mmslt,
    tiny_model,
    tiny_pose_encoder,
    tiny_uni_sign,
    tiny_vision_model,
)
from torch.testing import assert_close

from modeling_flallm import SignEncoder, SignLanguageTranslationPipeline
from modeling_flallm.calibration_slt import CALIBRATION_FILE
from train_scripts.arguments.command_arguments import AdaptationArguments
from train_scripts.commands import adapt as command
from train_scripts.commands.adapt import Moments, adapt, batch_norm_layers, estimate_statistics, load_clips
from train_scripts.hub.training_run import read_run
from train_scripts.runs.trained_models import load_trained

LENGTHS = [9, 16, 12, 20, 11]
STATISTICS = ("running_mean", "running_var")


def pixel_clips() -> list[dict[str, torch.Tensor]]:
    return [
        {name: values for name, values in random_batch([length]).items() if name.startswith("pixel")}
        for length in LENGTHS
    ]


def pose_clips() -> list[dict[str, torch.Tensor]]:
    return [
        {"pose_values": torch.rand(1, length, 69, 3), "pose_attention_mask": torch.ones(1, length, dtype=torch.long)}
        for length in LENGTHS
    ]


def padded(clips: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One batch. What is behind the end of a clip is far away from all real values."""
    longest = max(LENGTHS)
    batch = {}
    for name in clips[0]:
        end = 0 if name.endswith("mask") else 1000
        parts = [
            torch.cat(
                [clip[name], clip[name].new_full((1, longest - clip[name].shape[1], *clip[name].shape[2:]), end)], 1
            )
            for clip in clips
        ]
        batch[name] = torch.cat(parts)
    return batch


def vision_encoder() -> SignEncoder:
    encoder = tiny_vision_model(temporal_blocks=["K3"]).eval()
    draw_batch_norm_statistics(encoder)
    return encoder


def pose_encoder(**values) -> SignEncoder:
    encoder = tiny_pose_encoder(**values).eval()
    draw_batch_norm_statistics(encoder)
    return encoder


KINDS = {"frames": (vision_encoder, pixel_clips), "poses": (pose_encoder, pose_clips)}
every_kind = pytest.mark.parametrize("kind", KINDS)


def statistics_in(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in copy_of_weights(encoder).items() if name.endswith(STATISTICS)}


@torch.no_grad()
def seen_by_layers(encoder: SignEncoder, clips: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """All values that reach each layer, `(values, channels)`, of clips that go through it one by one."""
    seen = {name: [] for name in batch_norm_layers(encoder)}
    for name, layer in batch_norm_layers(encoder).items():
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: seen[name].append(inputs[0].transpose(0, 1)))
    for clip in clips:
        encoder(**clip)
    return {name: torch.cat([part.flatten(1) for part in parts], 1).double() for name, parts in seen.items() if parts}


# Statistics


def test_moments_are_those_of_all_values_together():
    moments = Moments()
    for batch in ([[1.0, 10.0], [2.0, 20.0]], [[6.0, 60.0]]):
        moments.add(torch.tensor(batch))
    moments.add(torch.zeros(0, 2))
    assert moments.count == 3
    assert_close(moments.mean, torch.tensor([3.0, 30.0], dtype=torch.double))
    assert_close(moments.variance, torch.tensor([7.0, 700.0], dtype=torch.double))  # (4 + 1 + 9) / 2


@every_kind
def test_each_layer_gets_the_mixture_of_what_it_sees_and_what_it_had(kind):
    make, make_clips = KINDS[kind]
    encoder, clips = make(), make_clips()
    trained = statistics_in(encoder)
    found = estimate_statistics(encoder, [padded(clips)], len(clips), prior_clips=15, tolerance=0)
    assert found.weight == 0.25 and found.num_passes <= len(found.by_layer)
    seen = seen_by_layers(encoder, clips)
    assert seen.keys() == found.by_layer.keys()
    for name, values in seen.items():
        by_hand = values.mean(1), values.var(1)
        for statistic, new, result in zip(STATISTICS, by_hand, found.by_layer[name], strict=True):
            expected = 0.25 * new + 0.75 * trained[f"{name}.{statistic}"].double()
            assert_close(result, expected, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@every_kind
def test_order_and_size_of_batches_change_nothing_but_rounding(kind):
    make, make_clips = KINDS[kind]
    encoder, clips = make(), make_clips()
    start = copy_of_weights(encoder)
    results = []
    for batches in ([padded(clips)], clips[::-1]):
        encoder.load_state_dict(start)
        results.append(estimate_statistics(encoder, batches, len(clips), prior_clips=4, tolerance=0).by_layer)
    first, second = results
    assert_close(second, first, rtol=1e-3, atol=1e-4)


def test_a_large_prior_keeps_the_trained_statistics():
    encoder = vision_encoder()
    trained = statistics_in(encoder)
    found = estimate_statistics(encoder, pixel_clips(), len(LENGTHS), prior_clips=10**12)
    assert found.num_passes == 1
    assert_close(statistics_in(encoder), trained, rtol=1e-6, atol=1e-7)


def test_clips_like_those_of_training_change_nothing():
    encoder, clips = vision_encoder(), pixel_clips()
    estimate_statistics(encoder, clips, len(clips), prior_clips=0, tolerance=0)
    fixed = statistics_in(encoder)
    assert estimate_statistics(encoder, clips, len(clips), prior_clips=0).num_passes == 1
    assert_close(statistics_in(encoder), fixed, rtol=1e-3, atol=1e-4)


def test_layers_that_see_nothing_keep_their_statistics():
    encoder = pose_encoder(rgb_fusion=True)
    trained = statistics_in(encoder)
    estimate_statistics(encoder, pose_clips(), len(LENGTHS), prior_clips=0)
    for name, value in statistics_in(encoder).items():
        assert torch.equal(value, trained[name]) == name.startswith("fusion."), name


# The model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_nothing_but_statistics_changes(dtype, is_frozen):
    model = tiny_model().to(dtype)
    if is_frozen:
        model.vision_model.freeze()
        model.train()
    before, was_training = copy_of_weights(model), model.training
    adapt(model, pixel_clips(), num_clips=len(LENGTHS), prior_clips=2)
    for name, value in copy_of_weights(model).items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]) != name.endswith(STATISTICS), name
    assert model.training == was_training


@pytest.mark.parametrize("make", [tiny_llava_slt, tiny_uni_sign, tiny_mmslt, tiny_diffslt])
def test_other_systems_are_adapted_too(make):
    model = make()
    before = copy_of_weights(model)
    clips = pose_clips() if make is tiny_uni_sign else pixel_clips()
    adapt(model, clips, num_clips=len(LENGTHS), prior_clips=2)
    changed = {name for name, value in copy_of_weights(model).items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("vision_model.") and name.endswith(STATISTICS) for name in changed)


def test_weights_that_diverged_are_reported():
    model = tiny_model()
    model.vision_model.backbone.conv1.weight.data.fill_(torch.inf)
    with pytest.raises(
        ValueError, match=r"The layer backbone.bn1 sees values that are not finite numbers, .* diverged"
    ):
        adapt(model, pixel_clips(), num_clips=len(LENGTHS), prior_clips=2)


def test_an_encoder_without_batch_norm_is_refused():
    message = (
        "The sign encoder of my_model, Linear, has no BatchNorm layers, whose statistics are what `flallm adapt` "
        "estimates again. This model cannot be adapted so."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        command._check_encoder(SimpleNamespace(vision_model=torch.nn.Linear(2, 2)), "my_model")


# Clips


def clips_of(folder: Path, signers: list[str] | None) -> Path:
    """A split without sentences."""
    (folder / "test").mkdir(parents=True)
    rows = [["file_name"] if signers is None else ["file_name", "signer"]]
    for index, signer in enumerate(signers or ["", ""]):
        (folder / "test" / f"{index}.mp4").touch()
        rows.append([f"{index}.mp4"] if signers is None else [f"{index}.mp4", signer])
    with (folder / "test" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def chosen(folder: Path, **values) -> list[str]:
    clips = load_clips(AdaptationArguments(model="m", dataset=str(folder), output_dir="o", **values))
    return [Path(row["video"]["path"]).stem for row in clips]


def test_clips_of_a_signer_need_no_sentences(tmp_path):
    folder = clips_of(tmp_path / "clips", ["anna", "ben", "anna", "anna"])
    assert chosen(folder) == ["0", "1", "2", "3"]
    assert chosen(folder, signer="anna") == ["0", "2", "3"]
    assert chosen(folder, signer="anna", max_clips=2) == ["0", "2"]


def test_a_signer_who_is_not_there_is_refused(tmp_path):
    folder, unnamed = clips_of(tmp_path / "clips", ["ben", "anna", "ben"]), clips_of(tmp_path / "unnamed", None)
    message = f"--signer 'eve' has no clip in {folder} (test), whose signers are anna (1), ben (2)."
    with pytest.raises(ValueError, match=re.escape(message)):
        chosen(folder, signer="eve")
    message = (
        f"--signer needs a column signer, which {unnamed} (test) lacks: it has ['video']. Leave --signer out if all of "
        "its clips show the same person."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        chosen(unnamed, signer="anna")


# The command


def test_mistakes_are_told_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "load_trained", None)
    full = clips_of(tmp_path / "full", None)
    needed = {"model": "m", "dataset": full, "output_dir": full}
    error = f"--output_dir {full} is not empty. Name a new folder, or remove this one."
    assert error_of(command.main, flags(**needed), capsys) == error
    del needed["dataset"]
    assert error_of(command.main, flags(**needed), capsys) == "`--dataset` must name a data set."
    needed |= {"dataset": full, "prior_clips": -1}
    assert error_of(command.main, flags(**needed), capsys) == "--prior_clips must be 0 or more, got -1."


@pytest.mark.slow
def test_an_adapted_folder_is_a_model_with_a_card_of_its_own(tmp_path, capsys):
    base, output = tmp_path / "model", tmp_path / "model_for_anna"
    shutil.copytree(trained_model(), base)
    for name in ("README.md", "training_run.json"):
        shutil.copy(run_folder("visual_initialing") / name, base)
    (base / CALIBRATION_FILE).write_text('{"slope": 2.5, "intercept": -1}')
    assert read_run(base).scores
    clips = clips_of(tmp_path / "clips", ["anna", "ben", "anna"])
    for clip in clips.glob("test/*.mp4"):
        shutil.copy(sorted(corpus().glob("test/*.mp4"))[int(clip.stem)], clip)
    values = {"model": base, "dataset": clips, "signer": "anna", "output_dir": output, "num_threads": 1}
    assert command.main(flags(**values)) == 0
    assert "from 2 clip(s), in " in (printed := capsys.readouterr().out)
    assert f"New ones count 0.11, trained ones 0.89. Written into {output}." in printed
    before, after = (load_trained(str(folder))[0] for folder in (base, output))
    for name, value in after.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]) != name.endswith(STATISTICS), name
    assert not (output / CALIBRATION_FILE).exists()
    text = card_of(output)
    check_for_the_hub(text)
    assert "**The scores of `model` are not scores of this model.**" in text and "There are no scores yet." in text
    assert "from 2 clips by the signer anna (clips, test)" in " ".join(text.split())
    assert read_run(output).adapted["weight"] == 2 / 18
    model, processor = load_trained(str(output))
    translator = SignLanguageTranslationPipeline(model=model, processor=processor, device="cpu")
    assert translator(str(clips / "test" / "0.mp4"))["translation_text"]
