"""Exported models of every system against the models themselves: the same sentences, also where there is no torch."""

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from mini_hub import MiniHub, connect
from random_inputs import built_once
from test_pipeline import make_pipeline, make_processor
from test_pipeline_llava_slt import make_pipeline as make_llava_slt_pipeline
from test_pose_files import random_poses
from tiny_corpus import error_of, flags
from tiny_models import tiny_diffslt, tiny_mmslt
from tiny_pose_models import pose_pipeline
from transformers import PreTrainedModel
from video_files import write_video

from processing import FLaLLMProcessor, PoseFeatureExtractor, write_poses
from train_scripts.commands import export_model
from train_scripts.runs.exported_folder import example_clips, fill_folder, generated, runner_of

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SYSTEMS = ("flallm", "llava_slt", "uni_sign", "mmslt", "diffslt")
WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "transformers"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
from flallm_runner import load
import json
translate = load()
print(json.dumps([translate(sys.argv[2], num_beams=beams)["translation_text"] for beams in (1, 3)]))
"""


class Exported(NamedTuple):
    model: PreTrainedModel
    processor: FLaLLMProcessor
    folder: Path
    programs: list[Any]  # what torch.onnx.export gave for each graph


class Command(NamedTuple):
    printed: str
    names_on_hub: set[str]


def _parts(system: str) -> tuple[PreTrainedModel, FLaLLMProcessor]:
    if system == "flallm":
        pipeline = make_pipeline()
        return pipeline.model, pipeline.processor
    if system == "llava_slt":
        pipeline = make_llava_slt_pipeline("gemma")
        return pipeline.model, pipeline.processor
    if system == "uni_sign":
        pipeline = pose_pipeline()
        return pipeline.model, pipeline.processor
    model = tiny_mmslt("t5") if system == "mmslt" else tiny_diffslt()
    model.generation_config.update(max_length=10, forced_eos_token_id=None)
    return model, make_processor()


@pytest.fixture(scope="session")
def commanded(tmp_path_factory) -> tuple[Exported, Command]:
    """A model that the command has exported and uploaded."""
    folder = tmp_path_factory.mktemp("uni_sign")
    model, processor = _parts("uni_sign")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    values = {"model": folder / "model", "output_dir": folder / "exported", "repo_id": "me/model"}
    printed = io.StringIO()
    with MiniHub() as hub, pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        connect(patch, hub.url, hub.token)
        hub.create_repository("me/model", files={"config.json": b"{}", "onnx/old.onnx": b"old"})
        programs = recorded_programs(patch)
        assert export_model.main(flags(**values)) == 0
        names = set(hub.repository("me/model").files())
    return Exported(model, processor, folder / "exported", programs), Command(printed.getvalue(), names)


def recorded_programs(patch: pytest.MonkeyPatch) -> list[Any]:
    programs: list[Any] = []
    export = torch.onnx.export

    def export_and_keep(*arguments, **values):
        programs.append(export(*arguments, **values))
        return programs[-1]

    patch.setattr(torch.onnx, "export", export_and_keep)
    return programs


@pytest.fixture(scope="session")
def exported(tmp_path_factory, request):
    """An exported model of a system, made when the first test asks for it."""

    @built_once
    def export(system: str) -> Exported:
        if system == "uni_sign":
            return request.getfixturevalue("commanded")[0]
        if system == "diffslt":
            pytest.importorskip("diffusers")
        model, processor = _parts(system)
        folder = tmp_path_factory.mktemp(system) / "exported"
        folder.mkdir()
        num_equal, num_tried = fill_folder(folder, model, processor, "onnx", "float32")
        assert num_equal == num_tried == 8
        return Exported(model, processor, folder, [])

    return export


def padded(rows, length: int) -> list[list[int]]:
    return [[*row, *[1] * (length - len(row))] for row in np.asarray(rows).tolist()]


@pytest.mark.parametrize("system", SYSTEMS)
def test_batches_of_other_sizes_give_the_same_tokens(exported, system):
    model, processor, folder, _ = exported(system)
    ways = [{}, {"num_beams": 4, "max_new_tokens": 6}]
    ways += [] if system == "diffslt" else [{"num_beams": 3, "length_penalty": 0.3, "early_stopping": True}]
    with runner_of(folder) as runner:
        translator = runner.load(folder)
        for more_frames in ((0,), (11, 2), (3, 0, 6, 1, 17)):
            clips = example_clips(model, processor, more_frames)
            arrays = {name: values.numpy() for name, values in clips.items()}
            for way in ways:
                expected, got = generated(model, processor, clips, **way), translator.generate(arrays, **way)
                length = max(expected.shape[1], got.shape[1])
                assert padded(got, length) == padded(expected, length)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_file_is_translated_where_there_is_no_torch(exported, system, tmp_path):
    from modeling_flallm import SignLanguageTranslationPipeline

    model, processor, folder, _ = exported(system)
    if system == "uni_sign":
        path = tmp_path / "clip.safetensors"
        write_poses(path, random_poses(24, width=640.0, height=480.0, frames_per_second=25.0))
    else:
        frames = np.random.randint(0, 256, (48, 40, 56, 3), dtype=np.uint8)
        path = write_video(tmp_path / "clip.mp4", frames)
    program = [sys.executable, "-c", WITHOUT_TORCH, str(folder), str(path)]
    answer = subprocess.run(program, capture_output=True, text=True, check=True, cwd=tmp_path)
    translate = SignLanguageTranslationPipeline(model=model, processor=processor)
    expected = [translate(str(path), num_beams=beams)["translation_text"] for beams in (1, 3)]
    assert json.loads(answer.stdout) == expected


def test_a_folder_can_be_run_from_the_command_line(exported, tmp_path):
    folder = exported("flallm").folder
    clip = write_video(tmp_path / "clip.mp4", np.random.randint(0, 256, (48, 40, 56, 3), dtype=np.uint8))
    program = [sys.executable, "-m", "flallm_runner", str(clip), "nothing.mp4"]
    answer = subprocess.run(program, capture_output=True, text=True, cwd=folder)
    assert answer.returncode == 1 and answer.stdout.startswith(f"{clip}\tw")
    assert "There is no file 'nothing.mp4'." in answer.stderr


def test_another_language_goes_into_the_prompt(exported):
    _, processor, folder, _ = exported("uni_sign")
    with runner_of(folder) as runner:
        translator = runner.load(folder)
        for language in (None, "de", "German"):
            wanted = processor(num_visual_tokens=[1], spoken_language=language)["prompt_ids"].tolist()
            assert translator._encoder_prompts(1, language)["prompt_ids"].tolist() == wanted
        with pytest.raises(TypeError, match="An exported model has no generation settings do_sample."):
            translator.generate({}, do_sample=True)
    folder = exported("flallm").folder
    with runner_of(folder) as runner:
        translator = runner.load(folder)
        with pytest.raises(ValueError, match="`spoken_language` goes into a prompt, and this model reads none."):
            translator.generate({}, spoken_language="de")
        with pytest.raises(ValueError, match="The text model writes at most 64 tokens, the first one incl"):
            translator.generate({}, max_new_tokens=64)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_fewer_bits_make_smaller_files(exported, dtype, tmp_path):
    """Of the same graphs as in full precision: tracing them takes longer than everything else."""
    model, processor, folder, programs = exported("uni_sign")
    with mock.patch.object(torch.onnx, "export", side_effect=programs):
        num_equal, num_tried = fill_folder(tmp_path, model, processor, "onnx", dtype)
    assert 0 <= num_equal <= num_tried == 8
    sizes = [{path.stem: path.stat().st_size for path in each.glob("*.onnx")} for each in (folder, tmp_path)]
    if dtype == "float16":
        assert sizes[1]["sign_encoder"] < sizes[0]["sign_encoder"]
        return
    import onnx

    kinds = {path.stem: {node.op_type for node in onnx.load(path).graph.node} for path in tmp_path.glob("*.onnx")}
    assert "MatMulInteger" in kinds["decoder"] and "MatMulInteger" in kinds["text_encoder"]
    assert "MatMulInteger" not in kinds["sign_encoder"]  # convolutions and batch norm stay as they are
    decoder = onnx.load(tmp_path / "decoder.onnx").graph
    (last,) = [node for node in decoder.node if "logits" in node.output or "logits" in node.name]
    assert last.op_type != "MatMulInteger"


def test_openvino_gives_the_same_tokens(tmp_path):
    pytest.importorskip("openvino")
    model, processor = _parts("uni_sign")
    assert fill_folder(tmp_path, model, processor, "openvino", "float32") == (8, 8)
    assert not list(tmp_path.glob("*.onnx*"))


# ------------------------------------------------------------------------------------------ the command


def test_the_command_exports_and_uploads_beside_the_weights(commanded):
    printed, names = commanded[1]
    assert {"config.json", "onnx/export.json", "onnx/decoder.onnx", "onnx/flallm_runner/__init__.py"} <= names
    assert "onnx/old.onnx" not in names
    assert "Of 8 random clips, 8 get the same sentence from the exported model." in printed
    assert re.search(r"Exported \S+ to \S+, \d+\.\d MB\.\nSent to onnx/ of me/model, commit ", printed)


def test_mistakes_are_explained(tmp_path, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("")
    error = error_of(export_model.main, flags(model="m", output_dir=full), capsys)
    assert "is not empty. Name a new folder, or remove this one." in error
    values = {"model": "m", "output_dir": tmp_path / "new"}
    error = error_of(export_model.main, flags(**values, format="openvino", dtype="int8"), capsys)
    assert "--format openvino takes --dtype float32 or float16, got int8." in error
    error = error_of(export_model.main, flags(**values, repo_id="model"), capsys)
    assert "--repo_id" in error and not (tmp_path / "new").exists()


def test_hand_crops_are_refused(tmp_path):
    model, processor = _parts("uni_sign")
    extractor = PoseFeatureExtractor(hand_crops=True)
    processor = FLaLLMProcessor(feature_extractor=extractor, tokenizer=processor.tokenizer, prompt=processor.prompt)
    with pytest.raises(ValueError, match="reads poses alone, and this one reads crops of the hands"):
        fill_folder(tmp_path, model, processor, "onnx", "float32")
    assert list(tmp_path.iterdir()) == []


def test_a_diffslt_with_another_scheduler_is_refused(tmp_path):
    model, processor = _parts("diffslt")
    model.config.scheduler = "dpm++"
    with pytest.raises(ValueError, match="An exported DiffSLT samples with ddim, and this one with dpm"):
        fill_folder(tmp_path, model, processor, "onnx", "float32")
