"""Streams: the content and order of a pass, the items, the runs of both stages, and data sets on a Hub."""

import csv
import itertools
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path, PurePosixPath

import datasets
import mini_hub
import pyarrow.parquet
import pytest
import torch
from huggingface_hub import HfFileSystem
from mini_hub import Answer, MiniHub
from safetensors.torch import load_file
from test_data import VIDEO, assert_same_items, video_folder
from tiny_corpus import (
    FAST,
    NUM_CLIPS,
    WITHOUT_EVALUATION,
    corpus,
    error_of,
    language_model,
    log_of,
    moved,
    stage1_flags,
    stage2_flags,
)
from tiny_tokenizers import MAKE_TOKENIZER
from torch.utils.data import DataLoader
from transformers import AutoTokenizer
from two_processes import as_process, in_two_processes, unused_port

from processing import FLaLLMProcessor, VideoDecodingError
from processing.modality_video_slt import VideoModality
from train_scripts.arguments.data_arguments import AugmentationArguments, DataArguments
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.clips import streaming
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.hub_data_sets import fetch_content
from train_scripts.clips.splits import checked_row, load_split
from train_scripts.clips.streaming import ClipStream, MixedClips, StreamedClip, StreamedClipDataset, open_streams
from train_scripts.languages.target_languages import language_ids
from train_scripts.runs.tokenizers import load_tokenizer
from train_scripts.runs.training import build_processor
from train_scripts.stages import llm_fine_tuning, visual_initialing

pytestmark = pytest.mark.slow

STRONG = AugmentationArguments(rotation_degrees=20, brightness=0.3, speed=0.3, frame_drop=0.2)
STREAMED = {"streaming": True, **WITHOUT_EVALUATION}


@pytest.fixture(scope="module")
def processor() -> FLaLLMProcessor:
    return build_processor(VIDEO, AutoTokenizer.from_pretrained(language_model()))


# What comes in a pass


class Rows:
    """A source whose rows are numbers; it counts how many have been read."""

    def __init__(self, *sizes: int, name: str = "numbers"):
        self.sizes = sizes
        self.name = name
        self.num_read = 0

    @property
    def num_parts(self) -> int:
        return len(self.sizes)

    @property
    def num_clips(self) -> int:
        return sum(self.sizes)

    def read(self, part: int):
        for number in range(self.sizes[part]):
            self.num_read += 1
            yield self.name, number, {"row": sum(self.sizes[:part]) + number}


def numbers(clips) -> list[int]:
    return [clip.row["row"] for clip in clips]


def test_each_pass_has_every_clip_once_over_all_processes(seed):
    for _ in range(30):
        sizes = [random.randint(1, 9) for _ in range(random.randint(1, 6))]
        num_processes, buffer_size = random.randint(1, 4), random.randint(1, 12)
        streams = [
            ClipStream(Rows(*sizes), buffer_size, seed, 0, num_processes, index) for index in range(num_processes)
        ]
        for pass_number in range(3):
            drawn = [clip for stream in streams for clip in stream.one_pass(pass_number)]
            assert sorted(numbers(drawn)) == list(range(sum(sizes))), (sizes, num_processes, buffer_size)
            assert len({clip.seed for clip in drawn}) == len(drawn)


def test_a_stream_goes_on_with_the_next_pass_in_another_order(seed):
    stream = ClipStream(Rows(7, 8, 5), 6, seed)
    passes = [numbers(itertools.islice(stream, 60))[start : start + 20] for start in (0, 20, 40)]
    assert passes == [numbers(stream.one_pass(pass_number)) for pass_number in range(3)]
    assert passes[0] != passes[1] != passes[2] and all(sorted(each) == list(range(20)) for each in passes)
    assert passes[0] == numbers(ClipStream(Rows(7, 8, 5), 6, seed).one_pass(0))
    assert passes[0] != numbers(ClipStream(Rows(7, 8, 5), 6, seed + 1).one_pass(0))
    first, second = (sorted(clip.seed for clip in stream.one_pass(number)) for number in (0, 1))
    assert not set(first) & set(second)


def test_no_more_clips_wait_than_the_buffer_holds():
    for buffer_size in (1, 4, 50):
        source = Rows(30)
        for count, _ in enumerate(ClipStream(source, buffer_size).one_pass(0), 1):
            assert source.num_read <= min(count + buffer_size, 30)


def test_a_buffer_of_one_clip_keeps_the_order():
    assert numbers(ClipStream(Rows(30), 1).one_pass(0)) == list(range(30))
    assert numbers(ClipStream(Rows(30), 5).one_pass(0)) != list(range(30))


def test_a_process_without_clips_is_told():
    stream = ClipStream(Rows(1), 10, 0, 0, 2, 1)
    expected = "numbers has no clip for process 2 of 2. It must have at least one for each."
    with pytest.raises(ValueError, match=re.escape(expected)):
        next(iter(stream))
    assert numbers(itertools.islice(ClipStream(Rows(1), 10, 0, 0, 2, 0), 3)) == [0, 0, 0]


def test_shares_of_several_data_sets(seed):
    sources = [Rows(5, name="a"), Rows(1, 1, name="b"), Rows(40, name="c")]
    streams = [ClipStream(source, 3, seed, index) for index, source in enumerate(sources)]
    drawn = list(itertools.islice(MixedClips(streams, [2, 1, 1], seed), 4000))
    counts = Counter(clip.source for clip in drawn)
    for name, expected in (("a", 2000), ("b", 1000), ("c", 1000)):
        assert abs(counts[name] - expected) < 220  # seven standard deviations
    for stream in streams:  # each goes on pass after pass
        of_stream = [clip for clip in drawn if clip.source == stream.source.name]
        assert of_stream == list(itertools.islice(stream, len(of_stream)))
    assert list(itertools.islice(MixedClips(streams, [2, 1, 1], seed), 50)) == drawn[:50]
    of_another_process = [ClipStream(source, 3, seed, 0, 2, 1) for source in sources]
    other = itertools.islice(MixedClips(of_another_process, [2, 1, 1], seed), 50)
    assert [clip.source for clip in other] != [clip.source for clip in drawn[:50]]


# Opening


def arguments_of(tmp_path: Path, **values) -> FLaLLMTrainingArguments:
    return FLaLLMTrainingArguments(output_dir=str(tmp_path / "run"), max_steps=3, use_cpu=True, **values)


def open_folder(folder: Path, tmp_path: Path, **values) -> MixedClips:
    return open_streams(DataArguments(dataset=[str(folder)], streaming=True, **values), arguments_of(tmp_path))


def test_folders_are_mixed_in_proportion_to_their_clips(tmp_path):
    data = {"dataset": [str(corpus())] * 2, "streaming": True}
    mixed = open_streams(DataArguments(**data), arguments_of(tmp_path))
    assert mixed.shares.tolist() == [NUM_CLIPS["train"]] * 2
    mixed = open_streams(DataArguments(**data, dataset_weights=[3, 0.5], max_train_clips=5), arguments_of(tmp_path))
    assert mixed.shares.tolist() == [3, 0.5]
    assert [stream.source.num_clips for stream in mixed.streams] == [5, 5]


def test_a_folder_is_shuffled_whatever_the_buffer(tmp_path):
    mixed = open_folder(corpus(), tmp_path, shuffle_buffer_size=1)
    count = NUM_CLIPS["train"]
    drawn = list(itertools.islice(mixed, 2 * count))
    texts = load_split(DataArguments(dataset=str(corpus())), "train")["text"]
    assert all(clip.row["text"] == texts[clip.number] for clip in drawn)
    first, second = ([clip.number for clip in part] for part in (drawn[:count], drawn[count:]))
    assert first != second and sorted(first) == sorted(second) == list(range(count))


# Items


def clip_of(row: dict, number: int = 0, seed: int = 1) -> StreamedClip:
    return StreamedClip(row, "corpus (train, file 2 of 3)", number, seed)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_items_are_those_of_the_data_set_that_is_not_streamed(as_bytes, processor, tmp_path):
    folder = video_folder(tmp_path, "file_name,text,start,end\na.mp4,x,0.2,0.8\nb.mp4,y,,\n")
    expected = SignClipDataset(load_split(DataArguments(dataset=str(folder)), "train"), processor)
    streamed = StreamedClipDataset(processor)
    for clip in itertools.islice(open_folder(folder, tmp_path), 2):
        if as_bytes:
            path = clip.row["video"]["path"]
            clip.row["video"] = {"bytes": Path(path).read_bytes(), "path": Path(path).name}
        assert_same_items(streamed[clip], expected[clip.number])
        assert streamed[clip]["spatial_seed"] is None


def test_draws_follow_from_the_seed_of_the_clip(processor, tmp_path):
    dataset = StreamedClipDataset(processor, augmentation=ClipAugmentation(STRONG, VIDEO))
    row = next(iter(open_folder(corpus(), tmp_path))).row
    first = dataset[clip_of(row, seed=5)]
    torch.rand(3)
    assert_same_items(dataset[clip_of(row, seed=5)], first)
    other = dataset[clip_of(row, seed=6)]
    assert other["frames"].shape != first["frames"].shape or not torch.equal(other["frames"], first["frames"])


def test_batches_do_not_depend_on_the_number_of_workers(processor, tmp_path):
    dataset = StreamedClipDataset(processor, augmentation=ClipAugmentation(STRONG, VIDEO))
    batches = []
    for num_workers in (0, 3):
        mixed = open_folder(corpus(), tmp_path, max_train_clips=5)
        loader = DataLoader(
            dataset, 2, sampler=mixed, num_workers=num_workers, collate_fn=TranslationCollator(processor)
        )
        batches.append(list(itertools.islice(loader, 6)))
    for batch, other in zip(*batches, strict=True):
        for name, values in batch.items():
            assert torch.equal(values, other[name]), name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"text": " "},
            "corpus (train, file 2 of 3): the sentence in row 7 (counted from 0) is empty. Every clip needs its "
            "sentence.",
        ),
        (
            {"text": None},
            "corpus (train, file 2 of 3): the sentence in row 7 (counted from 0) is empty. Every clip needs its "
            "sentence.",
        ),
        ({"video": None}, "corpus (train, file 2 of 3): row 7 (counted from 0) has no video."),
        (
            {"start": 2.0, "end": "1.5"},
            "corpus (train, file 2 of 3): row 7 (counted from 0) ends at 1.5 s, but starts at 2 s. Each part of a "
            "video must end after its start.",
        ),
        (
            {"start": "00:01"},
            "corpus (train, file 2 of 3): start must be seconds from the beginning of the video, got '00:01' in row 7 "
            "(counted from 0).",
        ),
        (
            {"video": {"bytes": b"no video at all", "path": None}},
            "corpus (train, file 2 of 3): row 7 (counted from 0): ",
        ),
        (
            {"video": {"bytes": None, "path": "/nowhere/a.mp4"}},
            "corpus (train, file 2 of 3): row 7 (counted from 0): There is no video file '/nowhere/a.mp4'.",
        ),
    ],
)
def test_rows_that_cannot_be_used(values, expected, processor, tmp_path):
    row = {**next(iter(open_folder(corpus(), tmp_path))).row, **values}
    with pytest.raises(ValueError) as error:
        StreamedClipDataset(processor)[clip_of(row, number=7)]
    text = str(error.value)
    assert text.startswith(expected) and (text == expected or isinstance(error.value, VideoDecodingError))


def test_the_language_of_each_clip(tmp_path):
    (tmp_path / "spm").mkdir()
    MAKE_TOKENIZER["mbart"](tmp_path / "spm").save_pretrained(tmp_path / "tokenizer")
    processor = build_processor(VIDEO, load_tokenizer(str(tmp_path / "tokenizer"), "fr_XX"))
    dataset = StreamedClipDataset(processor)
    row = next(iter(open_folder(corpus(), tmp_path))).row
    for tag, code in (("de", "de_DE"), ("en", "en_XX"), ("", "fr_XX"), (None, "fr_XX")):
        item = dataset[clip_of({**row, "spoken_language": tag})]
        assert item["target_language"] == code
        (labels,) = TranslationCollator(processor)([item])["labels"].tolist()
        assert language_ids(processor.tokenizer)[code] in labels
    expected = "corpus (train, file 2 of 3): row 7 (counted from 0): The column spoken_language: the tokenizer does "
    with pytest.raises(ValueError, match=re.escape(expected + "not write 'xx'. Its languages: ")):
        dataset[clip_of({**row, "spoken_language": "xx"}, number=7)]


# Runs


@pytest.mark.parametrize("stage", [1, 2])
def test_both_stages_train_from_a_stream(stage, tmp_path):
    train, make_flags = ((visual_initialing.train, stage1_flags), (llm_fine_tuning.train, stage2_flags))[stage - 1]
    scores = train(
        make_flags(
            tmp_path / "run", **STREAMED, max_steps=3, max_train_clips=5, per_device_train_batch_size=3,
            preprocess_on_device=stage == 2, dataloader_num_workers=1 - stage % 2, speed=0.2, **FAST,
        )
    )  # fmt: skip
    assert scores["eval_loss"] > 0 and len(log_of(tmp_path / "run", "loss")) == 3
    run = json.loads((tmp_path / "run" / "training_run.json").read_text(encoding="utf-8"))
    assert run["data"]["splits"]["train"] == {"num_clips": None, "num_signers": None}
    assert run["data"]["splits"]["validation"]["num_clips"] == NUM_CLIPS["dev"]
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "| train | streamed | not known |" in card and "\n- 3 steps of 3 clips." in card
    assert "| `streaming` | yes | no |" in card and "| `shuffle_buffer_size` | 1000 | 1000 |" in card


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_ends_as_the_uninterrupted_one(num_workers, tmp_path, monkeypatch):
    """Over several passes of few clips; with dropout, augmentation and steps of two batches."""
    values = {
        **STREAMED, **FAST, "max_steps": 4, "save_strategy": "steps", "save_steps": 3, "max_train_clips": 5,
        "speed": 0.3, "frame_drop": 0.2, "brightness": 0.2, "light_dropout": 0.2, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2, "dataloader_num_workers": num_workers, "shuffle_buffer_size": 3,
    }  # fmt: skip
    visual_initialing.train(stage1_flags(tmp_path / "whole", **values))
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    decoded = []
    read = streaming._sampled_values
    monkeypatch.setattr(streaming, "_sampled_values", lambda *a: decoded.append(1) or read(*a))
    visual_initialing.train(stage1_flags(tmp_path / "resumed", **values, resume_from_checkpoint="last"))
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys() and not moved(whole, resumed)
    assert moved(whole, load_file(tmp_path / "whole" / "checkpoint-3" / "model.safetensors"))
    assert log_of(tmp_path / "resumed", "loss") == log_of(tmp_path / "whole", "loss")
    if num_workers == 0:  # the four clips of the last step, and the batches that are read ahead
        assert 4 <= len(decoded) <= 8


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"max_steps": -1},
            "--streaming needs --max_steps: a stream has no end. For N epochs use N x clips / clips of a step.",
        ),
        (
            {"max_frames_per_batch": 100},
            "--streaming cannot be combined with --max_frames_per_batch: lengths of later clips are not known. Leave "
            "out one of the two.",
        ),
        (
            {"train_sampling_strategy": "group_by_length"},
            "--streaming cannot be combined with --train_sampling_strategy group_by_length: the clips come in the "
            "order of the stream. Leave out one of the two.",
        ),
        (
            {"keep_decoded_videos": True},
            "--streaming cannot be combined with --keep_decoded_videos: a stream keeps nothing. Leave out one of the "
            "two.",
        ),
        ({"shuffle_buffer_size": 0}, "--shuffle_buffer_size must be 1 or more, got 0."),
        ({"max_train_clips": 0}, "--max_train_clips must be 1 or more, got 0."),
        (
            {"text_column": "translation"},
            "{corpus}/train/metadata.csv must have the column 'translation', got {columns}. Pass --text_column.",
        ),
    ],
)
def test_mistakes_are_told_before_training(values, expected, tmp_path, capsys):
    with (corpus() / "train" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        columns = next(csv.reader(file))
    argv = stage1_flags(tmp_path / "run", streaming=True, **{"max_steps": 2, **values})
    assert error_of(visual_initialing.main, argv, capsys) == expected.format(corpus=corpus(), columns=columns)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_video_ends_the_training_with_its_row(num_workers, tmp_path, capsys):
    folder = video_folder(tmp_path / "corpus", "file_name,text\na.mp4,x\nb.mp4,y\n")
    (folder / "train" / "b.mp4").write_bytes(b"no video at all")
    values = {**STREAMED, "dataset": folder, "evaluation_split": "train", "max_steps": 2}
    argv = stage1_flags(tmp_path / "run", **values, dataloader_num_workers=num_workers)
    text = error_of(visual_initialing.main, argv, capsys)
    assert text.startswith(f"{folder} (train): row 1 (counted from 0): '{folder / 'train' / 'b.mp4'}' is not a video")


def test_once_an_epoch_is_told_to_be_once(tmp_path, capsys):
    values = {**STREAMED, "eval_strategy": "epoch", "max_steps": 1, "max_train_clips": 2, "max_evaluation_clips": 1}
    visual_initialing.train(stage1_flags(tmp_path / "run", **values))
    expected = "A stream has no epochs: --eval_strategy epoch and --save_strategy epoch mean once, at the end."
    assert expected in capsys.readouterr().out.splitlines()


def train_watched(rank: int, argv: list[str], seen: Path, port: int) -> None:
    as_process(rank, port)
    make_item = streaming.StreamedClipDataset.__getitem__

    def watched(self, clip):
        with (seen / str(rank)).open("a") as file:
            print(clip.number, file=file)
        return make_item(self, clip)

    streaming.StreamedClipDataset.__getitem__ = watched  # in a process of its own
    assert visual_initialing.main(argv) == 0


def train_watched_in_two_processes(folder: Path, **values) -> list[list[int]]:
    """The numbers of the clips that each process decoded."""
    seen = folder.parent / f"seen by {folder.name}"
    seen.mkdir()
    in_two_processes(train_watched, stage1_flags(folder, **values), seen, unused_port())
    return [[int(line) for line in (seen / rank).read_text(encoding="utf-8").split()] for rank in ("0", "1")]


def test_two_processes_train_on_clips_of_their_own(tmp_path):
    """Of five clips, one process has three in a pass and the other two: both continue, and neither waits forever."""
    values = {
        **STREAMED, **FAST, "max_steps": 7, "max_train_clips": 5, "per_device_train_batch_size": 2, "speed": 0.3,
        "save_strategy": "steps", "save_steps": 4,
    }  # fmt: skip
    seen = train_watched_in_two_processes(tmp_path / "whole", **values)
    assert len(log_of(tmp_path / "whole", "loss")) == 7
    source = streaming.FolderRows(load_split(DataArguments(dataset=str(corpus())), "train", 5), "corpus")
    seed = FLaLLMTrainingArguments(output_dir=str(tmp_path)).seed
    for rank, of_rank in enumerate(seen):
        stream = ClipStream(source, 1000, seed, 0, 2, rank)
        assert len(of_rank) >= 14 and of_rank == [clip.number for clip in itertools.islice(stream, len(of_rank))]
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    seen_later = train_watched_in_two_processes(tmp_path / "resumed", **values, resume_from_checkpoint="last")
    assert seen_later == [of_rank[8:] for of_rank in seen]
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys() and not moved(whole, resumed)


# Data sets on a Hub


def _tree(hub, request, repository, revision, folder=None) -> Answer:
    """With folders among the entries, as file systems need them."""
    entries = mini_hub._tree(hub, request, repository, revision, folder).body
    folders = _folders(entry["path"] for entry in entries)
    return Answer(entries + [entry for entry in folders if entry["path"].startswith(f"{folder}/" if folder else "")])


def _paths_info(hub, request, repository, revision) -> Answer:
    entries = mini_hub._paths_info(hub, request, repository, revision).body
    folders = _folders(repository.files(revision))
    return Answer(entries + [entry for entry in folders if entry["path"] in request.json()["paths"]])


def _folders(names) -> list[dict]:
    found = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
    return [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(found)]


class _RangeHandler(mini_hub._Handler):
    """Answers with the requested part of a file."""

    def _send(self, answer: Answer) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if wanted and answer.status == 200 and isinstance(answer.body, bytes):
            answer = Answer(answer.body[int(wanted[1]) : int(wanted[2]) + 1], answer.headers, 206)
        super()._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = mini_hub._Handler.answer


@pytest.fixture
def hub(monkeypatch):
    api, revision = mini_hub.API, mini_hub.REVISION
    routes = (
        (("GET",), rf"{api}/tree/{revision}(?:/(?P<folder>.+))?", _tree),
        (("POST",), rf"{api}/paths-info/{revision}", _paths_info),
    )
    monkeypatch.setattr(mini_hub, "ROUTES", routes + mini_hub.ROUTES)
    monkeypatch.setattr(mini_hub, "LARGE_FILE_SUFFIXES", (*mini_hub.LARGE_FILE_SUFFIXES, ".parquet"))
    monkeypatch.setattr(mini_hub, "_Handler", _RangeHandler)
    with MiniHub() as server:
        mini_hub.connect(monkeypatch, server.url, server.token)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()


def rows_of_corpus(split: str, count: int) -> dict[str, list]:
    clips = load_split(DataArguments(dataset=str(corpus())), split, count)
    content = [{"bytes": Path(row["video"]["path"]).read_bytes(), "path": None} for row in clips]
    return {"text": list(clips["text"]), "video": content}


PUSHED: dict[int, dict[str, bytes]] = {}


def push_corpus(hub: MiniHub, num_files: int = 4) -> None:
    """Make `me/corpus` as `datasets` pushes it; what it once pushed is kept."""
    if num_files not in PUSHED:
        for split, count, files in (("train", 8, num_files), ("validation", 3, 1)):
            push(rows_of_corpus(split, count), "me/corpus", split, files)
        files = hub.repository("me/corpus", "datasets").files()
        PUSHED[num_files] = {name: file.content for name, file in files.items()}
    hub.create_repository("me/corpus", "datasets", PUSHED[num_files])
    hub.requests.clear()


def push(rows: dict[str, list], name: str, split: str = "train", num_files: int = 1) -> None:
    clips = datasets.Dataset.from_dict(rows)
    if "video" in rows:
        clips = clips.cast_column("video", datasets.Video())
    clips.push_to_hub(name, split=split, num_shards=num_files)


def names_of_read_files(hub: MiniHub) -> set[str]:
    return {request.path.split("/")[-1] for request in hub.requests if request.method == "GET"}


def test_a_data_set_on_the_hub_is_not_downloaded_whole(hub, tmp_path):
    push_corpus(hub)
    values = {**STREAMED, "dataset": "me/corpus", "per_device_train_batch_size": 1, "shuffle_buffer_size": 1}
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", **values, max_steps=2))
    files = {name for name in names_of_read_files(hub) if name.endswith(".parquet")}
    assert "validation-00000-of-00001.parquet" in files and 2 <= len(files) <= 4, files  # a clip waits, one is ahead
    run = json.loads((tmp_path / "run" / "training_run.json").read_text(encoding="utf-8"))
    assert run["data"]["hub_id"] == "me/corpus" and run["data"]["splits"]["validation"]["num_clips"] == 3


def test_the_evaluation_split_is_kept_on_disk(hub):
    push_corpus(hub, 1)
    data = DataArguments(dataset=["me/corpus"], streaming=True)
    first = load_split(data, "dev")
    files = {name for name in names_of_read_files(hub) if name.endswith(".parquet")}
    assert files == {"validation-00000-of-00001.parquet"} and first.cache_files
    hub.requests.clear()
    second = load_split(data, "dev")
    assert list(first["text"]) == list(second["text"]) == rows_of_corpus("validation", 3)["text"]
    assert not any(name.endswith(".parquet") for name in names_of_read_files(hub))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("spelling", ["{}", "file://{}", "../{0.name}", "zip://a.mp4::{}", "zip://a.mp4::file://{}"])
def test_files_of_this_machine_that_a_data_set_on_the_hub_names_are_not_read(
    spelling, streaming, hub, tmp_path, monkeypatch
):
    secret = shutil.copy(next((corpus() / "train").glob("*.mp4")), tmp_path / "secret.mp4")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = spelling.format(Path(secret))
    table = pyarrow.table({"text": ["x"], "video": [{"bytes": None, "path": path}]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    files = {"data/train-00000-of-00001.parquet": (tmp_path / "train.parquet").read_bytes()}
    hub.create_repository("me/hostile", "datasets", files)
    data = DataArguments(dataset=["me/hostile"], streaming=streaming)
    text = re.escape(f"row 0 (counted from 0) names {path!r}, which is not a file of the data set.")
    with pytest.raises(ValueError, match=text):
        load_split(data, "train")
    if streaming:
        with pytest.raises(ValueError, match=text):
            next(iter(open_streams(data, arguments_of(tmp_path))))


def rows_on_the_hub(hub: MiniHub, data: DataArguments, split: str, tmp_path: Path) -> list[dict]:
    if not data.streaming:
        return list(load_split(data, split))
    data.train_split = split
    return [clip.row for clip in open_streams(data, arguments_of(tmp_path)).streams[0].one_pass(0)]


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_and_splits_on_the_hub_in_any_letter_case(streaming, hub, tmp_path, capsys):
    content = rows_of_corpus("train", 2)
    content = {"Video": content["video"], "Text": content["text"], "Begin": ["0.2", None], "Topic": ["t", "t"]}
    clips = datasets.Dataset.from_dict(content).cast_column("Video", datasets.Video())
    name = f"me/cased-{streaming}"  # what is not used is named once for each data set
    clips.push_to_hub(name, split="dev")
    data = DataArguments(dataset=[name], streaming=streaming, shuffle_buffer_size=1)
    found = rows_on_the_hub(hub, data, "validation", tmp_path)
    assert [row["text"] for row in found] == content["Text"]
    assert [float(row["start"]) if row["start"] else None for row in found] == [0.2, None]
    assert all(row["video"]["bytes"] for row in found)
    assert f"{name}: unused columns: Topic.\n" in capsys.readouterr().err


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_other_splits_on_the_hub_are_no_training_clips(streaming, hub, tmp_path):
    push({**rows_of_corpus("train", 2), "Subset": ["train", "Test"]}, "me/mixed")
    data = DataArguments(dataset=["me/mixed"], streaming=streaming, shuffle_buffer_size=1)
    text = (
        "me/mixed (train): row 1 (counted from 0): its column split says 'Test', but it is read as a clip of train. "
        "Move the clip to its own split, or remove the column."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        rows_on_the_hub(hub, data, "train", tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("column", "values", "kind", "text"),
    [
        (
            "text",
            [{"de": "x"}],
            {"de": datasets.Value("string")},
            "the column text must hold text, got {'de': Value('string')}.",
        ),
        ("start_frame", [5], datasets.Value("int64"), "me/odd has a column 'start_frame', which is not recognised"),
        (
            "video",
            [["x"]],
            datasets.List(datasets.Value("string")),
            "The column video of the data set me/odd must hold videos",
        ),
    ],
)
def test_columns_of_other_kinds_on_the_hub(column, values, kind, text, streaming, hub, tmp_path):
    content = {**rows_of_corpus("train", 1), column: values}
    kinds = {"text": datasets.Value("string"), "video": datasets.Video(), column: kind}
    datasets.Dataset.from_dict(content, datasets.Features(kinds)).push_to_hub("me/odd", split="train")
    data = DataArguments(dataset=["me/odd"], streaming=streaming)
    with pytest.raises(ValueError, match=re.escape(text)):
        rows_on_the_hub(hub, data, "train", tmp_path)


def test_bytes_are_read_and_not_a_file_that_happens_to_have_their_name(tmp_path, monkeypatch):
    first, second = sorted((corpus() / "train").glob("*.mp4"))[:2]
    shutil.copy(second, tmp_path / "a.mp4")
    monkeypatch.chdir(tmp_path)
    video = {"bytes": first.read_bytes(), "path": "a.mp4"}
    assert fetch_content(video) == video
    assert checked_row({"text": "x", "video": video}, "text", 0, "corpus", VideoModality)["video"] == video


def test_passes_over_the_files_of_a_data_set_on_the_hub(hub, tmp_path):
    push_corpus(hub)
    texts = sorted(rows_of_corpus("train", 8)["text"])
    data = DataArguments(dataset=["me/corpus"], streaming=True, shuffle_buffer_size=3)
    (stream,) = open_streams(data, arguments_of(tmp_path)).streams
    assert (stream.source.num_parts, stream.source.num_clips) == (4, 8)
    first, second = ([clip.row["text"] for clip in stream.one_pass(number)] for number in (0, 1))
    assert first != second and sorted(first) == sorted(second) == texts
    for num_processes in (2, 5):
        shares = [ClipStream(stream.source, 3, 0, 0, num_processes, index) for index in range(num_processes)]
        assert sorted(clip.row["text"] for share in shares for clip in share.one_pass(1)) == texts
    assert {clip.source for clip in stream.one_pass(0)} == {f"me/corpus (train, file {n} of 4)" for n in (1, 2, 3, 4)}
    data.max_train_clips = 3
    (stream,) = open_streams(data, arguments_of(tmp_path)).streams
    assert stream.source.num_clips == 3
    assert sorted(clip.row["text"] for clip in stream.one_pass(0)) == sorted(rows_of_corpus("train", 3)["text"])


def test_videos_that_are_files_on_the_hub(hub, tmp_path, processor):
    folder = video_folder(tmp_path, "file_name,text\na.mp4,x\nb.mp4,y\n")
    video_folder(tmp_path, "file_name,text\nc.mp4,z\n", ("c.mp4",), split="validation")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    hub.create_repository("me/folder", "datasets", files)
    data = DataArguments(dataset=["me/folder"], streaming=True)
    expected = SignClipDataset(load_split(DataArguments(dataset=str(folder)), "train"), processor)
    hub.requests.clear()
    clips = list(open_streams(data, arguments_of(tmp_path)).streams[0].one_pass(0))
    assert not any(name.endswith(".mp4") for name in names_of_read_files(hub))
    for (item,) in DataLoader(StreamedClipDataset(processor), sampler=clips, num_workers=1, collate_fn=list):
        assert_same_items(item, expected[["x", "y"].index(item["text"])])
    assert {name for name in names_of_read_files(hub) if name.endswith(".mp4")} == {"a.mp4", "b.mp4"}
    (row,) = load_split(data, "dev", max_clips=9)
    assert row["text"] == "z" and row["video"]["bytes"] == files["validation/c.mp4"]
    downloaded = load_split(DataArguments(dataset=["me/folder"]), "train")
    contents = [Path(row["video"]["path"]).read_bytes() for row in downloaded]
    assert contents == [files["train/a.mp4"], files["train/b.mp4"]]


@pytest.mark.parametrize("streams", [True, False])
def test_a_data_set_on_the_hub_mixed_with_a_folder(streams, hub, tmp_path):
    push_corpus(hub)
    values = {**WITHOUT_EVALUATION, "dataset": ["me/corpus", corpus()], "streaming": streams, "max_steps": 2}
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", **values, dataset_weights=[2, 1]))
    run = json.loads((tmp_path / "run" / "training_run.json").read_text(encoding="utf-8"))
    assert (run["data"]["hub_id"], run["data"]["other_sources"]) == ("me/corpus", [corpus().name])
    num_clips = None if streams else 8 + NUM_CLIPS["train"]
    assert run["data"]["splits"]["train"]["num_clips"] == num_clips
    assert len(log_of(tmp_path / "run", "loss")) == 2


def test_mistakes_in_a_data_set_on_the_hub(hub, tmp_path, capsys):
    push_corpus(hub, 2)
    values = {**STREAMED, "dataset": "me/corpus", "max_steps": 9}

    def error(**changed) -> str:
        return error_of(visual_initialing.main, stage1_flags(tmp_path / "run", **{**values, **changed}), capsys)

    expected = "`words` must be a column of me/corpus (train), got columns ['text', 'video']. Pass --text_column."
    assert error(text_column="words") == expected
    assert error(dataset="me/none").startswith(
        "--dataset 'me/none' is neither a local folder nor a data set on the Hub"
    )
    push({"text": ["x"]}, "me/texts")
    assert error(dataset="me/texts") == (
        "`video` or `visual_features` or `poses` must be a column of the data set me/texts, got columns ['text']."
    )
    repository = hub.repository("me/corpus", "datasets")
    repository.commit({name: file for name, file in repository.files().items() if name != "README.md"})
    assert error(dataset=["me/corpus", corpus()]) == (
        "--dataset_weights must be given: me/corpus does not say how many clips it has, so the data sets cannot be "
        "mixed in proportion."
    )
    assert not (tmp_path / "run").exists()
    push({**rows_of_corpus("train", 8), "text": ["x"] * 7 + [""]}, "me/mistaken", num_files=2)
    push(rows_of_corpus("validation", 1), "me/mistaken", "validation")
    assert error(dataset="me/mistaken") == (
        "me/mistaken (train, file 2 of 2): the sentence in row 3 (counted from 0) is empty. Every clip needs its "
        "sentence."
    )
