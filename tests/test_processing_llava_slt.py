"""`LlavaSltProcessor`: prompts of every kind of tokenizer, sentences and labels, languages, saving, wrong input."""

import itertools
import re
import sys
import unicodedata

import numpy as np
import pytest
import torch
from tiny_models import tiny_llava_slt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import AutoProcessor, PreTrainedTokenizerFast

from processing import FLaLLMVideoProcessor, LlavaSltProcessor
from processing.spoken_languages_slt import spoken_language_name

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def byte_tokenizer(starts_texts: bool = True, **values) -> PreTrainedTokenizerFast:
    """Every byte is a token, so that nothing is lost; as that of Llama, it starts texts with `<s>`, if asked to."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<unk>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if starts_texts:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=SPECIAL_IDS)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**SPECIAL_NAMES, "pad_token": "<pad>", **values})


SPECIAL_IDS = [("<s>", 0), ("</s>", 1)]


def make_processor(tokenizer: PreTrainedTokenizerFast | None = None, **settings) -> LlavaSltProcessor:
    size = {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}
    return LlavaSltProcessor(
        FLaLLMVideoProcessor(**size, frame_sampling_rate=0.5), tokenizer or byte_tokenizer(), **settings
    )


def random_video(num_frames: int) -> np.ndarray:
    return np.random.randint(0, 256, (num_frames, 36, 36, 3), dtype=np.uint8)


def text_of(processor: LlavaSltProcessor, row: torch.Tensor, mask: torch.Tensor) -> str:
    return processor.tokenizer.decode(row[mask.bool()], skip_special_tokens=False)


def test_the_plain_prompt_starts_as_the_tokenizer_starts_texts():
    for starts_texts, start in ((True, "<s>"), (False, "")):
        inputs = make_processor(byte_tokenizer(starts_texts))(num_visual_tokens=[2], spoken_language="German")
        text = text_of(make_processor(), inputs["input_ids"][0], inputs["attention_mask"][0])
        expected = "USER: <video><video>\nTranslate this sign language video into German. ASSISTANT:"
        assert text == start + expected


def test_the_chat_template_is_used_where_there_is_one():
    processor = make_processor(byte_tokenizer(chat_template=CHAT_TEMPLATE), prompt="Into {spoken_language}, {please}!")
    inputs = processor(num_visual_tokens=[3])
    text = text_of(processor, inputs["input_ids"][0], inputs["attention_mask"][0])
    assert text == "<|user|><video><video><video>\nInto the spoken language, {please}!</s><|assistant|>"


def test_each_sampled_window_has_its_placeholder_and_rows_are_padded_on_the_left():
    processor = make_processor(word_window_stride=3)
    inputs = processor(videos=[random_video(8), random_video(26)], return_tensors="pt")
    assert inputs["pixel_attention_mask"].sum(1).tolist() == [4, 13]
    is_placeholder = inputs["input_ids"] == processor.video_token_id
    assert is_placeholder.sum(1).tolist() == [2, 5]
    assert inputs["attention_mask"].tolist()[0] == [0] * 3 + [1] * (inputs["input_ids"].shape[1] - 3)
    assert inputs["input_ids"][0, :3].tolist() == [processor.tokenizer.pad_token_id] * 3
    cached = processor(num_visual_tokens=torch.tensor([2, 5]))
    assert_close(cached["input_ids"], inputs["input_ids"])
    assert [processor.get_num_visual_tokens(length) for length in (1, 3, 4)] == [1, 1, 2]


def test_the_language_is_a_tag_or_a_name():
    processor = make_processor(spoken_language="de_CH")
    assert processor.spoken_language == "German"
    by_tag = processor(num_visual_tokens=[5, 2, 3, 1], spoken_language=["zu", None, "zh-Hans", "xyz_Latn"])
    by_name = processor(num_visual_tokens=[5, 2, 3, 1], spoken_language=["Zulu", "German", "Chinese", "xyz_Latn"])
    assert torch.equal(by_tag["input_ids"], by_name["input_ids"])
    with pytest.raises(ValueError, match=re.escape("or a list with one for each video, got 3.")):
        processor(num_visual_tokens=[5], spoken_language=3)


def test_languages_are_named_as_people_write_them():
    names = {
        "el": "Greek",
        "EL_gr": "Greek",
        "yue": "Cantonese",
        "Lao": "Lao",
        "qaa": "qaa",
        "Swiss German": "Swiss German",
    }
    assert {tag: spoken_language_name(tag) for tag in names} == names


def test_sentences_stand_behind_their_prompts_and_are_the_labels():
    processor = make_processor()
    composed = ["es regnet", "St\u00fcrme \u00fcber dem S\u00fcden"]
    sentences = [unicodedata.normalize("NFD", sentence) for sentence in composed]
    inputs = processor(num_visual_tokens=[5, 1], text_target=sentences, spoken_language=["German", "English"])
    prompts = processor(num_visual_tokens=[5, 1], spoken_language=["German", "English"])
    for row, sentence in enumerate(composed):
        ids, mask, labels = (inputs[name][row] for name in ("input_ids", "attention_mask", "labels"))
        prompt = text_of(processor, prompts["input_ids"][row], prompts["attention_mask"][row])
        assert text_of(processor, ids, mask) == prompt + sentence + "</s>"
        is_label = labels != -100
        assert_close(ids[is_label], labels[is_label])
        assert labels[-1] == processor.tokenizer.eos_token_id and is_label.sum() == len(sentence.encode()) + 1
        assert not is_label[: -int(is_label.sum())].any()
    assert processor.batch_decode(inputs["labels"]) == composed != sentences


def test_a_tokenizer_without_padding_pads_with_its_end():
    tokenizer = byte_tokenizer(pad_token=None)
    processor = make_processor(tokenizer)
    inputs = processor(num_visual_tokens=[1, 4], text_target=["a", "b"])
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == inputs["input_ids"][0, 0]
    assert (inputs["labels"] != -100).sum() == 4


def test_the_placeholder_is_added_once():
    tokenizer = byte_tokenizer()
    before = len(tokenizer)
    first, second = make_processor(tokenizer), make_processor(tokenizer)
    assert len(tokenizer) == before + 1 == first.video_token_id + 1
    assert second.video_token_id == first.video_token_id
    assert first.decode([first.video_token_id, *tokenizer("a", add_special_tokens=False)["input_ids"]]) == "a"


def test_the_text_is_the_prompt_and_the_video_takes_the_place_of_its_placeholder():
    processor = make_processor()
    own = processor(num_visual_tokens=[3, 1], text_target=["a", "b"], spoken_language="German")
    prompt = "USER: <video>\nTranslate this sign language video into German. ASSISTANT:"
    given = processor(num_visual_tokens=[3, 1], text=[prompt, "<s>" + prompt], text_target=["a", "b"], padding=True)
    assert all(torch.equal(given[name], own[name]) for name in own)
    bare = processor(num_visual_tokens=[3], text=prompt, add_special_tokens=False)["input_ids"]
    assert bare[0].tolist() == processor(num_visual_tokens=[3], text=prompt)["input_ids"][0, 1:].tolist()
    assert list(processor(text="no video")) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (
            {"num_visual_tokens": [1], "text": "no video"},
            "must hold the placeholder '<video>' once, where the video goes; it holds it 0 times. Write it into `text`",
        ),
        (
            {"num_visual_tokens": [1], "text": ["<video>"] * 2},
            "Each video needs one prompt, got 1 videos and 2 prompts.",
        ),
        ({"text": "<video> <video>"}, "The prompts hold 2 placeholders, but there are no `videos`."),
        ({"num_visual_tokens": [1], "text": 3}, "`text` must be a prompt or a list of prompts, got 3."),
        (
            {"num_visual_tokens": [1], "text": "<video>", "spoken_language": "German"},
            "`spoken_language` is for the processor's own prompt.",
        ),
        ({"num_visual_tokens": [1], "padding": False}, "Rows are padded on the left to the longest of them"),
    ],
)
def test_wrong_prompts(inputs, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make_processor()(**inputs)


def conversation(video: np.ndarray | None = None, instruction: str = "Translate this.") -> list[dict]:
    video_part = {"type": "video"} if video is None else {"type": "video", "video": video}
    return [{"role": "user", "content": [video_part, {"type": "text", "text": instruction}]}]


PARTS_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<video>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("chat_template", [None, CHAT_TEMPLATE], ids=["plain", "chat"])
def test_apply_chat_template_makes_the_prompt_of_the_processor(chat_template):
    processor = make_processor(byte_tokenizer(chat_template=chat_template))
    video, instruction = random_video(9), "Translate this sign language video into German."
    expected = processor(videos=video, spoken_language="German", text_target="ja")
    inputs = processor.apply_chat_template(
        conversation(video, instruction),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"text_target": "ja"},
    )
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_apply_chat_template_of_several_conversations_and_kinds_of_contents():
    processor = make_processor(byte_tokenizer(chat_template=CHAT_TEMPLATE))
    first = "<|user|><video>\nTranslate this.</s><|assistant|>"
    assert processor.apply_chat_template(conversation(), add_generation_prompt=True) == first
    answered = [*conversation(), {"role": "assistant", "content": "Es regnet."}]
    both = processor.apply_chat_template([conversation(), answered])
    assert both == [
        "<|user|><video>\nTranslate this.</s>",
        "<|user|><video>\nTranslate this.</s><|assistant|>Es regnet.</s>",
    ]
    videos = [random_video(8), random_video(12)]
    rows = [conversation(video) for video in videos]
    ids = processor.apply_chat_template(rows, tokenize=True, frame_sampling_rate=1.0)
    assert (ids == processor.video_token_id).sum(1).tolist() == [4, 6]


def test_apply_chat_template_takes_a_conversation_without_a_video():
    processor = make_processor(byte_tokenizer(chat_template=CHAT_TEMPLATE))
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    expected = processor.tokenizer("<|user|>Hello.</s>", add_special_tokens=False)["input_ids"]
    assert inputs["input_ids"].tolist() == [expected]
    assert inputs["attention_mask"].all() and inputs.keys() == {"input_ids", "attention_mask"}


def test_a_chat_template_for_parts_gets_them():
    processor = make_processor()
    assert processor.apply_chat_template(conversation(), chat_template=PARTS_TEMPLATE) == "<video>Translate this."
    processor.chat_template = PARTS_TEMPLATE
    assert processor.apply_chat_template(conversation()) == "<video>Translate this."
    text = text_of(processor, *(processor(num_visual_tokens=[1])[name][0] for name in ("input_ids", "attention_mask")))
    assert text == "<video>Translate this sign language video into the spoken language."


# ------------------------------------------------------------------------------------------ chat templates of others

WITH_DATE = (
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "Today: {{ date_string }} {{ strftime_now('%A, %-d %B %y, %F') }}\n"
) + CHAT_TEMPLATE
NESTED_LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"


def test_the_prompt_is_the_same_tomorrow():
    processor = make_processor(byte_tokenizer(chat_template=WITH_DATE))
    inputs = processor(num_visual_tokens=[1])
    text = text_of(processor, inputs["input_ids"][0], inputs["attention_mask"][0])
    assert text.startswith("Today: 26 Jul 2024 Friday, 26 July 24, 2024-07-26\n<|user|><video>")


def chat_template_refused(reason: str):
    text = (
        f"The tokenizer's chat template cannot be used: {reason}. Correct `tokenizer.chat_template`, or set it to None "
        "for a plain prompt."
    )
    return pytest.raises(ValueError, match=f"^{re.escape(text)}$")


@pytest.mark.parametrize("body", ["", "{{ messages }}", "{% set x = a * b %}"])
def test_an_endless_chat_template_is_stopped(body, monkeypatch):
    monkeypatch.setattr(sys.modules[LlavaSltProcessor.__module__].render_chat.__globals__["time"], "monotonic", clock())
    with chat_template_refused("ChatTemplateLimitError: it runs for more than 10 seconds"):
        make_processor(byte_tokenizer(chat_template=NESTED_LOOPS.replace("BODY", body)))
    assert sys.gettrace() is None


def clock():
    """A second passes every thousandth time the clock is read."""
    looks = itertools.count()
    return lambda: next(looks) / 1000


@pytest.mark.parametrize(
    ("chat_template", "what"),
    [
        ("{{ 'a' | center(2000000) }}", "prompt"),
        ("{% set n = namespace(x='aa') %}{% for a in range(90) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "text"),
        ("{% set x = 'a' | center(2000000) %}{{ x | length }}", "text"),
    ],
)
def test_a_huge_chat_template_is_stopped(chat_template, what):
    with chat_template_refused(f"ChatTemplateLimitError: it makes a {what} of more than 1,000,000 characters"):
        make_processor(byte_tokenizer(chat_template=chat_template))


@pytest.mark.parametrize(
    ("chat_template", "reason"),
    [
        ("{{ raise_exception('no user') }}", "TemplateError: no user"),
        ("{% for %}", "TemplateSyntaxError: Expected an expression, got 'end of statement block'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: maximum recursion depth exceeded"),
        (
            "{{ messages.__class__.__mro__ }}",
            "SecurityError: access to attribute '__class__' of 'list' object is unsafe.",
        ),
    ],
)
def test_a_chat_template_with_an_error_is_explained(chat_template, reason):
    with pytest.raises(ValueError, match=re.escape(f"The tokenizer's chat template cannot be used: {reason}")):
        make_processor(byte_tokenizer(chat_template=chat_template))


@pytest.mark.parametrize("chat_template", [None, CHAT_TEMPLATE], ids=["plain", "chat"])
def test_it_is_saved_and_loaded_whole(chat_template, tmp_path):
    settings = {
        "word_window_stride": 3,
        "video_token": "<clip>",
        "prompt": "{spoken_language}:",
        "spoken_language": "x",
    }
    processor = make_processor(byte_tokenizer(chat_template=chat_template), **settings)
    processor.save_pretrained(tmp_path)
    inputs = processor(videos=random_video(9), text_target="es regnet")
    for load in (LlavaSltProcessor, AutoProcessor):
        loaded = load.from_pretrained(tmp_path)
        assert type(loaded) is LlavaSltProcessor
        assert {name: getattr(loaded, name) for name in settings} == settings
        again = loaded(videos=random_video(9), text_target="es regnet")
        assert_close(again["input_ids"], inputs["input_ids"])
        assert_close(again["labels"], inputs["labels"])


def test_what_it_makes_is_what_the_model_takes():
    processor = make_processor()
    model = tiny_llava_slt("llama", video_token_id=processor.video_token_id, vocabulary_size=len(processor.tokenizer))
    inputs = processor(videos=[random_video(8), random_video(15)], text_target=["a", "bc"], return_tensors="pt")
    assert model(**inputs).loss.isfinite()
    assert len(processor.batch_decode(model.generate(**inputs))) == 2


def test_wrong_inputs():
    processor = make_processor()
    for wrong, text in (
        ({}, "Pass either `videos` or, for cached features, `num_visual_tokens`."),
        ({"videos": random_video(4), "num_visual_tokens": [1]}, "Pass either `videos` or, for cached features"),
        (
            {"num_visual_tokens": [1], "text_target": ["a", "b"]},
            "Each video needs one sentence, got 1 videos and 2 sentences.",
        ),
        ({"num_visual_tokens": [1], "text_target": [" "]}, "`text_target` holds empty sentences at index [0]"),
        (
            {"num_visual_tokens": [1], "text_target": "a <video>"},
            "The sentence 'a <video>' holds the placeholder '<video>'.",
        ),
        (
            {"num_visual_tokens": [1, 2], "spoken_language": ["German"]},
            "`spoken_language` names one language, or one for each video, got 1 languages and 2 videos.",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            processor(**wrong)
    with pytest.raises(TypeError, match=re.escape("Unknown arguments without `videos`: ['frame_sampling_rate'].")):
        processor(num_visual_tokens=[1], frame_sampling_rate=1.0)
    with pytest.raises(TypeError, match=re.escape("Unknown arguments ['num_beams']")):
        processor(videos=random_video(4), num_beams=1)


def test_wrong_settings():
    with pytest.raises(ValueError, match=re.escape("The tokenizer needs an end token: set `tokenizer.eos_token`.")):
        make_processor(byte_tokenizer(eos_token=None))
    with pytest.raises(ValueError, match=re.escape("`word_window_stride` must be 1 or more, got 0.")):
        make_processor(word_window_stride=0)
    with pytest.raises(ValueError, match=re.escape("The prompt must hold the placeholder '<video>' once, where the")):
        make_processor(prompt="{spoken_language} <video>")
    with pytest.raises(ValueError, match="it holds it 0 times. `prompt` must not hold it, and the chat template must"):
        make_processor(byte_tokenizer(chat_template="{{ 'Hello' }}"))
