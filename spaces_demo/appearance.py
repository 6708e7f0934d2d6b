"""Colours of the page, and its style sheets and scripts, which are files beside this one."""

import json
from pathlib import Path

import gradio as gr
import results
import timeline
from texts import TEXTS

# White on indigo has a contrast of 7 to 1.
THEME = gr.themes.Default(primary_hue="indigo").set(
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
)

PAGE_CSS, PAGE_SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
CSS = "\n".join((timeline.CSS, results.CSS, PAGE_CSS))
ICON = Path(__file__).with_name("icon.svg")
# What page.js says.
WORDS_OF_PAGE = ("title", "share_limit", "share_copied", "share_failed")
WORDS = json.dumps({language: {name: texts[name] for name in WORDS_OF_PAGE} for language, texts in TEXTS.items()})
ON_LOAD = f"() => {{\n({PAGE_SCRIPT.strip()})({WORDS});\n({timeline.JAVASCRIPT.strip()})();\n}}"


def in_browser(function: str, *arguments: str) -> str:
    """JavaScript that calls a function of page.js with the inputs of an event, followed by texts."""
    given = ", ".join(["...inputs", *map(json.dumps, arguments)])
    return f"(...inputs) => window.flallm.{function}({given})"
