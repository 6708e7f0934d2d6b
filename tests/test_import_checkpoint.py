"""`flallm import-checkpoint`: same logits as the peers' layers, every key accounted for, and what is refused."""

import argparse
import json
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sltbaselines_layers import GlossFreeModel, narrow_resnet18, save_checkpoint
from tiny_corpus import error_of, flags
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet18
from transformers import MBartConfig, MBartTokenizer
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from modeling_flallm import FLaLLMForTranslation
from processing import FLaLLMProcessor
from train_scripts.commands import import_checkpoint

SENTENCES = ["am tag regnet es", "morgen scheint überall im norden die sonne", "wind"]
LIGHT_T = {"layers": (2, 2), "heads": (8, 8), "activation": "relu", "tied": False}
LANGUAGE_MODEL = {"layers": (3, 3), "heads": (4, 4), "activation": "gelu", "tied": True}
LARGE_DECODER = {"layers": (1, 3), "heads": (8, 4), "activation": "gelu", "tied": False}
# source, text model, norm of the adapter
CHECKPOINTS = {
    "stage 1": ("sltbaselines_stage1", LIGHT_T, nn.LayerNorm),
    "stage 2": ("sltbaselines_stage2", LANGUAGE_MODEL, nn.LayerNorm),
    "stage 2, norm not named in the config": ("sltbaselines_stage2", LANGUAGE_MODEL, nn.BatchNorm1d),
    "GFSLT-VLP": ("gfslt_vlp", LIGHT_T, nn.BatchNorm1d),
    "GFSLT-VLP, LLMD": ("gfslt_vlp", LARGE_DECODER, nn.BatchNorm1d),
}


def make_peer(text_config: MBartConfig, adapter_norm: type[nn.Module]) -> GlossFreeModel:
    return GlossFreeModel(text_config, adapter_norm, narrow_resnet18(width=8))


def make_tokenizer() -> MBartTokenizer:
    words = sorted({f"▁{word}" for sentence in SENTENCES for word in sentence.split()})
    pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")] + [(word, -1.0) for word in words]
    return MBartTokenizer(vocab=pieces, src_lang="de_DE", tgt_lang="de_DE")


def make_text_config(
    layers: tuple[int, int], heads: tuple[int, int], activation: str, tied: bool, width: int = 32, **values
) -> MBartConfig:
    sizes = {"d_model": width, "vocab_size": len(make_tokenizer()), "max_position_embeddings": 90}
    for side, number_of_layers, number_of_heads in zip(("encoder", "decoder"), layers, heads, strict=True):
        sizes |= {f"{side}_layers": number_of_layers, f"{side}_attention_heads": number_of_heads}
        sizes |= {f"{side}_ffn_dim": 3 * width}
    return MBartConfig(
        **{**sizes, "activation_function": activation, "tie_word_embeddings": tied, "scale_embedding": True, **values}
    )


@pytest.fixture(scope="module")
def text_model(tmp_path_factory) -> Path:
    """A folder like MBart_trimmed; the import reads its configuration and its tokenizer only."""
    folder = tmp_path_factory.mktemp("text_model") / "MBart_trimmed"
    make_tokenizer().save_pretrained(folder)
    make_text_config(**LANGUAGE_MODEL, dropout=0.3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def light_checkpoint(tmp_path_factory) -> dict:
    """Content of a stage-1 checkpoint, for the tests of what is refused."""
    model = make_peer(make_text_config(**LIGHT_T), nn.LayerNorm)
    return save_checkpoint(model, tmp_path_factory.mktemp("checkpoint") / "best_checkpoint.pth")


def command_line(checkpoint: Path, source: str, text_model: Path, **values) -> list[str]:
    shared = {"checkpoint": checkpoint, "source": source, "text_model_name_or_path": text_model}
    return flags(**{**shared, "target_language": "de_DE", "output_dir": checkpoint.parent / "imported", **values})


def make_clips(lengths: list[int], size: int) -> list[torch.Tensor]:
    return [torch.randn(length, 3, size, size) + torch.randn(3, 1, 1) for length in lengths]


@torch.no_grad()
def compare_logits(peer: GlossFreeModel, imported: Path, clips: list[torch.Tensor]) -> None:
    """Within 1e-4 at every token that is not padding, and not because all clips give the same."""
    model = FLaLLMForTranslation.from_pretrained(imported)
    processor = FLaLLMProcessor.from_pretrained(imported)
    labels = processor(text_target=SENTENCES, return_tensors="pt")["labels"]
    mask = torch.arange(max(map(len, clips)))[None] < torch.tensor([len(clip) for clip in clips])[:, None]
    ours = model(
        pixel_values_videos=nn.utils.rnn.pad_sequence(clips, batch_first=True),
        pixel_attention_mask=mask.long(),
        labels=labels,
    ).logits
    padding_id = processor.tokenizer.pad_token_id
    theirs = peer.eval()(clips, labels.masked_fill(labels == -100, padding_id), padding_id)
    is_real = labels != -100
    assert_close(ours[is_real], theirs[is_real], atol=1e-4, rtol=0)
    assert (theirs[:, 0] - theirs[:, 0].roll(1, 0)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_logits_agree_with_the_layers_of_the_peers(kind, text_model, tmp_path, capsys):
    source, text, adapter_norm = CHECKPOINTS[kind]
    text_config = make_text_config(**text)
    peer = make_peer(text_config, adapter_norm)
    save_checkpoint(peer, tmp_path / "best.pth")
    text_config.save_pretrained(tmp_path / "LLMD")
    named = {"text_config_file": tmp_path / "LLMD" / "config.json"} if text is LARGE_DECODER else {}
    assert import_checkpoint.main(command_line(tmp_path / "best.pth", source, text_model, **named)) == 0
    assert "were left out (see import_report.json); saved in" in capsys.readouterr().out
    lengths = random.sample(range(1, 24), 3)
    compare_logits(peer, tmp_path / "imported", make_clips(lengths, size=32))


def test_embeddings_that_are_not_tied_stay_four(text_model, tmp_path):
    peer = make_peer(make_text_config(**LANGUAGE_MODEL | {"tied": False}), nn.LayerNorm)
    peer.mbart.model.decoder.embed_tokens.weight = nn.Parameter(torch.randn_like(peer.mbart.lm_head.weight))
    save_checkpoint(peer, tmp_path / "best.pth")
    assert import_checkpoint.main(command_line(tmp_path / "best.pth", "sltbaselines_stage2", text_model)) == 0
    compare_logits(peer, tmp_path / "imported", make_clips([3, 9, 4], size=32))


@pytest.mark.slow
def test_logits_agree_at_real_size():
    """ResNet-18 at 224 pixels, width 1024, Light-T with 3+3 layers and the vocabulary of PHOENIX14T's length."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"word{index}" for index in range(2454 - len(tokenizer))])
    sizes = {"width": 1024, "vocab_size": len(tokenizer), "max_position_embeddings": 1024}
    peer = GlossFreeModel(
        make_text_config(**LIGHT_T | {"layers": (3, 3)}, **sizes), nn.LayerNorm, resnet18(weights=None)
    )
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which pytest keeps: these files are large
        text_model, checkpoint = Path(folder) / "text_model", Path(folder) / "best.pth"
        tokenizer.save_pretrained(text_model)
        make_text_config(**LANGUAGE_MODEL | {"layers": (12, 12)}, **sizes).save_pretrained(text_model)
        save_checkpoint(peer, checkpoint)
        assert import_checkpoint.main(command_line(checkpoint, "sltbaselines_stage1", text_model)) == 0
        compare_logits(peer, Path(folder) / "imported", make_clips([5, 12, 2], size=224))


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_report_accounts_for_every_key_and_every_weight(kind, text_model, tmp_path):
    source, text, adapter_norm = CHECKPOINTS[kind]
    text_config = make_text_config(**text)
    content = save_checkpoint(make_peer(text_config, adapter_norm), tmp_path / "best.pth")
    text_config.save_pretrained(tmp_path)
    named = {"text_config_file": tmp_path / "config.json"} if text is LARGE_DECODER else {}
    assert import_checkpoint.main(command_line(tmp_path / "best.pth", source, text_model, **named)) == 0
    report = json.loads((tmp_path / "imported" / "import_report.json").read_text(encoding="utf-8"))
    assert (report["source"], report["checkpoint"]) == (source, "best.pth")
    targets, left_out = report["targets"], report["left_out"]
    keys = [*content["model"], "optimizer", "lr_scheduler", "epoch", "args"]
    assert sorted([*targets, *left_out]) == sorted(keys)
    expected_left_out = {"optimizer", "lr_scheduler", "epoch", "args"}
    if text["tied"]:
        expected_left_out |= {"mbart.lm_head.weight"}
        expected_left_out |= {f"mbart.model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")}
    if adapter_norm is nn.BatchNorm1d:
        expected_left_out.add("sign_emb.bn_ac.0.num_batches_tracked")
    assert set(left_out) == expected_left_out
    saved = load_file(tmp_path / "imported" / "model.safetensors")
    assert {name for names in targets.values() for name in names} == set(saved)
    plain = {key: names[0] for key, names in targets.items() if not key.startswith("sign_emb.")}
    assert len(set(plain.values())) == len(plain)
    for key, name in plain.items():
        assert_close(saved[name], content["model"][key], atol=0, rtol=0)


def test_what_is_saved_of_the_configuration(text_model, light_checkpoint, tmp_path):
    """Heads, activation and dropout of Light-T, generation as there, and nothing of the folders on this machine."""
    torch.save(light_checkpoint, tmp_path / "best.pth")
    assert import_checkpoint.main(command_line(tmp_path / "best.pth", "sltbaselines_stage1", text_model)) == 0
    model = FLaLLMForTranslation.from_pretrained(tmp_path / "imported")
    text_config = model.config.text_config
    assert (text_config.encoder_attention_heads, text_config.activation_function, text_config.dropout) == (
        8,
        "relu",
        0.1,
    )
    assert model.generation_config.decoder_start_token_id == make_tokenizer().convert_tokens_to_ids("de_DE")
    assert model.generation_config.num_beams == 4
    assert str(tmp_path) not in (tmp_path / "imported" / "config.json").read_text(encoding="utf-8")
    assert not list(tmp_path.glob(".imported*"))


def test_dropout_of_stage_2_is_that_of_the_text_model(text_model, tmp_path):
    save_checkpoint(make_peer(make_text_config(**LANGUAGE_MODEL), nn.LayerNorm), tmp_path / "best.pth")
    assert import_checkpoint.main(command_line(tmp_path / "best.pth", "sltbaselines_stage2", text_model)) == 0
    assert FLaLLMForTranslation.from_pretrained(tmp_path / "imported").config.text_config.dropout == 0.3


@pytest.mark.parametrize("form", ["module", "bare", "half", "c2rl"])
def test_other_forms_of_the_same_checkpoint(form, text_model, light_checkpoint, tmp_path):
    """From within DistributedDataParallel, without the training state, in float16, with C2RL's contrastive part."""
    weights = light_checkpoint["model"]
    contents = {
        "module": {"model": {f"module.{key}": weight for key, weight in weights.items()}},
        "bare": dict(weights),
        "half": {"model": {key: w.half() if w.is_floating_point() else w for key, w in weights.items()}},
        "c2rl": {"model": weights | {"model_txt.model_txt.x": torch.ones(2), "logit_scale": torch.ones(())}},
    }
    torch.save(contents[form], tmp_path / "best.pth")
    assert import_checkpoint.main(command_line(tmp_path / "best.pth", "sltbaselines_stage1", text_model)) == 0
    saved = load_file(tmp_path / "imported" / "model.safetensors")
    source = "backbone.conv_1d.temporal_conv.4.weight"
    expected = weights[source].half().float() if form == "half" else weights[source]
    assert_close(saved["vision_model.temporal_module.blocks.2.convolution.weight"], expected, atol=0, rtol=0)
    report = json.loads((tmp_path / "imported" / "import_report.json").read_text(encoding="utf-8"))
    assert ("logit_scale" in report["left_out"]) == (form == "c2rl")


def test_pixels_are_those_of_their_evaluation(text_model, light_checkpoint, tmp_path):
    """PIL's resize to 256, centre crop 224, ImageNet statistics; nearly all equal, none over two grey levels off."""
    torch.save({"model": light_checkpoint["model"]}, tmp_path / "best.pth")
    assert import_checkpoint.main(command_line(tmp_path / "best.pth", "sltbaselines_stage1", text_model)) == 0
    processor = FLaLLMProcessor.from_pretrained(tmp_path / "imported")
    noise = np.random.randint(0, 256, (3, 52, 42, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame).resize((210, 260)) for frame in noise]
    std, mean = torch.tensor(IMAGENET_DEFAULT_STD), torch.tensor(IMAGENET_DEFAULT_MEAN)
    resized = torch.stack([torch.from_numpy(np.array(frame.resize((256, 256)))) for frame in frames])
    theirs = ((resized / 255 - mean) / std)[:, 16:240, 16:240].permute(0, 3, 1, 2)
    ours = processor(videos=[frames], return_tensors="pt")["pixel_values_videos"][0]
    differences_in_grey_levels = (ours - theirs).abs() * std.view(3, 1, 1) * 255
    assert differences_in_grey_levels.max() < 2.01 and (differences_in_grey_levels > 0.5).float().mean() < 0.02
    assert ours.std() > 0.2


def test_at_most_300_frames_are_sampled(text_model, light_checkpoint, tmp_path):
    """All frames up to 300; of longer clips 300, evenly. The file's `args` give 40 and 32 as the sizes."""
    torch.save(light_checkpoint, tmp_path / "best.pth")
    assert import_checkpoint.main(command_line(tmp_path / "best.pth", "sltbaselines_stage1", text_model)) == 0
    processor = FLaLLMProcessor.from_pretrained(tmp_path / "imported").video_processor
    assert processor.sample_frame_indices(299) == list(range(299))
    sampled = processor.sample_frame_indices(random.randrange(301, 600))
    assert len(sampled) == len(set(sampled)) == 300
    video = np.zeros((2, 20, 20, 3), dtype=np.uint8)
    assert processor(video, return_tensors="pt")["pixel_values_videos"].shape == (1, 2, 3, 32, 32)


# What is refused


@pytest.fixture
def refuse(text_model, light_checkpoint, tmp_path, capsys):
    """-> the error for a checkpoint with this content (or these bytes), which must leave no files behind."""

    def error(content=None, source="sltbaselines_stage1", text_model=text_model, **values) -> str:
        path = tmp_path / "best.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(light_checkpoint if content is None else content, path)
        text = error_of(import_checkpoint.main, command_line(path, source, text_model, **values), capsys)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pth"]
        return text.replace(str(tmp_path), "FOLDER")

    return error


class Trick:
    """Unpickling it with no restriction makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("hidden_in", ["entry", "namespace", "old format"])
def test_code_in_a_checkpoint_does_not_run(hidden_in, refuse, light_checkpoint, tmp_path, tmp_path_factory):
    made = tmp_path_factory.mktemp("trick") / "made"
    trick = Trick(made)
    content = light_checkpoint | {"args": argparse.Namespace(lr=trick) if hidden_in == "namespace" else trick}
    if hidden_in == "old format":
        torch.save(content, tmp_path / "best.pth", _use_new_zipfile_serialization=False)
        content = (tmp_path / "best.pth").read_bytes()
    assert refuse(content) == (
        "FOLDER/best.pth is refused: loading it would call posix.mkdir, which does not belong in a checkpoint "
        "of weights and may run code. If you trust the file, save only its 'model' entry."
    )
    assert not made.exists()
    function, arguments = trick.__reduce__()
    function(*arguments)
    assert made.exists()  # it would have


@pytest.mark.parametrize("damage", ["cut off", "cut off, old format", "text", "random", "empty"])
def test_damaged_files(damage, refuse, light_checkpoint, tmp_path):
    torch.save(light_checkpoint, tmp_path / "best.pth", _use_new_zipfile_serialization="old" not in damage)
    whole = (tmp_path / "best.pth").read_bytes()
    contents = {"text": b"hello world", "random": b"\0" + random.randbytes(4000), "empty": b""}
    content = contents.get(damage, whole[: random.randrange(len(whole) // 4, len(whole) - 1000)])
    assert refuse(content) == (
        "FOLDER/best.pth cannot be read as a checkpoint of torch.save: it is damaged, cut off or something else."
    )


def test_files_that_hold_something_else(refuse, light_checkpoint):
    assert refuse(torch.ones(3)) == (
        "FOLDER/best.pth holds a Tensor, expected a dictionary with the weights as 'model'."
    )
    no_weights = "FOLDER/best.pth holds no weights by name: expected them under its key 'model'."
    assert refuse({"model": {}}) == refuse({"state": {"a": torch.ones(2)}}) == no_weights
    assert refuse({"model": {0: torch.ones(2)}}) == no_weights
    assert refuse({"model": {"model_images.model.conv_2d.x": torch.ones(2)}, "text_decoder": {}}) == (
        "FOLDER/best.pth comes from the visual-language pre-training (train_vlp.py), which has no adapter and no "
        "trained decoder. Import a checkpoint written by train_slt.py."
    )
    assert refuse(light_checkpoint | {"ema": {}}) == "FOLDER/best.pth holds unknown entries: ema."
    assert refuse(light_checkpoint | {"args": argparse.Namespace(resize="256")}) == (
        "The checkpoint's `args` must give resize and input_size in pixels, got ('256', 224)."
    )


def test_no_such_file(text_model, tmp_path, capsys):
    arguments = command_line(tmp_path / "none.pth", "gfslt_vlp", text_model)
    assert error_of(import_checkpoint.main, arguments, capsys) == f"--checkpoint {tmp_path / 'none.pth'} is not a file."


def test_keys_without_a_place_here_are_listed(refuse, light_checkpoint):
    weights = light_checkpoint["model"]
    added = {"backbone.mlp.0.weight": torch.ones(2), "sign_emb.extra.bias": torch.ones(2)}
    assert refuse({"model": weights | added}) == (
        "FLaLLM cannot express these keys of the checkpoint: backbone.mlp.0.weight, sign_emb.extra.bias."
    )
    assert refuse({"model": weights | {"mbart.model.encoder.extra.bias": torch.ones(2)}}) == (
        "The checkpoint does not fit FLaLLM: text_model.model.encoder.extra.bias is unknown to FLaLLM."
    )


@pytest.mark.parametrize("removed", ["backbone.conv_2d.resnet.bn1.running_var", "mbart.model.decoder.layer_norm.bias"])
def test_weights_that_nothing_fills_are_listed(removed, refuse, light_checkpoint):
    weights = {key: weight for key, weight in light_checkpoint["model"].items() if key != removed}
    target = removed.replace("backbone.conv_2d.resnet", "vision_model.backbone").replace("mbart", "text_model")
    assert refuse({"model": weights}) == f"The checkpoint does not fit FLaLLM: {target} is missing."


def test_checkpoints_of_other_architectures(refuse, light_checkpoint):
    weights = light_checkpoint["model"]
    kernel = weights["backbone.conv_1d.temporal_conv.0.weight"]
    assert refuse({"model": weights | {"backbone.conv_1d.temporal_conv.0.weight": kernel[..., :3].clone()}}) == (
        "The checkpoint does not fit FLaLLM: vision_model.temporal_module.blocks.0.convolution.weight is (32, 64, 3) "
        "instead of (32, 64, 5)."
    )
    without_adapter = {key: weight for key, weight in weights.items() if not key.startswith("sign_emb.")}
    assert refuse({"model": without_adapter}).startswith(
        "The checkpoint does not fit FLaLLM: adapter.first.weight is missing; adapter.first.bias is missing."
    )
    deeper = {key.replace("layer3.1.", "layer3.7."): weight for key, weight in weights.items() if "layer3.1." in key}
    assert refuse({"model": weights | deeper}) == (
        "The checkpoint's ResNet has (2, 2, 3, 2) blocks in its four stages, unlike resnet18, resnet34, resnet50."
    )
    headless = {key: weight for key, weight in weights.items() if key != "mbart.model.shared.weight"}
    assert refuse({"model": headless}) == (
        "The checkpoint has no weight for text_model.model.shared.weight: it is not a whole gloss_free_model with "
        "sign_proj."
    )


def test_wrong_text_model(refuse, text_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    make_text_config(**LANGUAGE_MODEL, vocab_size=size + 9).save_pretrained(folder / "larger")
    tokenizer.save_pretrained(folder / "larger")
    assert refuse(text_model=folder / "larger") == (
        f"The checkpoint has a vocabulary of {size} tokens, the text model has {size + 9} and its tokenizer {size}. "
        "Name the text model that the checkpoint was trained with."
    )
    tokenizer.add_tokens(["neu"])
    tokenizer.save_pretrained(folder / "tokenizer")
    make_text_config(**LANGUAGE_MODEL).save_pretrained(folder / "tokenizer")
    assert f"the text model has {size} and its tokenizer {size + 1}." in refuse(text_model=folder / "tokenizer")
    make_tokenizer().save_pretrained(folder / "no_config")
    assert "has no readable configuration of a text model" in refuse(text_model=folder / "no_config")
    assert refuse(target_language="de").startswith("--target_language de is not one of the tokenizer's languages: ")


def test_wrong_source(refuse):
    may_not_be_light_t = "layers, so it may not be Light-T (mytran), whose attention heads and activation are known."
    language_model = make_peer(make_text_config(**LANGUAGE_MODEL), nn.LayerNorm).state_dict()
    large_decoder = make_peer(make_text_config(**LARGE_DECODER), nn.BatchNorm1d).state_dict()
    assert f"3 + 3 {may_not_be_light_t}" in refuse({"model": language_model})
    assert f"1 + 3 {may_not_be_light_t}" in refuse({"model": large_decoder}, source="gfslt_vlp")
    assert refuse(source="sltbaselines_stage2") == (
        "encoder_layers is 2 in the checkpoint and 3 in the text model; decoder_layers is 2 in the checkpoint and 3 in "
        "the text model. Name the text model that the checkpoint was trained with, and the right --source."
    )
    assert refuse(source="gfslt_vlp") == (
        "The checkpoint's adapter has a LayerNorm, which GFSLT-VLP never has. Pass --source sltbaselines_stage1 or "
        "sltbaselines_stage2."
    )


def test_a_save_that_fails_leaves_nothing(refuse, monkeypatch):
    def fill_the_disk(processor, folder):
        assert (folder / "model.safetensors").is_file()
        raise OSError("No space left on device")

    monkeypatch.setattr(FLaLLMProcessor, "save_pretrained", fill_the_disk)
    assert refuse() == "No space left on device. The disk is full: make room and run the same command again."


def test_output_folder_is_not_overwritten(text_model, light_checkpoint, tmp_path, capsys):
    torch.save(light_checkpoint, tmp_path / "best.pth")
    (tmp_path / "imported").mkdir()
    arguments = command_line(tmp_path / "best.pth", "sltbaselines_stage1", text_model)
    assert import_checkpoint.main(arguments) == 0  # an empty folder is as good as none
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "imported").iterdir()}
    error = error_of(import_checkpoint.main, arguments, capsys)
    assert error == f"--output_dir {tmp_path / 'imported'} is not empty. Name a new folder, or remove this one."
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "imported").iterdir()} == before
