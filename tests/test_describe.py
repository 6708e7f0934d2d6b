"""`flallm describe`: models of images and videos, columns of descriptions, interrupted runs, broken clips."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_corpus import corpus, error_of, flags
from tiny_describers import DESCRIBERS, save_text_encoder
from torch.testing import assert_close
from two_processes import command_in_two_processes

from processing.video_decoding_slt import decode_video
from train_scripts.arguments.description_arguments import PROMPT
from train_scripts.clips.description_store import read_descriptions
from train_scripts.clips.splits import load_split
from train_scripts.commands import describe_clips
from train_scripts.runs.describers import ModelDescriber, ReadClip, segments_of
from train_scripts.runs.sentence_encoder import load_sentence_encoder

ON_CPU = {"dtype": "float32", "device": "cpu", "disable_tqdm": True, "max_new_tokens": 4, "embeddings_dtype": "float32"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder of tiny describers and a text encoder. Tests must not change it."""
    folder = tmp_path_factory.mktemp("models")
    for name, save in DESCRIBERS.items():
        save(folder / name)
    save_text_encoder(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Two clips of the tiny corpus, one of them a part of its file. Tests must not change it."""
    split = tmp_path_factory.mktemp("data") / "corpus" / "dev"
    split.mkdir(parents=True)
    for name, source in zip(("a.mp4", "b.mp4"), sorted((corpus() / "test").glob("*.mp4")), strict=False):
        shutil.copy(source, split / name)
    write_table(split, [{"file_name": "a.mp4", "end": 0.5}, {"file_name": "b.mp4"}])
    return split.parent


def write_table(split: Path, rows: list[dict[str, Any]]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    with (split / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*columns, "text"])
        writer.writeheader()
        writer.writerows({**row, "text": "a sentence"} for row in rows)


def arguments(clips: Path, models: Path, output: Path, **values: Any) -> list[str]:
    defaults = {"dataset": clips, "output_dir": output, "text_encoder_name_or_path": models / "bert"}
    if "description_column" not in values:
        defaults["describer_name_or_path"] = models / "llava_onevision"
    return flags(**{**defaults, **ON_CPU, **values})


def describe(clips: Path, models: Path, output: Path, **values: Any) -> dict[str, Any]:
    """-> what the files of the split hold, by name"""
    assert describe_clips.main(arguments(clips, models, output, **values)) == 0
    return found_in(output)


def found_in(output: Path) -> dict[str, Any]:
    return {path.stem: read_descriptions(path) for path in sorted((output / "validation").glob("*.safetensors"))}


def copied(clips: Path, folder: Path) -> Path:
    """-> the folder of the split in a copy"""
    return Path(shutil.copytree(clips, folder)) / "dev"


def answers_noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that describers will say, in order, also nothing."""
    said: list[str] = []
    texts_of = ModelDescriber.texts_of

    def noted(self: ModelDescriber, clip: ReadClip) -> Iterator[list[str]]:
        for batch in texts_of(self, clip):
            said.extend(batch)
            yield batch

    monkeypatch.setattr(ModelDescriber, "texts_of", noted)
    return said


@pytest.mark.parametrize("kind", DESCRIBERS)
@pytest.mark.parametrize("values", [{}, {"segment_frames": 8}], ids=["images", "videos"])
@pytest.mark.slow
def test_a_model_describes_every_clip(kind, values, clips, models, tmp_path, capsys, monkeypatch):
    output = tmp_path / "descriptions"
    said = answers_noted(monkeypatch)
    found = describe(clips, models, output, describer_name_or_path=models / kind, batch_size=2, **values)
    step = values.get("segment_frames", 4)
    lengths = [decode_video(clips / "dev" / "a.mp4", end=0.5), decode_video(clips / "dev" / "b.mp4")]
    lengths = [len(video.frames) for video in lengths]
    encoder = load_sentence_encoder(str(models / "bert"))
    for clip, num_frames in zip(found.values(), lengths, strict=True):
        assert clip.num_frames == num_frames
        bounds = [[first, min(first + step, num_frames)] for first in range(0, num_frames, step)]
        texts, said = said[: len(bounds)], said[len(bounds) :]
        assert clip.texts == [text for text in texts if text] != []
        assert clip.frames.tolist() == [each for each, text in zip(bounds, texts, strict=True) if text]
        assert_close(clip.embeddings, encoder(clip.texts), atol=1e-5, rtol=1e-5)
    facts = json.loads((output / "descriptions.json").read_text(encoding="utf-8"))
    assert (facts["describer"], facts["prompt"], facts["text_encoder"]) == (kind, PROMPT, "bert")
    assert facts["clips"] == {"validation": 2} and facts["width"] == 16 and facts["pooling"] == "mean"
    assert str(models) not in (output / "README.md").read_text() + json.dumps(facts)
    number = sum(-(-num_frames // step) for num_frames in lengths)
    printed = capsys.readouterr().out
    assert f"To do: 2 clips, {number} descriptions, at most {4 * number} new tokens (4 each).\n" in printed
    assert re.search(r"The first [12] took \d+ s: all take about \d+ s\.\n", printed)
    assert re.search(rf"\nDescribed: 2 validation clips, in \d+ s: {output}\n$", printed)


def test_frames_about_which_the_model_says_nothing_are_not_described(clips, models, tmp_path, monkeypatch, capsys):
    def texts_of(self: ModelDescriber, clip: ReadClip) -> Iterator[list[str]]:
        yield ["" if first or clip.num_frames == 13 else "rises" for first, _ in clip.frames]

    monkeypatch.setattr(ModelDescriber, "load", lambda *arguments: None)
    monkeypatch.setattr(ModelDescriber, "texts_of", texts_of)
    assert describe_clips.main(arguments(clips, models, tmp_path / "store")) == 1
    (found,) = found_in(tmp_path / "store").values()
    assert (found.texts, found.frames.tolist()) == (["rises"], [[0, 4]])
    assert "a.mp4#0.0-0.5 (dev): the describer said nothing about it\n" in capsys.readouterr().err


def test_planned_clips_hold_no_videos(clips, models, tmp_path, monkeypatch):
    """Those of a data set on the Hub would be in memory, all at once."""
    planned: list[Any] = []
    monkeypatch.setattr(describe_clips, "_describe_clips", lambda todo, *others: planned.extend(todo))
    describe_clips.main(arguments(clips, models, tmp_path / "store"))
    assert len(planned) == 2
    assert not any("video" in value for each in planned for value in vars(each).values() if isinstance(value, dict))


@pytest.mark.slow
def test_a_description_is_what_the_model_says_of_its_frame_alone(clips, models, tmp_path):
    """The first new tokens of plain generation, without batches."""
    found = describe(clips, models, tmp_path / "store", batch_size=3, description_stride=5)
    describer = ModelDescriber(describe_clips.VIDEOS, arguments_of(models))
    describer.load(torch.device("cpu"), torch.float32)
    row = load_split(describe_clips.DatasetArguments([str(clips)]), "dev")[1]
    frames = decode_video(row["video"]).frames[::5]
    texts = []
    for frame in frames:
        content = [{"type": "image", "image": frame}, {"type": "text", "text": PROMPT}]
        inputs = describer.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        tokens = describer.model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
        texts.append(describer.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip())
    assert found["b"].texts == [text for text in texts if text]


def arguments_of(models: Path, **values: Any) -> Any:
    values = {"max_new_tokens": 4, **values}
    return describe_clips.DescriberArguments(str(models / "llava_onevision"), **values)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_another_is_refused(clips, models, tmp_path, capsys, monkeypatch):
    output = tmp_path / "store"
    first = describe(clips, models, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    damaged = output / "validation" / "b.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    capsys.readouterr()
    again = describe(clips, models, output)
    assert f"To do: 1 clips, {len(first['b'].texts)} descriptions" in capsys.readouterr().out
    assert again["b"].texts == first["b"].texts
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    assert [path.stem for path in before if after[path] != before[path]] == ["b"]
    monkeypatch.setattr(ModelDescriber, "load", None)  # nothing to do: the model is not loaded
    describe(clips, models, output)
    assert "To do: 0 clips, 0 descriptions, at most 0 new tokens" in capsys.readouterr().out
    error = error_of(describe_clips.main, arguments(clips, models, output, description_prompt="And now?"), capsys)
    assert error.startswith(f"--output_dir {output} was made with prompt 'Describe only") and "not 'And now?'" in error
    other = shutil.copytree(models / "llava_onevision", tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    error = error_of(describe_clips.main, arguments(clips, models, output, describer_name_or_path=other), capsys)
    assert re.search(r"was made with describer 'llava_onevision' \(fingerprint \w{12}\), not 'other' \(finger", error)


@pytest.mark.slow
def test_a_changed_video_is_described_anew(clips, models, tmp_path, capsys):
    split = copied(clips, tmp_path / "data")
    describe(split.parent, models, tmp_path / "store")
    shutil.copy(split / "a.mp4", split / "b.mp4")
    capsys.readouterr()
    found = describe(split.parent, models, tmp_path / "store")
    assert "To do: 1 clips" in capsys.readouterr().out
    assert found["b"].num_frames == len(decode_video(split / "a.mp4").frames)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(clips, models, tmp_path):
    one = describe(clips, models, tmp_path / "one")
    command_in_two_processes("commands.describe_clips", arguments(clips, models, tmp_path / "two"))
    two = found_in(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) == 2
    for name, clip in one.items():
        assert clip.texts == two[name].texts and torch.equal(clip.frames, two[name].frames)
        assert_close(clip.embeddings, two[name].embeddings, atol=1e-5, rtol=1e-5)
    for name in ("descriptions.json", "README.md", "validation/metadata.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_broken_clips_are_left_out_and_named(clips, models, tmp_path, capsys):
    split = copied(clips, tmp_path / "data")
    (split / "broken.mp4").write_bytes(b"no video")
    rows = [{"file_name": name, "notes": "Both hands rise."} for name in ("broken.mp4", "a.mp4", "b.mp4")]
    rows[2]["notes"] = '[{"start": 0, "end": 1000, "text": "too long"}]'
    write_table(split, rows)
    argv = arguments(split.parent, models, tmp_path / "store", description_column="notes")
    assert describe_clips.main(argv) == 1
    printed = capsys.readouterr()
    assert "Left out 2 broken clip(s):\n  broken.mp4 (dev): " in printed.err
    assert re.search(
        r"\n  b\.mp4 \(dev\): descriptions must follow each other within the \d+ frames of the clip, got one of "
        r"frames 0 to 1000 after frame 0\n",
        printed.err,
    )
    assert "all take about" in printed.out  # though the first clip was broken
    assert "Described: 1 validation clips" in printed.out
    assert list(found_in(tmp_path / "store")) == ["a"]


ODD = ['Die Hände: „flach“, dann ✋\u2028"zu"', "=1+1;\t'\\n'"]


def test_descriptions_of_people_come_from_a_column(clips, models, tmp_path, capsys):
    split = copied(clips, tmp_path / "data")
    segments = [{"start": 1, "end": 3, "text": ODD[0]}, {"start": 5, "end": 6, "text": ODD[1]}]
    write_table(
        split,
        [
            {"file_name": "a.mp4", "notes": json.dumps(segments)},
            {"file_name": "b.mp4", "start": 0, "end": 0.4, "notes": "[Beide] Hände ruhen."},
            {"file_name": "b.mp4", "start": 0.4, "end": 0.8, "notes": " "},
        ],
    )
    values = {"description_column": "notes", "description_pooling": "cls"}
    found = describe(split.parent, models, tmp_path / "store", **values)
    assert "unused" not in "".join(capsys.readouterr())
    assert list(found) == ["a", "b_000001"]
    assert found["a"].texts == ODD and found["a"].frames.tolist() == [[1, 3], [5, 6]]
    whole = found["b_000001"]
    assert (whole.texts, whole.num_frames) == (["[Beide] Hände ruhen."], 10)
    assert whole.frames.tolist() == [[0, 10]]
    encoder = load_sentence_encoder(str(models / "bert"), pooling="cls")
    assert_close(found["a"].embeddings, encoder(ODD), atol=1e-5, rtol=1e-5)
    card = (tmp_path / "store" / "README.md").read_text(encoding="utf-8")
    assert "The texts are from the column `notes` of the data set." in card and "with cls pooling." in card
    table = (split / "metadata.csv").read_text(encoding="utf-8")
    (split / "metadata.csv").write_text(table.replace("ruhen", "fallen"), encoding="utf-8")
    assert describe(split.parent, models, tmp_path / "store", **values)["b_000001"].texts == ["[Beide] Hände fallen."]
    assert "To do: 1 clips, 1 descriptions.\n" in capsys.readouterr().out


def test_a_column_that_is_not_there(clips, models, tmp_path, capsys):
    error = error_of(
        describe_clips.main, arguments(clips, models, tmp_path / "store", description_column="notes"), capsys
    )
    assert error.startswith(f"`notes` must be a column of {clips} (dev), got columns [")


@pytest.mark.parametrize(
    ("value", "segments"),
    [
        (None, []),
        ("", []),
        ("[]", []),
        ("[smiles] Both hands rise.", "[smiles] Both hands rise."),
        ('[{"start": 0, "end": 4, "text": "x"}]', [{"start": 0, "end": 4, "text": "x"}]),
        ([{"start": 0, "end": 4, "text": "x"}], [{"start": 0, "end": 4, "text": "x"}]),
        ('[\n {"start": 0, "end": 4,\n  "text": "x"}\n]', [{"start": 0, "end": 4, "text": "x"}]),
        ("[]both hands rise", "[]both hands rise"),
    ],
)
def test_what_a_column_may_hold(value, segments):
    assert segments_of(value) == segments


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('[{"start": 0,', "its descriptions are not valid JSON: "),
        ('[{"start": 4, "end": 4, "text": "x"}]', "descriptions must be a text or [{"),
        ('[{"start": 0.5, "end": 4, "text": "x"}]', "descriptions must be a text or [{"),
        ('[{"start": -1, "end": 4, "text": "x"}]', "descriptions must be a text or [{"),
        ('[{"start": 0, "end": 4}]', "descriptions must be a text or [{"),
        ('[{"start": 0, "end": 4, "text": " "}]', "descriptions must be a text or [{"),
        ('{"start": 0, "end": 4, "text": "x"}', "descriptions must be a text or [{"),
        ("[{" + 100_000 * "[", "its descriptions are not valid JSON: "),
        (7, "descriptions must be a text or [{"),
    ],
)
def test_what_a_column_may_not_hold(value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        segments_of(value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Name either --describer_name_or_path, a model that describes the clips, or --description_column, a"),
        (
            {"describer_name_or_path": "x", "description_column": "y"},
            "Name either --describer_name_or_path, a model that describes the clips, or --description_column, a",
        ),
        (
            {"describer_name_or_path": "x", "segment_frames": 3},
            "--segment_frames must be at least --description_stride, 4, got 3.",
        ),
        ({"describer_name_or_path": "x", "splits": ["train[:9]"]}, "--splits must name whole splits, got 'train[:9]'"),
        ({"describer_name_or_path": "x", "description_prompt": " "}, "--description_prompt must not be empty."),
        ({"describer_name_or_path": "x", "description_stride": 0}, "--description_stride must be 1 or more, got 0."),
        (
            {"describer_name_or_path": "x", "text_encoder_name_or_path": None},
            "`--text_encoder_name_or_path` must name the text encoder that makes the embeddings, such as "
            "google-bert/bert-base-cased with --description_pooling cls, as MMSLT has it.",
        ),
    ],
)
def test_mistakes_in_flags(values, message, tmp_path, capsys):
    defaults = {"dataset": tmp_path, "output_dir": tmp_path / "store", "text_encoder_name_or_path": "y"}
    given = {name: value for name, value in {**defaults, **values}.items() if value is not None}
    assert message in error_of(describe_clips.main, flags(**given), capsys)


def test_models_that_cannot_describe(clips, models, tmp_path, capsys):
    def error(name: Path, **values: Any) -> str:
        argv = arguments(clips, models, tmp_path / "store", describer_name_or_path=name, **values)
        return error_of(describe_clips.main, argv, capsys)

    assert error(models / "bert").startswith(f"'{models / 'bert'}' has no describer that can be loaded: ")
    without = shutil.copytree(models / "llava_onevision", tmp_path / "without")
    (without / "chat_template.jinja").unlink()
    assert error(without).startswith(f"'{without}' has no processor with a chat template. Name a model of")


@pytest.mark.slow
def test_a_describer_in_eight_bits(models):
    settings = arguments_of(models, quantization="int8")
    describer = ModelDescriber(describe_clips.VIDEOS, settings)
    describer.load(torch.device("cpu"), torch.bfloat16)
    kinds = {type(module).__module__ for module in describer.model.get_decoder().modules()}
    assert any("quantized.dynamic" in kind for kind in kinds)
    clip = ReadClip(4, [(0, 4)], [(torch.zeros(1, 3, 40, 40, dtype=torch.uint8), 25.0)])
    assert [len(texts) for texts in describer.texts_of(clip)] == [1]
