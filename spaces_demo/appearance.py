"""Colours of the page, and what happens in the browser alone."""

import json

import gradio as gr
import results
import timeline
from texts import TEXTS

# White on indigo: 7 to 1.
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

CSS = (
    timeline.CSS
    + results.CSS
    + """
.gradio-container { font-size: 16px; }
.gradio-container button:focus-visible, .gradio-container input:focus-visible, .gradio-container a:focus-visible,
.gradio-container summary:focus-visible { outline: 3px solid currentColor !important; outline-offset: 2px; }
#for-programs pre code, #for-programs pre code * { color: inherit !important; }
#VIDEO_ID video { max-height: 320px; }
/* Gradio's scissors load a program from another server; the page has its own seconds to choose. Nothing is heard. */
#VIDEO_ID button[aria-label="Trim video to selection"], #VIDEO_ID .volume-control-wrapper { display: none; }
.gradio-container input[type=range]::-webkit-slider-thumb { border: 2px solid #4338ca; }
.gradio-container input[type=range]::-moz-range-thumb { border: 2px solid #4338ca; }
#warning { border-left: 6px solid #b45309; padding-left: 12px; }
""".replace("VIDEO_ID", timeline.VIDEO_ID)
)

FIND_VIDEO = f'document.querySelector("#{timeline.VIDEO_ID} video")'

# Gradio leaves these without a name for screen readers.
ON_LOAD = f"""() => {{
  document.documentElement.lang = "en"; // until the language is chosen
  ({timeline.JAVASCRIPT})();
  const name = (part, text) => {{
    if (part && text && part.ariaLabel !== text) part.ariaLabel = text;
  }};
  const nameParts = () => {{
    const result = document.querySelector("#result");
    if (result) result.ariaLive = "polite";
    const label = document.querySelector("#{timeline.VIDEO_ID} label")?.textContent.trim();
    name({FIND_VIDEO}, label);
    name(document.querySelector("#{timeline.VIDEO_ID} progress"), label);
    for (const group of document.querySelectorAll("fieldset"))
      name(group, group.querySelector("[data-testid=block-info]")?.textContent.trim());
    for (const gallery of document.querySelectorAll(".gallery")) {{
      const title = gallery.parentElement.querySelector(".label")?.textContent.trim();
      gallery.querySelectorAll("button").forEach((button, index) => name(button, `${{title}}: ${{index + 1}}`));
    }}
  }};
  new MutationObserver(nameParts).observe(document.body, {{ childList: true, subtree: true, characterData: true }});
  nameParts();
}}"""

SET_LANGUAGE = f"""(language, ...others) => {{
  document.documentElement.lang = language;
  document.title = {json.dumps({language: texts["title"] for language, texts in TEXTS.items()})}[language];
  return [language, ...others];
}}"""

SHOW_RESULT = """(...inputs) => {
  const result = document.querySelector("#result");
  if (result.getBoundingClientRect().top > 0.7 * window.innerHeight) result.scrollIntoView({ block: "center" });
  return inputs;
}"""

SHOW_SECOND = f"""(second) => {{
  const video = {FIND_VIDEO};
  if (video) video.currentTime = second;
}}"""

SHOW_CAPTIONS = f"""(text) => {{
  const video = {FIND_VIDEO};
  if (!video) return;
  video.querySelectorAll("track.captions").forEach((track) => track.remove());
  if (!text) return;
  const track = Object.assign(document.createElement("track"), {{
    className: "captions", kind: "subtitles", label: "FLaLLM", default: true,
    src: URL.createObjectURL(new Blob([text], {{ type: "text/vtt" }})),
  }});
  video.appendChild(track);
  track.track.mode = "showing";
}}"""

# SUFFIX is srt or vtt.
SAVE_FILE = """(text) => {
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: "captions.SUFFIX" });
  link.click();
}"""
