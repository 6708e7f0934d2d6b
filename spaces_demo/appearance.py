"""Colours of the page, and its style sheets and scripts, which are files beside this one."""

import json
from collections.abc import Sequence
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

PAGE_CSS, PAGE_SCRIPT, LIVE_CSS, LIVE_SCRIPT = (
    Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in ("page.css", "page.js", "live.css", "live.js")
)
CSS = "\n".join((timeline.CSS, results.CSS, PAGE_CSS, LIVE_CSS))
ICON = Path(__file__).with_name("icon.svg")
# What page.js says.
WORDS_OF_PAGE = ("title", "share_limit", "share_copied", "share_failed")
WORDS_OF_LIVE = (
    "live_starting",
    "live_running",
    "live_ending",
    "live_ended",
    "live_picture",
    "live_error_camera",
    "live_error_connection",
)


def _words(names: Sequence[str]) -> str:
    return json.dumps({language: {name: texts[name] for name in names} for language, texts in TEXTS.items()})


ON_LOAD = f"""() => {{
({PAGE_SCRIPT.strip()})({_words(WORDS_OF_PAGE)});
({LIVE_SCRIPT.strip()})({_words(WORDS_OF_LIVE)});
({timeline.JAVASCRIPT.strip()})();
}}"""


def in_browser(function: str, *arguments: str) -> str:
    """JavaScript that calls a function of page.js with the inputs of an event, followed by texts."""
    given = ", ".join(["...inputs", *map(json.dumps, arguments)])
    return f"(...inputs) => window.flallm.{function}({given})"
