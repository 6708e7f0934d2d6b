"""`SignLanguageTranslationPipeline`: every kind of input, scores, word evidence, and what it must not change."""

import copy
import io
import itertools
import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import END, PAD, START, TEXT_MODELS, VOCABULARY_SIZE, tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast, pipeline
from transformers.generation import GenerateEncoderDecoderOutput
from transformers.pipelines.pt_utils import KeyDataset
from video_files import cut, write_pictures, write_video
from without_our_packages import run_without_our_packages

import modeling_flallm.word_evidence_slt as word_evidence_file
from modeling_flallm import SignLanguageTranslationPipeline
from modeling_flallm.choice_slt import best_candidates, chrf_utility
from modeling_flallm.translation_model_slt import eager_twin
from processing import FLaLLMProcessor, FLaLLMVideoProcessor, decode_video

TASK = "sign-language-translation"
SPECIAL_TOKENS = {"<unk>": 0, "<pad>": PAD, "<start>": START, "</s>": END}
SPECIAL_NAMES = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<start>", "eos_token": "</s>"}
NO_SPECIAL_TOKENS = {"bad_words_ids": [[0], [PAD], [START]]}
REMOTE_CODE_SCRIPT = """
import json, sys
from transformers import pipeline

folder, video = sys.argv[1:]
translator = pipeline("sign-language-translation", model=folder, trust_remote_code=True, device="cpu")
print(json.dumps(translator(video, num_beams=2, return_timestamps=True, return_scores=True)))
"""


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Every token but the special ones is a word of its own."""
    vocabulary = SPECIAL_TOKENS | {f"w{token_id}": token_id for token_id in range(4, VOCABULARY_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # A tokenizer that pads on the left must not make the pipeline pad clips there.
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **SPECIAL_NAMES)


def make_processor(tokenizer: PreTrainedTokenizerFast | None = None, **settings) -> FLaLLMProcessor:
    settings = {"frame_sampling_rate": 0.5, **settings}
    video_processor = FLaLLMVideoProcessor(
        size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32}, **settings
    )
    return FLaLLMProcessor(video_processor, tokenizer or word_tokenizer())


def make_pipeline(text: str = "mbart", vision: dict | None = None, settings: dict | None = None, **values):
    """With a model that writes sentences of different lengths, up to 10 tokens, as it likes."""
    model = tiny_model(text, vision)
    model.generation_config.update(max_length=10, forced_eos_token_id=None, num_beams=1)
    return pipeline(TASK, model=model, processor=make_processor(**(settings or {})), device="cpu", **values)


def random_clip(num_frames: int) -> torch.Tensor:
    """With large areas, so that clips differ after the resize too."""
    small = torch.randint(0, 256, (num_frames, 3, 5, 5), dtype=torch.uint8)
    return small.repeat_interleave(8, 2).repeat_interleave(8, 3)


def random_file(path: Path, num_frames: int = 40, fps: int = 10) -> Path:
    return write_video(path, random_clip(num_frames).permute(0, 2, 3, 1).numpy(), fps=fps)


def attention_implementations(model: torch.nn.Module) -> list[str]:
    return [module.config._attn_implementation for module in model.modules() if isinstance(module, PreTrainedModel)]


def set_attention(model: torch.nn.Module, implementation: str) -> None:
    for module in model.text_model.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation(implementation)


@pytest.fixture
def translator() -> SignLanguageTranslationPipeline:
    return make_pipeline()


@pytest.fixture
def video(tmp_path) -> Path:
    return random_file(tmp_path / "clip.mp4")


# Inputs


def test_a_saved_folder_translates_as_its_model_does(tmp_path, video):
    saved = make_pipeline()
    saved.model.generation_config.update(min_new_tokens=3, **NO_SPECIAL_TOKENS)
    saved.save_pretrained(tmp_path / "model")
    translator = pipeline(TASK, model=str(tmp_path / "model"), device="cpu")
    assert type(translator) is SignLanguageTranslationPipeline
    inputs = saved.processor(videos=str(video), return_tensors="pt")
    (sentence,) = saved.processor.batch_decode(saved.model.generate(**inputs))
    assert sentence and translator(str(video)) == {"translation_text": sentence}


def test_every_kind_of_video_gives_the_same_answer(translator, tmp_path, video):
    frames = decode_video(video).frames  # (frames, 3, height, width)
    pictures = frames.permute(0, 2, 3, 1).numpy()
    folder = write_pictures(tmp_path / "frames", pictures)
    expected = translator(str(video), return_scores=True)
    files = sorted(folder.iterdir(), key=lambda path: int(path.stem.removeprefix("frame")))
    kinds = [
        video,
        video.read_bytes(),
        io.BytesIO(video.read_bytes()),
        {"path": str(video), "bytes": None},
        {"video": str(video)},
        frames,
        pictures,
        list(pictures),
        [Image.fromarray(picture) for picture in pictures],
        [str(path) for path in files],
        str(folder),
    ]
    for kind in kinds:
        answer = translator(kind, return_scores=True)
        assert answer["translation_text"] == expected["translation_text"]
        assert answer["score"] == pytest.approx(expected["score"], abs=1e-4)
    assert len(translator(kinds, batch_size=3)) == len(kinds)


def test_one_video_and_several_are_told_apart(tmp_path):
    is_one = FLaLLMVideoProcessor.is_single_video
    (tmp_path / "folder.png").mkdir()
    colour, grey = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    ones = ["clip.mp4", Path("clip.mp4"), b"", {"video": "a.mp4"}, colour, torch.from_numpy(colour)]
    ones += [list(colour), [grey], [Image.fromarray(grey)], ["a.png"], ["a.PNG", Path("b.jpg")], ("a.png",)]
    several = [[], colour[None], [colour], [colour, grey], [[grey]], [b""]]
    several += [["a.mp4"], ("a.mp4", "b.mp4"), [str(tmp_path / "folder.png")]]
    assert [given for given in ones if not is_one(given)] == []
    assert [given for given in several if is_one(given)] == []


@pytest.mark.parametrize("container", [list, tuple, np.stack])
def test_several_videos_give_a_list(translator, container):
    clips = [random_clip(20).numpy() for _ in range(3)]
    assert translator(container(clips)) == [translator(clip) for clip in clips]


def test_no_videos_give_no_answers(translator):
    assert translator([]) == [] and list(translator(iter([]))) == []


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_iterator_is_read_as_the_answers_are_taken(translator, batch_size):
    clips = [random_clip(20) for _ in range(6)]
    taken = []

    def stream():
        for index, clip in enumerate(clips):
            taken.append(index)
            yield clip

    answers = translator(stream(), batch_size=batch_size)
    first = next(answers)
    assert len(taken) <= batch_size + 1
    assert [first, *answers] == translator(clips) and taken == list(range(6))


def test_a_column_of_a_data_set(translator, tmp_path):
    files = [str(random_file(tmp_path / f"{index}.mp4", num_frames=20 + index)) for index in range(3)]
    rows = datasets.Dataset.from_dict({"video": files}).cast_column("video", datasets.Video(decode=False))
    answers = translator(KeyDataset(rows, "video"), batch_size=2)
    assert list(answers) == translator(files)


# Data sets


class Decoder:
    """As `datasets` gives a decoded video: torchcodec's decoder, to which it attaches what it has decoded."""

    def __init__(self, path: str | None = None, content: bytes | None = None):
        self._hf_encoded = {"path": path, "bytes": content}


@pytest.fixture
def files(tmp_path) -> list[str]:
    return [str(random_file(tmp_path / f"{index}.mp4", num_frames=30 + index)) for index in range(3)]


def table(files: list[str], **columns) -> datasets.Dataset:
    """Decoded by `datasets`, which would need torchcodec, beside sound, which needs it, too."""
    columns = {"text": ["a"] * len(files), "gender": ["x"] * len(files), "sound": files, **columns}
    features = {"video": datasets.Video(), "sound": datasets.Audio()}
    rows = datasets.Dataset.from_dict({"video": files, **columns})
    for name, kind in features.items():
        rows = rows.cast_column(name, kind) if name in rows.column_names else rows
    return rows


def paths_of(rows: datasets.Dataset) -> list[str]:
    return [video["path"] for video in rows.cast_column("video", datasets.Video(decode=False))["video"]]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    "given",
    [
        lambda rows: rows,
        lambda rows: rows.with_format("torch"),
        lambda rows: rows.with_format("numpy"),
        lambda rows: rows.rename_column("video", "clip"),
        lambda rows: rows.rename_column("video", "Video"),
        lambda rows: datasets.Dataset.from_dict({"video": paths_of(rows), "text": rows["text"]}),
        lambda rows: rows.with_transform(lambda columns: {"video": [value["path"] for value in columns["video"]]}),
        lambda rows: rows.to_iterable_dataset(),
        lambda rows: rows.to_iterable_dataset().with_format("torch"),
        lambda rows: rows["video"],
        lambda rows: rows.to_iterable_dataset()["video"],
        lambda rows: KeyDataset(rows, "video"),
        lambda rows: list(rows.cast_column("video", datasets.Video(decode=False)).remove_columns("sound")),
        lambda rows: iter(rows.cast_column("video", datasets.Video(decode=False)).remove_columns("sound")),
        lambda rows: [{"video": Decoder(path), "text": "a"} for path in paths_of(rows)],
        lambda rows: [{"VIDEO": Path(path).read_bytes()} for path in paths_of(rows)],
    ],
)
def test_data_sets_columns_and_rows(translator, files, given, batch_size):
    answers = translator(given(table(files)), batch_size=batch_size)
    assert list(answers) == translator(files)


def test_one_row(translator, files):
    (row,) = table(files[:1]).cast_column("video", datasets.Video(decode=False)).remove_columns("sound")
    expected = translator(files[0])
    assert translator(row) == expected
    assert translator(row | {"video": Decoder(files[0])}) == translator(Decoder(files[0])) == expected
    content = Path(files[0]).read_bytes()
    assert translator(row | {"video": {"path": "gone.mp4", "bytes": content}}) == expected
    assert translator(row | {"start": None, "end": None}) == expected


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
@pytest.mark.parametrize("names", [("start", "end"), ("Start", "END")])
def test_rows_have_parts_of_videos(translator, files, form, names):
    starts, ends = [0.5, None, 1.0], [None, 2.0, 2.5]
    rows = table(files, **dict(zip(names, (starts, ends), strict=True))).with_format(form)
    expected = [
        translator({"video": file, "start": start, "end": end})
        for file, start, end in zip(files, starts, ends, strict=True)
    ]
    assert list(translator(rows)) == expected
    assert list(translator(rows, end=3)) == [translator({"video": files[0], "start": 0.5, "end": 3}), *expected[1:]]


def test_an_empty_data_set_has_no_answers(translator, files):
    assert list(translator(table(files).select([]))) == []


@pytest.mark.parametrize(
    ("columns", "unread"),
    [
        ({"start_time": [1.0] * 3}, "['start_time']"),
        ({"START_REALIGNED": [1.0] * 3, "END_REALIGNED": [2.0] * 3}, "['END_REALIGNED', 'START_REALIGNED']"),
        ({"start": [1.0] * 3, "frameEnd": [20] * 3}, "['frameEnd']"),
        ({"num_beams": [3] * 3}, "['num_beams']"),
    ],
)
def test_columns_that_seem_to_say_which_part_is_meant_are_not_passed_over(translator, files, columns, unread):
    rows = table(files, **columns)
    message = (
        "Video 0 of the inputs cannot be translated: A video given as a dictionary takes only the keys video, "
        f"start, end, source_fps, got {unread}. Rename the start and end times, in seconds, to start and end, and "
        "remove the others."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        list(translator(rows))
    with_exact_names = rows.add_column("start", [0.0] * 3) if "start" not in columns else rows
    rows = with_exact_names.add_column("end", [2.0] * 3)
    if "num_beams" not in columns:
        assert len(list(translator(rows))) == 3


def test_data_sets_and_rows_that_cannot_be_translated(translator, files, monkeypatch):
    rows = table(files)
    plain = rows.cast_column("video", datasets.Video(decode=False)).remove_columns("sound")
    with pytest.raises(ValueError, match=re.escape("Pass one split of the data set, such as dataset['test']; got")):
        translator(datasets.DatasetDict({"test": rows}))
    message = "`video` must be a column of the data set, got columns ['text', 'gender', 'sound']. Rename the one with"
    with pytest.raises(ValueError, match=re.escape(message)):
        translator(rows.remove_columns("video"))
    message = (
        "`video` of a dictionary must be one video, got 2 of them. From a data set, pass `dataset.select(range(...))`,"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        translator(plain[:2])
    with pytest.raises(ValueError, match=re.escape("A row must have a video in `video`, got ['gender', 'text'].")):
        translator(plain.remove_columns("video")[0])
    message = "Video 1 of the inputs cannot be translated: A row must have a video in `video`, got None."
    with pytest.raises(ValueError, match=re.escape(message)):
        translator([plain[0], plain[0] | {"video": None}])
    with pytest.raises(ValueError, match=re.escape("A row must name 'video' once, got the keys ['Video', 'video'].")):
        translator({"video": files[0], "Video": files[1]})
    message = "got ['start']. Rename the start and end times"
    with pytest.raises(ValueError, match=re.escape(message) + '.* Pass {"video": {"path": ...}, "start": ..., "end"'):
        translator({"path": files[0], "bytes": None, "start": 1.0})
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)
    for reading in (lambda: (rows[index] for index in range(3)), lambda: torch.utils.data.Subset(rows, [1])):
        with pytest.raises(ImportError, match=re.escape("pass the data set itself, or rows whose videos are not deco")):
            list(translator(reading()))


def test_a_stream_from_the_hub_is_read(translator, files, monkeypatch):
    def opened(path: str, mode: str) -> io.BytesIO:
        if "gone" in path:
            raise FileNotFoundError(path)
        return io.BytesIO(Path(files[0]).read_bytes())

    monkeypatch.setattr("fsspec.open", opened)
    address = "hf://datasets/me/corpus/clip.mp4"
    stream = ({"video": {"path": path, "bytes": None}} for path in (address, f"zip://a.mp4::{address}", "hf://gone"))
    answers = translator(stream)
    assert next(answers) == next(answers) == translator(files[0])
    with pytest.raises(
        ValueError, match=re.escape("Video 2 of the inputs cannot be translated: 'hf://gone' could not")
    ):
        next(answers)


@pytest.mark.parametrize("text", TEXT_MODELS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_batch_size_changes_nothing(text, num_beams):
    translator = make_pipeline(text, {"temporal_blocks": ["K5", "P2"]})
    clips = [random_clip(length) for length in (30, 9, 61, 22, 44)]
    wanted = {"num_beams": num_beams, "return_scores": True, "return_attention": True, "source_fps": 10}
    alone = [translator(clip, **wanted) for clip in clips]
    for one, other in zip(alone, translator(clips, batch_size=3, **wanted), strict=True):
        assert one["translation_text"] == other["translation_text"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        np.testing.assert_allclose(one["attention"], other["attention"], atol=1e-4)
        np.testing.assert_array_equal(one["token_times"], other["token_times"])
        assert [word["word"] for word in one["words"]] == [word["word"] for word in other["words"]]


def test_start_and_end_for_all_and_for_each(translator, tmp_path):
    files = [str(random_file(tmp_path / f"{index}.mp4")) for index in range(2)]

    def expected(file: str, **part) -> dict:
        inputs = translator.processor(videos=file, return_tensors="pt", **part)
        return {"translation_text": translator.processor.batch_decode(translator.model.generate(**inputs))[0]}

    assert translator(files, start=1.5, end=3) == [expected(file, start=1.5, end=3) for file in files]
    each = [{"video": files[0], "start": 2}, {"video": files[1], "end": 1.1}]
    assert translator(each) == [expected(files[0], start=2), expected(files[1], end=1.1)]
    assert translator(each, start=0.5) == [expected(files[0], start=2), expected(files[1], start=0.5, end=1.1)]
    array = decode_video(files[0]).frames
    assert translator({"video": array, "start": 2, "source_fps": 10}) == expected(files[0], start=2)


# Generation


def test_generation_arguments_by_name_in_a_dictionary_and_for_all_calls(translator):
    clip = random_clip(30)
    inputs = translator.processor(videos=clip, return_tensors="pt")
    arguments = {
        "num_beams": 3,
        "max_new_tokens": 4,
        "min_new_tokens": 4,
        "no_repeat_ngram_size": 1,
        **NO_SPECIAL_TOKENS,
    }
    token_ids = translator.model.generate(**inputs, **arguments)
    expected = {"translation_text": translator.processor.batch_decode(token_ids)[0]}
    assert len(expected["translation_text"].split()) == 4
    assert translator(clip, **arguments) == expected
    assert translator(clip, generate_kwargs=arguments) == expected
    always = pipeline(TASK, model=translator.model, processor=translator.processor, device="cpu", **arguments)
    assert always(clip) == expected
    assert len(always(clip, max_new_tokens=2, min_new_tokens=2)["translation_text"].split()) == 2
    assert always(clip) == expected
    values = translator.model.generation_config.to_dict() | arguments
    config = GenerationConfig.from_dict({name: value for name, value in values.items() if name != "max_length"})
    answer = translator(clip, generation_config=config, return_scores=True)
    assert answer["translation_text"] == expected["translation_text"] and not config.output_scores


def test_nothing_of_a_call_leaks_into_the_next(translator):
    clip = random_clip(30)
    settings = translator.model.generation_config.to_dict()
    before = translator(clip)
    translator(clip, num_beams=3, max_new_tokens=2, return_attention=True, return_scores=True, source_fps=10, start=1)
    assert translator(clip) == before and set(before) == {"translation_text"}
    assert translator.model.generation_config.to_dict() == settings


def test_alternatives_come_best_first(translator):
    clips = [random_clip(30), random_clip(12)]
    wanted = {"num_beams": 4, "num_return_sequences": 3, "return_scores": True, "return_timestamps": True}
    answers = translator(clips, batch_size=2, source_fps=10, **wanted)
    for clip, alternatives in zip(clips, answers, strict=True):
        scores = [alternative["score"] for alternative in alternatives]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True)
        assert translator(clip, num_beams=4)["translation_text"] == alternatives[0]["translation_text"]
        for alternative in alternatives:
            words = [word["word"] for word in alternative["words"]]
            assert words == alternative["translation_text"].split()


@pytest.mark.parametrize("generation", [{}, {"num_beams": 6}])
def test_the_best_of_several_candidates(translator, generation):
    """It is asked for two, of texts that the model wrote; a calibration says nothing of their scores."""
    clip = random_clip(30)
    translator.model.config.confidence_calibration = {"slope": 1.0, "intercept": 0.0}
    wanted = {**generation, "num_candidates": 6, "choose_by": chrf_utility, "num_return_sequences": 2}
    torch.manual_seed(1)
    chosen = translator(clip, source_fps=10, return_scores=True, return_timestamps=True, **wanted)
    torch.manual_seed(1)
    sampling = {} if generation else {"do_sample": True}
    candidates = translator(clip, **generation, **sampling, num_return_sequences=6)
    texts = [candidate["translation_text"] for candidate in candidates]
    scores = [answer["score"] for answer in chosen]
    if generation:  # weighted, which the test of `generate` computes
        assert {answer["translation_text"] for answer in chosen} <= set(texts) and 0 >= scores[0] >= scores[1]
    else:
        best = best_candidates(texts, chrf_utility, 2)
        assert [answer["translation_text"] for answer in chosen] == [texts[index] for index, _ in best]
        assert scores == pytest.approx([np.log(value) for _, value in best])
    for answer in chosen:
        assert set(answer) == {"translation_text", "score", "words"}
        assert [word["word"] for word in answer["words"]] == answer["translation_text"].split()
    assert "confidence" in translator(clip, return_scores=True)


@pytest.mark.parametrize("text", TEXT_MODELS)
@pytest.mark.parametrize(
    "arguments", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 4}]
)
def test_scores_and_probabilities_are_those_of_the_model(text, arguments, monkeypatch):
    """Against one plain forward over what was generated; `length_penalty` 1, temperature 1, nothing filtered."""
    translator = make_pipeline(text)
    generate, outputs = translator.model.generate, []
    monkeypatch.setattr(
        translator.model, "generate", lambda **kwargs: outputs.append(generate(**kwargs)) or outputs[-1]
    )
    clip = random_clip(30)
    answers = translator(clip, return_scores=True, return_timestamps=True, source_fps=10, top_k=0, **arguments)
    answers = answers if isinstance(answers, list) else [answers]
    inputs = translator.processor(videos=clip, return_tensors="pt")
    for answer, token_ids in zip(answers, outputs[0].sequences.tolist(), strict=True):
        if END in token_ids[1:]:
            token_ids = token_ids[: token_ids.index(END, 1) + 1]
        if PAD in token_ids[1:]:
            continue  # M2M100 gives padding different positions in one pass and step by step
        logits = translator.model(**inputs, decoder_input_ids=torch.tensor([token_ids[:-1]])).logits[0]
        steps = enumerate(token_ids[1:])
        log_probabilities = [logits[step].log_softmax(-1)[token_id].item() for step, token_id in steps]
        assert answer["score"] == pytest.approx(np.mean(log_probabilities), abs=1e-3)
        of_words = [value for value, token_id in zip(log_probabilities, token_ids[1:], strict=True) if token_id > END]
        probabilities = [word["probability"] for word in answer["words"]]
        np.testing.assert_allclose(probabilities, np.exp(of_words), rtol=1e-3, atol=1e-6)


def test_a_score_ends_at_the_end_token_of_the_model_where_a_given_configuration_names_none(translator):
    sequences = torch.tensor([[START, 5, END, PAD], [START, 5, 6, 7]])
    scores = tuple(torch.randn(2, VOCABULARY_SIZE) for _ in range(3))
    output = GenerateEncoderDecoderOutput(sequences=sequences, scores=scores)
    log_probabilities = torch.stack(scores, 1).log_softmax(-1).gather(2, sequences[:, 1:, None])[..., 0]
    expected = torch.stack([log_probabilities[0, :2].mean(), log_probabilities[1].mean()])
    for arguments in ({}, {"generation_config": GenerationConfig(max_new_tokens=3)}, {"eos_token_id": [END, 9]}):
        torch.testing.assert_close(translator._scores(output, arguments), expected)


# Word evidence


@pytest.mark.parametrize("text", TEXT_MODELS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_is_what_generate_attends_to_and_follows_the_beams(text, implementation):
    translator = make_pipeline(text)
    model = translator.model
    clips = [random_clip(24), random_clip(40)]
    wanted = {"num_beams": 3, "num_return_sequences": 2, "min_new_tokens": 3, **NO_SPECIAL_TOKENS}
    reference = copy.deepcopy(model)
    set_attention(reference, "eager")
    set_attention(model, implementation)
    inputs = translator.processor(videos=clips, return_tensors="pt")
    output = reference.generate(**inputs, **wanted, output_attentions=True, return_dict_in_generate=True)
    before = attention_implementations(model), {name: value.data_ptr() for name, value in model.state_dict().items()}

    answers = translator(clips, batch_size=2, return_attention=True, source_fps=10, **wanted)

    assert before == (
        attention_implementations(model),
        {name: value.data_ptr() for name, value in model.state_dict().items()},
    )
    for row, answer in enumerate(itertools.chain(*answers)):
        num_tokens = answer["attention"].shape[1]
        assert len(answer["words"]) == len(answer["attention"]) > 0
        for step in range(len(answer["words"])):
            layers = torch.stack(output.cross_attentions[step])  # (layers, beams, heads, 1, visual tokens)
            expected = layers[:, output.beam_indices[row, step], :, 0].mean((0, 1))
            np.testing.assert_allclose(answer["attention"][step], expected[:num_tokens], atol=1e-4)


def test_the_copy_that_attends_step_by_step_takes_no_memory_of_its_own():
    model = tiny_model().text_model
    twin = eager_twin(model)
    for (name, own), (other_name, other) in zip(model.state_dict().items(), twin.state_dict().items(), strict=True):
        assert name == other_name and own.data_ptr() == other.data_ptr()


def test_rows_of_attention_sum_to_one_and_peaks_are_theirs(translator, video):
    answer = translator(str(video), return_attention=True, min_new_tokens=5, **NO_SPECIAL_TOKENS)
    attention, token_times = answer["attention"], answer["token_times"]
    assert attention.dtype == np.float32 and attention.shape == (len(answer["words"]), len(token_times))
    np.testing.assert_allclose(attention.sum(1), 1, atol=1e-5)
    for row, word in zip(attention, answer["words"], strict=True):
        assert word["peak"] == pytest.approx(token_times[row.argmax()], abs=1e-3)
        assert 0 <= word["start"] <= word["peak"] <= word["end"] <= 4
        assert word["start"] < word["end"]
    plain = translator(str(video), return_timestamps=True, min_new_tokens=5, **NO_SPECIAL_TOKENS)
    assert plain["words"] == answer["words"] and "attention" not in plain


def test_an_interval_goes_down_to_half_of_the_peak_on_both_sides():
    attention = np.array([0.19, 0.05, 0.11, 0.2, 0.1, 0.09, 0.19, 0.06])
    times = np.arange(8) * 0.5
    times = word_evidence_file.VisualTokenTimes(times, times - 0.25, times + 0.25)
    interval = word_evidence_file._interval(attention, times)
    assert interval == {"start": 0.75, "end": 2.25, "peak": 1.5}


@pytest.mark.parametrize("start, end", [(None, None), (1.03, None), (1.0, 2.5), (0.37, 3.21)])
@pytest.mark.parametrize("settings", [{"frame_sampling_rate": 0.3}, {"fps": 4.0}, {"max_num_frames": 7}])
def test_token_times_are_the_times_of_the_frames_in_the_file(start, end, settings, video):
    translator = make_pipeline(settings={"frame_sampling_rate": None, **settings})
    sample = translator.processor.video_processor.sample_frame_indices
    expected = decode_video(video, start, end, sample_frame_indices=sample).timestamps
    answer = translator(str(video), start=start, end=end, return_attention=True)
    np.testing.assert_allclose(answer["token_times"], expected, atol=1e-6)
    for word in answer["words"]:
        assert expected[0] - 1e-3 <= word["start"] <= word["peak"] <= word["end"] <= (end or 4) + 0.1


def test_arrays_have_seconds_once_their_frame_rate_is_known(translator, video):
    array = decode_video(video).frames
    expected = translator(str(video), return_timestamps=True, start=1)
    assert translator(array, return_timestamps=True, start=1, source_fps=10) == expected
    halved = translator(array, return_timestamps=True, start=2, source_fps=5)
    assert [word["peak"] for word in halved["words"]] == pytest.approx(
        [2 * word["peak"] for word in expected["words"]], abs=2e-3
    )
    with pytest.raises(ValueError, match=re.escape("has no frame rate, so its words cannot be timed. Pass")):
        translator(array, return_timestamps=True)


TEMPORAL_MODULES = [["K5"], ["K3", "P2"], ["K5", "P2", "K5", "P2"], ["P3", "K3"], ["K7", "K3", "P3"]]


@pytest.mark.parametrize("padding", ["zero", "none", "replicate"])
@pytest.mark.parametrize("blocks", TEMPORAL_MODULES, ids="".join)
def test_a_visual_token_stands_in_the_middle_of_the_frames_that_move_it(blocks, padding):
    vision = {"temporal_blocks": blocks, "temporal_padding": padding, "hidden_size": 96}
    vision_model = tiny_model(vision=vision).vision_model
    for num_frames in range(16, 40):
        features = torch.randn(1, num_frames, vision_model.backbone.num_features, requires_grad=True)
        tokens, _ = vision_model.temporal_module(features, torch.tensor([num_frames]))
        centres = word_evidence_file.visual_token_centres(vision_model, num_frames)
        assert len(centres) == tokens.shape[1] and (np.diff(centres) >= 0).all()
        assert centres[0] >= 0 and centres[-1] <= num_frames - 1
        if num_frames != 24:  # with a remainder, pooling leaves out frames at the end
            continue
        for index, centre in enumerate(centres):
            (gradient,) = torch.autograd.grad(tokens[0, index].sum(), features, retain_graph=True)
            moving = gradient[0].abs().sum(1).nonzero()[:, 0]
            if moving[0] > 0 and moving[-1] < num_frames - 1:  # else it sees beyond the end of the clip
                assert centre == (moving[0] + moving[-1]) / 2


# Words of a text


def words_of(tokenizer: PreTrainedTokenizerFast, pieces: list[str]) -> list[tuple[str, list[str]]]:
    """Words with the pieces that they were read from, for a sentence as generate writes it."""
    processor = make_processor(tokenizer)
    token_ids = [START, *tokenizer.convert_tokens_to_ids(pieces), END, PAD]
    text = processor.decode(torch.tensor(token_ids))
    words = word_evidence_file.words_with_tokens(text, token_ids, processor)
    return [(word, tokenizer.convert_ids_to_tokens([token_ids[p + 1] for p in positions])) for word, positions in words]


def piece_tokenizer(pieces: list[str]) -> PreTrainedTokenizerFast:
    """Pieces as sentencepiece makes them."""
    vocabulary = [(token, 0.0) for token in SPECIAL_TOKENS] + [(piece, -1.0) for piece in dict.fromkeys(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_NAMES)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = SPECIAL_TOKENS | {byte: 4 + index for index, byte in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_NAMES)


@pytest.mark.parametrize(
    "pieces, expected",
    [
        (["▁im", "▁nor", "den", "▁", ".", "▁wind"], [("im", 1), ("norden", 2), ("wind", 1)]),
        (["▁“", "don", "'", "t", "”", ",", "▁e", "-", "mail", "!"], [("don't", 3), ("e-mail", 3)]),
        (["▁", "今", "天", "下雨", "。"], [("今", 2), ("天", 1), ("下", 1), ("雨", 1)]),
        (
            ["▁明日", "は", "3", "0", "度", "▁です"],
            [("明", 1), ("日", 1), ("は", 1), ("30", 2), ("度", 1), ("で", 1), ("す", 1)],
        ),
        (["▁हिन्", "दी", "▁है"], [("हिन्दी", 2), ("है", 1)]),
        (["▁.", "▁?"], []),
        ([], []),
    ],
)
def test_words_are_made_of_their_pieces(pieces, expected):
    words = words_of(piece_tokenizer([*pieces, "▁x"]), pieces)
    assert [(word, len(tokens)) for word, tokens in words] == expected


def test_a_character_of_several_tokens_has_all_of_them():
    tokenizer = byte_tokenizer()
    pieces = tokenizer.tokenize("ü 今!")
    assert [(word, len(tokens)) for word, tokens in words_of(tokenizer, pieces)] == [("ü", 2), ("今", 3)]


def test_special_tokens_in_between_belong_to_no_word():
    assert words_of(word_tokenizer(), ["<unk>", "w5", "<start>", "<unk>", "w7", "</s>"]) == [
        ("w5", ["w5"]),
        ("w7", ["w7"]),
    ]


def test_a_text_without_words_has_no_evidence(translator, video):
    everything = [[token_id] for token_id in range(4, VOCABULARY_SIZE)]
    answer = translator(str(video), return_attention=True, bad_words_ids=everything)
    assert answer["translation_text"].strip() == "" and answer["words"] == []
    assert answer["attention"].shape == (0, len(answer["token_times"]))


# Errors


def test_a_bad_video_ends_the_call_with_its_name_and_index(translator, tmp_path, video):
    broken = cut(video, 0.5, tmp_path / "broken.mp4")
    with pytest.raises(ValueError, match=re.escape(f"'{broken}' is an mp4 or mov file without a readable index")):
        translator(str(broken))
    message = f"Video 1 of the inputs cannot be translated: '{broken}' is an mp4 or mov file"
    with pytest.raises(ValueError, match=re.escape(message)):
        translator([str(video), str(broken)], batch_size=2)
    answers = translator(iter([str(video), str(tmp_path / "missing.mp4")]))
    assert next(answers) == translator(str(video))
    with pytest.raises(ValueError, match=re.escape("Video 1 of the inputs cannot be translated: There is no video")):
        next(answers)


def test_a_video_that_is_too_short_or_too_long(tmp_path):
    translator = make_pipeline(vision={"temporal_blocks": ["K5", "P2", "K5", "P2"], "temporal_padding": "none"})
    short = random_file(tmp_path / "short.mp4", num_frames=20)
    message = (
        f"'{short}' is too short to translate: 10 frame(s) are left after sampling, and the model needs at least 16. "
        "Use a longer part of it, or keep more of its frames (`frame_sampling_rate` of the video processor)."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        translator(str(short))
    message = (
        "Video 1 of the inputs cannot be translated: the video given as Tensor is too long to translate. The video "
        "gives 65 visual tokens"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        make_pipeline()([random_clip(128), random_clip(129)])


def test_arguments_that_mean_nothing_are_refused(translator):
    clip = random_clip(20)
    with pytest.raises(TypeError, match=re.escape("Unknown arguments ['num_beam']. Known are start, end")):
        translator(clip, num_beam=3)
    with pytest.raises(TypeError, match=re.escape("Unknown arguments ['return_score']. Known are start, end")):
        pipeline(TASK, model=translator.model, processor=translator.processor, return_score=True)
    with pytest.raises(TypeError, match=re.escape("Unknown arguments ['start']")):
        translator(clip, generate_kwargs={"start": 3})
    with pytest.raises(TypeError, match=re.escape("`output_scores` is set by the pipeline. Pass `return_scores` inst")):
        translator(clip, output_scores=True)
    with pytest.raises(ValueError, match=re.escape("['num_beams'] were passed both by name and in `generate_kwargs`.")):
        translator(clip, num_beams=3, generate_kwargs={"num_beams": 2})


def test_inputs_that_mean_nothing_are_refused(translator):
    clip = random_clip(20)
    message = 'For one each, pass the videos as dictionaries {"video": ..., "start": ...}.'
    with pytest.raises(ValueError, match=re.escape("`start` must be one number for all videos, got list. " + message)):
        translator([clip, clip], start=[0, 1])
    with pytest.raises(ValueError, match=re.escape(message)):
        translator({"video": clip, "start": [0, 1]})
    with pytest.raises(ValueError, match=re.escape("the keys video, start, end, source_fps, got ['stop'].")):
        translator({"video": clip, "stop": 2})
    with pytest.raises(ValueError, match=re.escape("Expected one video, got the video given as list. Lists of")):
        translator([[clip, clip]])
    with pytest.raises(ValueError, match=re.escape("A video must be a path, an http(s) address, bytes")):
        translator(3)
    with pytest.raises(ValueError, match=re.escape("`start` lies before") + "|" + re.escape("`start` must lie before")):
        translator(clip, start=2, end=1, source_fps=10)
    translator.processor.video_processor.do_resize = translator.processor.video_processor.do_center_crop = False
    with pytest.raises(
        ValueError, match=re.escape("videos of a batch must have one size, got (height, width) [(40, 40), (64, 64)]")
    ):
        translator([clip, torch.zeros(20, 3, 64, 64, dtype=torch.uint8)], batch_size=2)


def test_a_pipeline_needs_a_processor(translator):
    with pytest.raises(ValueError, match=re.escape("The pipeline needs the model's processor. Pass `processor=`, or")):
        SignLanguageTranslationPipeline(model=translator.model, device="cpu")


# Models


def test_bfloat16_from_a_folder(tmp_path, video):
    make_pipeline().save_pretrained(tmp_path / "model")
    translator = pipeline(TASK, model=str(tmp_path / "model"), dtype=torch.bfloat16, device="cpu")
    assert translator.model.dtype == torch.bfloat16
    for arguments in ({"num_beams": 3}, {"do_sample": True}):
        answer = translator(str(video), return_scores=True, return_attention=True, **arguments)
        assert np.isfinite(answer["score"])
        np.testing.assert_allclose(answer["attention"].sum(1), 1, atol=0.05)
    json.dumps(translator(str(video), return_scores=True, return_timestamps=True))


def test_a_model_in_training_mode_is_not_trained_on_what_it_translates():
    model = tiny_model().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    translator = pipeline(TASK, model=model, processor=make_processor(), device="cpu")
    clip = random_clip(20)
    assert translator(clip, max_new_tokens=5) == translator(clip, max_new_tokens=5)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.slow
def test_loads_where_the_package_is_not_installed(tmp_path, video):
    translator = make_pipeline()
    translator.save_pretrained(tmp_path / "model")
    printed = run_without_our_packages(REMOTE_CODE_SCRIPT, str(tmp_path / "model"), str(video), folder=tmp_path)
    answer = json.loads(printed.splitlines()[-1])
    expected = translator(str(video), num_beams=2, return_timestamps=True, return_scores=True)
    assert answer["translation_text"] == expected["translation_text"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-4)
    assert [word["peak"] for word in answer["words"]] == [word["peak"] for word in expected["words"]]
