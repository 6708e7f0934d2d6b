"""Left-handed signers in the Space: what is asked of visitors and of the model, and what they are told."""

import html
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from space_app import TEXTS  # makes the Space's modules known, too
from test_space_translations import answer

# isort: split
import app
from translating import Result, Translator

TAKEN = ("taken_for_left_handed", "taken_for_right_handed")


def reader(taken: list[float]) -> SimpleNamespace:
    return SimpleNamespace(
        takes_videos=lambda: False,
        look=lambda path: SimpleNamespace(seconds=8.0),
        read=lambda path, start, end: taken.append(start) or {"pixel_values_videos": torch.zeros(4)},
        thumbnails=lambda *arguments: [],
        split_at_rests=lambda *arguments: [{"start": float(second), "end": second + 1.0} for second in range(8)],
    )


def pipeline_that_tells(asked: list[dict], looked_at: list[int]) -> SimpleNamespace:
    """Answers say what was asked for; left-handed is who has been looked at in several pieces."""

    def call(clip: dict, **arguments) -> list[dict]:
        asked.append(arguments)
        return [answer("rain", left_handed=True)]

    def translate_pieces(clips, **arguments):
        asked.append(arguments)
        return (answer("rain", piece=index, left_handed=True) for index, _ in enumerate(clips))

    modality = SimpleNamespace(input_names=("pixel_values_videos",))

    class Called(SimpleNamespace):
        __call__ = staticmethod(call)

    return Called(
        model=SimpleNamespace(generation_config=SimpleNamespace(num_beams=1), hand_margins=None),
        processor=SimpleNamespace(modality=modality, decode=None),
        check_length=lambda length, name: None,
        translate_pieces=translate_pieces,
        is_signer_left_handed=lambda clips: looked_at.append(len(list(islice(clips, 5)))) or True,
    )


@pytest.mark.parametrize(
    ("hand", "expected"), [(False, {}), (True, {"left_handed": True}), ("auto", {"left_handed": "auto"})]
)
def test_the_model_is_asked_only_what_the_visitor_said(hand, expected):
    asked: list[dict] = []
    translator = Translator(pipeline_that_tells(asked, []), reader([]))
    assert translator.can_mirror
    *_, result = translator.translate("clip.mp4", None, None, is_long=False, left_handed=hand)
    assert {name: value for name, value in asked[0].items() if name == "left_handed"} == expected
    assert result.pieces[0]["translation_text"] == "rain"


def test_a_long_video_is_looked_at_first_and_has_one_hand():
    asked: list[dict] = []
    looked_at: list[int] = []
    taken: list[float] = []
    translator = Translator(pipeline_that_tells(asked, looked_at), reader(taken))
    *_, result = translator.translate("clip.mp4", None, None, is_long=True, left_handed="auto")
    assert looked_at == [5] and bool(asked[0]["left_handed"]) is True
    assert taken == [0.0, 1.0, 2.0, 3.0, 4.0, *map(float, range(8))] and len(result.pieces) == 8


def test_models_of_older_versions_are_not_asked():
    pipeline = pipeline_that_tells([], [])
    del pipeline.model.hand_margins
    assert not Translator(pipeline, reader([])).can_mirror


@pytest.mark.parametrize("language", TEXTS)
def test_visitors_are_asked_and_told_in_their_language(language):
    texts = TEXTS[language]
    asked = app._choices_of_hand(texts)
    assert asked["label"] == texts["hand_label"] and asked["info"] == texts["hand_info"]
    assert asked["choices"] == [(texts["hand_no"], "no"), (texts["hand_yes"], "yes"), (texts["hand_auto"], "auto")]
    for is_left, (told, other) in ((True, TAKEN), (False, TAKEN[::-1])):
        page = html.unescape(
            app.results.result_html(Result([answer("rain", left_handed=is_left)], [], [], 0, 1, 2), language)
        )
        assert texts[told] in page and texts[other] not in page
    page = html.unescape(app.results.result_html(Result([answer("rain")], [], [], 0, 1, 2), language))
    assert not any(texts[name] in page for name in TAKEN)


@pytest.mark.parametrize("is_left", [True, False])
def test_programs_get_the_hand(is_left):
    result = Result([answer("rain", left_handed=is_left)], [], [], 0.0, 1.0, 2.0)
    assert app.results.as_json(result, {}, "en")["left_handed"] is is_left
    assert app.results.as_json(Result([answer("rain")], [], [], 0.0, 1.0, 2.0), {}, "en")["left_handed"] is None
    assert app.results.as_json(Result([], [], [], 0.0, 1.0, 2.0), {}, "en")["left_handed"] is None
