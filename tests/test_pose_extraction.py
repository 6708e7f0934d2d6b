"""From videos to poses: the extractors behind one interface, what is made of what they find, and their model files."""

import functools
import hashlib
import http.server
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pose_stand_ins import (
    Session,
    SquareExtractor,
    frames_with_people,
    holistic_result,
    install,
    legacy_mediapipe,
    newer_mediapipe,
    person_at,
    rtmlib_and_onnxruntime,
)
from video_files import counting_frames, write_video

from processing import VideoDecodingError, extract_poses, pose_extraction_slt, pose_extractor_mediapipe_slt
from processing.feature_extraction_poses_slt import PoseFeatureExtractor
from processing.modality_poses_slt import PoseModality
from processing.pose_extraction_slt import EXTRACTORS, extract_poses_of_parts, load_extractor
from processing.pose_models_slt import PinnedModel
from train_scripts.arguments.pose_extraction_arguments import POSE_EXTRACTORS

VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "videos"
FRAME = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)


@pytest.fixture(autouse=True)
def fresh_extractors():
    """Loaded extractors are kept for a process."""
    pose_extraction_slt._load.cache_clear()
    yield
    pose_extraction_slt._load.cache_clear()


@pytest.fixture
def walk(tmp_path) -> Path:
    """Ten frames in which one person moves four pixels to the right from frame to frame."""
    places = [[(4 + 4 * index, 8)] for index in range(10)]
    return write_video(tmp_path / "walk.mp4", frames_with_people(places), fps=10)


def corners(poses) -> list[int]:
    """Where point 0 is in each frame, to the nearest pixel."""
    return poses.keypoints[:, 0, 0].round().astype(int).tolist()


# From a video to poses


def test_every_frame_has_the_signers_points(walk):
    extractor = SquareExtractor()
    poses = extract_poses(walk, extractor)
    assert poses.keypoints.shape == (10, 133, 2) and poses.scores.shape == (10, 133)
    assert np.abs(np.array(corners(poses)) - (4 + 4 * np.arange(10))).max() <= 1
    assert (poses.frames_per_second, poses.width, poses.height) == (10, 64, 48)
    assert poses.extractor == extractor.description
    assert extractor.rates == [10] and extractor.num_frames == 10
    assert extract_poses(str(walk), extractor).keypoints.tolist() == poses.keypoints.tolist()
    assert len(extractor.rates) == 2  # each clip starts anew


def test_a_part_of_a_video(walk):
    whole, part = extract_poses(walk, SquareExtractor()), extract_poses(walk, SquareExtractor(), start=0.2, end=0.5)
    assert part.keypoints.tolist() == whole.keypoints[2:5].tolist()
    with pytest.raises(VideoDecodingError, match="beyond the end"):
        extract_poses(walk, SquareExtractor(), start=3.0)


@pytest.mark.parametrize("form", ["array", "bytes", "dictionary", "pictures"])
def test_all_kinds_of_videos(form, walk):
    frames = frames_with_people([[(4, 8)], [], [(12, 8)]])
    video = {
        "array": frames,
        "pictures": list(frames),
        "bytes": walk.read_bytes(),
        "dictionary": {"path": str(walk), "bytes": None},
    }[form]
    fps = 5 if form in ("array", "pictures") else None
    poses = extract_poses(video, SquareExtractor(), fps=fps)
    assert corners(poses)[:1] == [4]
    if fps:
        assert poses.frames_per_second == 5 and corners(poses) == [4, 0, 12]
        assert poses.scores.any(1).tolist() == [True, False, True]


def test_frames_that_are_shown_twice_have_the_same_points(tmp_path):
    """The picture stands still for half a second; an extractor sees it once, and the poses have every frame."""
    frames = frames_with_people([[(4, 8)], [(8, 8)], [(12, 8)], [(16, 8)]])
    video = write_video(tmp_path / "still.mp4", frames, fps=10, times_in_milliseconds=[0, 100, 700, 800])
    extractor = SquareExtractor()
    poses = extract_poses(video, extractor, end=0.85)
    assert len(poses) == 9 and poses.scores.all() and extractor.num_frames == 4
    assert np.abs(np.array(corners(poses)) - [4, *[8] * 6, 12, 16]).max() <= 1


def test_only_the_parts_that_are_needed_are_looked_at(walk):
    extractor, whole = SquareExtractor(), extract_poses(walk, SquareExtractor())
    poses = extract_poses_of_parts(walk, [(0.6, None), (0.1, 0.3)], extractor)
    needed = [1, 2, 6, 7, 8, 9]
    assert len(poses) == 10 and extractor.num_frames < 10
    assert poses.keypoints[needed].tolist() == whole.keypoints[needed].tolist()
    assert not poses.scores[[0, 5]].any() and not poses.keypoints[[0, 5]].any()
    with pytest.raises(VideoDecodingError, match="no frame in the parts .* begins at second 30: it lasts 1.00 seconds"):
        extract_poses_of_parts(walk, [(30.0, 40.0), (50.0, None)], SquareExtractor())
    everything = extract_poses_of_parts(walk, [(None, None)], SquareExtractor())
    assert everything.keypoints.tolist() == whole.keypoints.tolist()


def test_parts_keep_the_times_of_a_video_whose_picture_begins_late(walk, monkeypatch):
    real = pose_extraction_slt.read_facts
    late = lambda source, name: type(real(source, name))(0.3, 1.3, 64, 48)  # noqa: E731
    monkeypatch.setattr(pose_extraction_slt, "read_facts", late)
    poses = extract_poses_of_parts(walk, [(0.5, 0.7)], SquareExtractor())
    whole = extract_poses(walk, SquareExtractor())
    assert len(poses) == 13 and not poses.scores[:3].any()  # three frames before the picture
    assert poses.keypoints[5:7].tolist() == whole.keypoints[2:4].tolist()


def test_nobody_in_the_picture(tmp_path):
    video = write_video(tmp_path / "empty.mp4", frames_with_people([[], []]))
    with pytest.raises(ValueError, match=re.escape(f"squares finds nobody in the 2 frame(s) of '{video}'.")):
        extract_poses(video, SquareExtractor())


def test_of_several_people_the_signer_is_kept_and_somebody_told(tmp_path):
    video = write_video(tmp_path / "two.mp4", frames_with_people([[(4, 8)], [(4, 8), (40, 30)], [(4, 8)]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        poses = extract_poses(video, SquareExtractor())
    assert poses.scores.all() and np.abs(np.array(corners(poses)) - 4).max() <= 1
    text = "".join(str(warning.message) for warning in caught)
    assert not text or "two.mp4" in text


def test_damaged_videos(walk, tmp_path):
    """What decodes is used; what is no video is an error of the decoder."""
    damaged = tmp_path / "damaged.mkv"
    write_video(damaged, frames_with_people([[(4, 8)]] * 40), fps=10, codec="libx264")
    damaged.write_bytes(damaged.read_bytes()[: int(damaged.stat().st_size * 0.7)])
    assert 0 < len(extract_poses(damaged, SquareExtractor())) < 40
    for name, content in (("empty.mp4", b""), ("text.mp4", b"no video" * 100), ("cut.mp4", walk.read_bytes()[:200])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoDecodingError, match=name):
            extract_poses(tmp_path / name, SquareExtractor())
    with pytest.raises(VideoDecodingError, match="There is no video file"):
        extract_poses(tmp_path / "missing.mp4", SquareExtractor())


def test_pictures_of_several_sizes(tmp_path):
    pictures = [counting_frames(1, 48, 64)[0], counting_frames(1, 64, 48)[0]]
    with pytest.raises(VideoDecodingError, match="one size, got"):
        extract_poses(pictures, SquareExtractor())


def test_two_threads_do_not_mix_their_clips(walk):
    """An extractor follows a signer from frame to frame, so the frames of a clip must come one after the other."""
    clips: list[int] = []

    class Recorder(SquareExtractor):
        def start_clip(self, frames_per_second):
            super().start_clip(frames_per_second)
            self.clip = threading.get_ident()

        def find_people(self, frame):
            clips.append(self.clip == threading.get_ident())
            return super().find_people(frame)

    extractor = Recorder()
    threads = [threading.Thread(target=extract_poses, args=(walk, extractor)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clips) == 40 and all(clips)


def test_a_model_of_poses_takes_a_video(walk, monkeypatch):
    monkeypatch.setattr(pose_extraction_slt, "EXTRACTORS", {"squares": SquareExtractor})
    monkeypatch.setattr(pose_extraction_slt, "_first_installed", lambda: "squares")
    modality = PoseModality(PoseFeatureExtractor())
    values, metadata = modality.open(walk, start=0.2, end=0.8)
    assert values.shape == (6, 133, 3)
    assert metadata["fps"] == 10 and metadata["start_in_seconds"] == pytest.approx(0.2)
    assert metadata["duration"] == pytest.approx(0.6)
    assert set(modality.prepare([values])) == {"pose_values", "pose_attention_mask"}


# Extractors by name


def test_the_command_line_names_the_extractors_that_there_are():
    assert tuple(EXTRACTORS) == POSE_EXTRACTORS


def test_without_an_extractor_the_error_names_the_extras(walk, monkeypatch):
    install(monkeypatch, {"rtmlib": None, "mediapipe": None})
    with pytest.raises(ValueError, match=r'pip install "flallm\[rtmlib\]" or pip install "flallm\[mediapipe\]"'):
        extract_poses(walk)
    with pytest.raises(ValueError, match=r"extracted with mediapipe, which cannot be imported .*flallm\[mediapipe\]"):
        extract_poses(walk, "mediapipe")
    with pytest.raises(ValueError, match="must be rtmlib or mediapipe, got 'openpose'"):
        extract_poses(walk, "openpose")


def test_what_is_installed_is_used_and_loaded_once(tmp_path, monkeypatch):
    install(monkeypatch, {"rtmlib": None, "mediapipe": legacy_mediapipe(tmp_path, holistic_result())})
    extractor = load_extractor()
    assert extractor.name == "mediapipe" and load_extractor("mediapipe") is extractor
    with pytest.raises(ValueError, match="takes a model_file only, not device"):
        load_extractor("mediapipe", device="cpu")


# MediaPipe


def mediapipe_extractor(monkeypatch, module, **settings):
    install(monkeypatch, {"mediapipe": module})
    return load_extractor("mediapipe", **settings)


@pytest.mark.parametrize("is_legacy", [True, False])
def test_mediapipes_points_are_in_their_places(is_legacy, tmp_path, monkeypatch):
    """Of each part some points whose numbers are known from its documentation, in pixels of the picture."""
    model = tmp_path / "holistic.task"
    model.write_bytes(b"model")
    module = legacy_mediapipe(tmp_path, holistic_result()) if is_legacy else newer_mediapipe(holistic_result())
    extractor = mediapipe_extractor(monkeypatch, module, **({} if is_legacy else {"model_file": model}))
    extractor.start_clip(25)
    (person,) = extractor.find_people(FRAME)
    body = {0: 0, 3: 7, 4: 8, 5: 11, 6: 12, 7: 13, 8: 14, 9: 15, 10: 16, 11: 23, 16: 28}
    face = {53: 4, 23 + 8: 152, 23 + 36: 33, 23 + 45: 263, 23 + 48: 61, 23 + 54: 291, 83: 78, 87: 308}
    left, right = {91: 0, 95: 4, 111: 20}, {112: 0, 120: 8, 132: 20}
    for points, shift, score in ((body, 0.1, 0.75), (face, 0.2, 1), (left, 0.3, 1), (right, 0.4, 1)):
        for point, index in points.items():
            expected = [(shift + index / 1000) * 64, (shift + index / 2000) * 48, score]
            assert person[point] == pytest.approx(expected), point
    missing = [point for point in range(133) if person[point, 2] == 0]
    assert missing == [18, 21]  # MediaPipe has no small toes


def test_parts_that_mediapipe_does_not_find_are_unseen(tmp_path, monkeypatch):
    extractor = mediapipe_extractor(monkeypatch, legacy_mediapipe(tmp_path, holistic_result(left=False, face=False)))
    extractor.start_clip(None)
    (person,) = extractor.find_people(FRAME)
    assert not person[23:112].any() and person[112:, 2].all() and person[0, 2] == 0.75
    nothing = holistic_result(body=False, left=False, right=False, face=False)
    pose_extraction_slt._load.cache_clear()
    extractor = mediapipe_extractor(monkeypatch, legacy_mediapipe(tmp_path, nothing))
    assert extractor.find_people(FRAME).shape == (0, 133, 3)


def test_each_clip_of_the_legacy_solution_starts_anew(walk, tmp_path, monkeypatch):
    module = legacy_mediapipe(tmp_path, holistic_result())
    extractor = mediapipe_extractor(monkeypatch, module)
    for _ in range(2):
        extract_poses(walk, extractor)
    assert module.calls == ["reset", *["process"] * 10] * 2
    digest = hashlib.sha256(b"".join(name.encode() for name in pose_extractor_mediapipe_slt.LEGACY_MODELS)).hexdigest()
    assert extractor.description == f"mediapipe 0.10.21 holistic sha256:{digest[:12]}"


def test_the_task_gets_rising_times_at_the_frame_rate_of_the_video(walk, tmp_path, monkeypatch):
    model, module = tmp_path / "holistic.task", newer_mediapipe(holistic_result())
    model.write_bytes(b"model")
    extractor = mediapipe_extractor(monkeypatch, module, model_file=model)
    for _ in range(2):
        extract_poses(walk, extractor)
    times = list(range(0, 1000, 100))
    create = ("create", str(model), "video")
    assert module.calls == [create, *times, "close", create, *times]
    assert extractor.description == f"mediapipe 1.2.3 holistic sha256:{hashlib.sha256(b'model').hexdigest()[:12]}"
    extractor.start_clip(5000.0)
    for _ in range(3):
        extractor.find_people(FRAME)
    assert module.calls[-3:] == [0, 1, 2]


def test_model_files_of_mediapipe_that_cannot_be_used(tmp_path, monkeypatch):
    install(monkeypatch, {"mediapipe": newer_mediapipe(holistic_result())})
    with pytest.raises(ValueError, match="There is no model file"):
        load_extractor("mediapipe", model_file=tmp_path / "missing.task")
    install(monkeypatch, {"mediapipe": legacy_mediapipe(tmp_path, holistic_result())})
    with pytest.raises(ValueError, match=r"mediapipe 0\.10\.21 extracts poses with the models in its wheel"):
        load_extractor("mediapipe", model_file=tmp_path / "holistic.task")


# rtmlib


BOXES = np.array([[5, 6, 15, 16], [20, 10, 60, 40], [1, 2, 3, 4], [2, 1, 32, 31], [0, 0, 64, 48]], np.float32)
CLASSES = np.array([0, 0, 0, 0, 16])  # the largest is a dog


def rtmlib_extractor(monkeypatch, tmp_path, *arguments, device=None, **settings):
    modules = rtmlib_and_onnxruntime(*arguments, **settings)
    install(monkeypatch, modules)
    files = {name: tmp_path / f"{name}.onnx" for name in ("model_file", "detector_file")}
    for name, path in files.items():
        path.write_bytes(name.encode())
    return load_extractor("rtmlib", **files, device=device), modules["rtmlib"]


@pytest.mark.parametrize("knows_classes", [True, False])
def test_rtmlib_looks_at_the_largest_people(knows_classes, monkeypatch, tmp_path):
    boxes = BOXES if knows_classes else BOXES[:4]
    extractor, _ = rtmlib_extractor(monkeypatch, tmp_path, boxes, CLASSES if knows_classes else None)
    people = extractor.find_people(FRAME)
    assert people.dtype == np.float32
    # The scores of the model go beyond 1.
    assert people.tolist() == [person_at(*box, score=1.0).tolist() for box in ((20, 10), (2, 1), (5, 6))]
    digests = [hashlib.sha256(name.encode()).hexdigest()[:12] for name in ("model_file", "detector_file")]
    expected = "rtmlib 0.0.16 model_file sha256:{} detector_file sha256:{}".format(*digests)
    assert extractor.description == expected


def test_each_model_of_rtmlib_gets_the_colours_that_it_was_trained_on(monkeypatch, tmp_path):
    extractor, rtmlib = rtmlib_extractor(monkeypatch, tmp_path, BOXES, CLASSES)
    extractor.find_people(FRAME)
    rgb = FRAME[0, 0].tolist()
    assert rtmlib.pictures == [("detector", rgb[::-1]), ("pose", rgb)]


def test_without_a_person_rtmlib_does_not_take_the_picture_for_one(monkeypatch, tmp_path):
    extractor, rtmlib = rtmlib_extractor(monkeypatch, tmp_path, BOXES, np.full(len(BOXES), 16))
    assert extractor.find_people(FRAME).shape == (0, 133, 3)
    assert [name for name, _ in rtmlib.pictures] == ["detector"]
    pose_extraction_slt._load.cache_clear()
    extractor, rtmlib = rtmlib_extractor(monkeypatch, tmp_path, np.array([]), np.array([]))  # as rtmlib has none
    assert extractor.find_people(FRAME).shape == (0, 133, 3)


def test_the_size_of_pictures_is_that_of_the_model_file(monkeypatch, tmp_path):
    session = Session([["batch", 3, 256, 192]], [["batch", 133, 384], ["batch", "points", 512]])
    extractor, _ = rtmlib_extractor(monkeypatch, tmp_path, BOXES, CLASSES, pose_session=session)
    assert extractor._model.model_input_size == (192, 256)  # width, height
    assert extractor._detector.model_input_size == (640, 640)


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        ([["b", 3, 256, 192]], [["b", 17, 384], ["b", 17, 512]], "must be a whole-body model of the RTMPose family"),
        ([["b", 3, 256, 192]], [["b", 133, 3]], "must be a whole-body model"),
        ([["b", 3, "height", "width"]], [["b", 133, 384]] * 2, "of a fixed size, got ['b', 3, 'height', 'width']"),
    ],
)
def test_models_of_rtmlib_that_cannot_be_used(inputs, outputs, text, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=re.escape(text)):
        rtmlib_extractor(monkeypatch, tmp_path, BOXES, CLASSES, pose_session=Session(inputs, outputs))


def test_devices_of_rtmlib(monkeypatch, tmp_path):
    def devices(device=None, **settings):
        pose_extraction_slt._load.cache_clear()
        _, rtmlib = rtmlib_extractor(monkeypatch, tmp_path, BOXES, CLASSES, device=device, **settings)
        return set(rtmlib.devices)

    gpu = {"providers": ("CUDAExecutionProvider", "CPUExecutionProvider")}
    assert devices() == {"cpu"} and devices(**gpu) == {"cuda"} and devices("cpu", **gpu) == {"cpu"}
    assert devices("cuda:1", **gpu) == {"cuda:1"}
    with pytest.raises(ValueError, match="needs an onnxruntime for GPUs, this one has CPUExecutionProvider"):
        devices("cuda")
    with pytest.raises(ValueError, match="runs on cpu or cuda, got the device 'mps'"):
        devices("mps")


# Model files


@pytest.fixture
def server(tmp_path):
    """An address of a folder, and the folder."""
    folder = tmp_path / "server"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "flallm_poses"


def test_a_model_is_downloaded_once(server, cache):
    address, folder = server
    (folder / "model.onnx").write_bytes(b"weights")
    model = PinnedModel(f"{address}/model.onnx", hashlib.sha256(b"weights").hexdigest(), "Apache-2.0")
    assert model.path() == cache / "model.onnx" and model.path().read_bytes() == b"weights"
    (folder / "model.onnx").unlink()
    assert model.path().read_bytes() == b"weights"
    (cache / "model.onnx").write_bytes(b"others")
    with pytest.raises(ValueError, match=r"model\.onnx has the SHA-256 [0-9a-f]{64}, expected .* Delete the file"):
        model.path()


def test_another_file_than_expected_is_not_kept(server, cache):
    address, folder = server
    (folder / "model.onnx").write_bytes(b"something else")
    model = PinnedModel(f"{address}/model.onnx", hashlib.sha256(b"weights").hexdigest(), "Apache-2.0")
    with pytest.raises(ValueError, match=r"is not the file that was expected: invalid hash value"):
        model.path()
    assert list(cache.iterdir()) == []


def test_a_download_that_fails_says_what_to_do(server, cache):
    address, _ = server
    model = PinnedModel(f"{address}/missing.onnx", "0" * 64, "Apache-2.0")
    expected = re.escape(f"Download {address}/missing.onnx on another machine and put it at {cache / 'missing.onnx'}")
    with pytest.raises(ValueError, match=f"could not be downloaded: .*404.* {expected}"):
        model.path()


# The real packages, where they are installed


@pytest.mark.slow
def test_real_mediapipe_on_recorded_clips():
    """Points lie on the signer, her left hand is at the end of her left arm, and a second run gives the same."""
    mediapipe = pytest.importorskip("mediapipe")
    if not hasattr(mediapipe, "solutions"):
        pytest.skip("this release has no models in its wheel")
    if not VIDEOS.is_dir():
        pytest.skip("the recorded clips are not here")
    for name, num_frames in (("SOUP", 41), ("FOOTBALL", 62)):
        poses = extract_poses(VIDEOS / f"{name}.mp4", "mediapipe")
        again = extract_poses(VIDEOS / f"{name}.mp4", "mediapipe")
        assert poses.keypoints.tolist() == again.keypoints.tolist()
        assert len(poses) == num_frames and (poses.scores[:, :11] > 0.3).all()
        body = poses.keypoints[:, :11]
        assert (body > 0).all() and (body < [poses.width, poses.height]).all()
        shoulders = np.linalg.norm(body[:, 5] - body[:, 6], axis=-1)
        assert (body[:, 5, 0] > body[:, 6, 0]).all()  # facing the camera, her left is on our right
        assert (np.linalg.norm(body[:, 0] - poses.keypoints[:, 53], axis=-1) < 0.25 * shoulders).all()
        for wrist, hand in ((9, 91), (10, 112)):
            seen = poses.scores[:, hand] > 0.3
            assert seen.mean() > 0.8
            apart = np.linalg.norm(body[:, wrist] - poses.keypoints[:, hand], axis=-1)
            assert (apart[seen] < 0.5 * shoulders[seen]).all()


def constant_model(path: Path, input_shape: list[int], outputs: list[np.ndarray]) -> Path:
    """A model in ONNX whose outputs do not depend on its input."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("ReduceSum", ["input"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
    ]
    values, infos = [numpy_helper.from_array(np.float32(0), "zero")], []
    for index, output in enumerate(outputs):
        values.append(numpy_helper.from_array(output.astype(np.float32), f"value_{index}"))
        nodes.append(helper.make_node("Add", [f"value_{index}", "nothing"], [f"output_{index}"]))
        infos.append(helper.make_tensor_value_info(f"output_{index}", onnx.TensorProto.FLOAT, output.shape))
    taken = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, input_shape)
    graph = helper.make_graph(nodes, "constant", [taken], infos, values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_real_rtmlib_with_models_of_known_outputs(tmp_path):
    """A detector that sees a person and a larger dog, and a pose model whose point k is at (4 k, 5 k) of its bins."""
    pytest.importorskip("rtmlib")
    cells = np.zeros((1, 8400, 85))
    for cell, (x, y, width, height), kind in ((100, (320, 240, 100, 300), 0), (2000, (400, 300, 300, 300), 16)):
        cells[0, cell, :4] = x / 8 - cell % 80, y / 8 - cell // 80, np.log(width / 8), np.log(height / 8)
        cells[0, cell, [4, 5 + kind]] = 1, 0.9
    bins_x, bins_y, points = np.zeros((1, 133, 576)), np.zeros((1, 133, 768)), np.arange(133)
    bins_x[0, points, 4 * points] = bins_y[0, points, 5 * points] = 0.8
    model = constant_model(tmp_path / "pose.onnx", [1, 3, 384, 288], [bins_x, bins_y])
    detector = constant_model(tmp_path / "detector.onnx", [1, 3, 640, 640], [cells])
    extractor = load_extractor("rtmlib", model, detector, "cpu")
    people = extractor.find_people(np.zeros((480, 640, 3), np.uint8))
    # The box is widened by 1.25 and to the shape of the model's picture, 288 x 384; there are two bins in each pixel.
    size = np.array([300 * 1.25 * 288 / 384, 300 * 1.25])
    expected = np.stack([4 * points / 2 / 288, 5 * points / 2 / 384], -1) * size + np.array([320, 240]) - size / 2
    assert people.shape == (1, 133, 3)
    np.testing.assert_allclose(people[0, :, :2], expected, atol=0.01)
    np.testing.assert_allclose(people[0, :, 2], 0.8, atol=1e-5)
