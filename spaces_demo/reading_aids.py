"""Aids to look and to read: an introduction in pictures, slower playback, larger text, and passing a sentence on."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import appearance
import gradio as gr
import timeline

PICTURES = Path(__file__).with_name("introduction.svg").read_text(encoding="utf-8")
SPEEDS = (1.0, 0.5, 0.25)

Adding = Callable[..., Any]  # `Page._add`


def introduction(add: Adding) -> None:
    """Three pictures without words: be filmed, sign, read."""
    add(
        gr.HTML,
        lambda texts: {
            "value": f'<div role="img" aria-label="{html.escape(texts["pictures_label"])}">{PICTURES}</div>'
        },
        elem_id="introduction",
    )


def playback(add: Adding) -> None:
    """
    How the video that is shown, and those that come after it, are played: how fast, and whether the part of a word that
    is chosen is repeated, which timeline.js does.
    """
    speed = add(
        gr.Radio,
        lambda texts: {
            "label": texts["speed_label"],
            "choices": [(texts[f"speed_{round(100 * each)}"], each) for each in SPEEDS],
        },
        value=SPEEDS[0],
        elem_id="playback-speed",
    )
    speed.input(None, speed, js=appearance.in_browser("playAt"), queue=False, api_visibility="private")
    add(
        gr.Checkbox,
        lambda texts: {"label": texts["repeat_label"]},
        value=False,
        interactive=True,
        elem_id=timeline.REPEAT_ID,
    )


def large_text(add: Adding, demo: gr.Blocks) -> None:
    """The browser remembers the choice for the next visit."""
    is_large = add(gr.Checkbox, lambda texts: {"label": texts["large_text_label"]}, value=False)
    hidden = {"queue": False, "api_visibility": "private"}
    is_large.input(None, is_large, js=appearance.in_browser("enlargeText"), **hidden)
    demo.load(None, None, is_large, js=appearance.in_browser("rememberedText"), **hidden)


def share_button(add: Adding, language: gr.Radio) -> gr.Button:
    """Passes the sentence on, or copies it where the browser cannot; never the video."""
    button = add(gr.Button, lambda texts: {"value": texts["share_button"]}, interactive=False)
    said = gr.HTML(elem_id="shared")
    button.click(None, language, said, js=appearance.in_browser("shareSentence"), queue=False, api_visibility="private")
    return button
