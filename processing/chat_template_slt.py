# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Renders the chat template of a tokenizer, which is third-party code, within limits and with a fixed date."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jinja2.utils import Namespace

# Templates of Llama 3 and others write today's date, so that a model would read another prompt than in training. They
# name this day where there is no clock.
FRIDAY_26_JULY_2024 = {
    **{"%a": "Fri", "%A": "Friday", "%d": "26", "%-d": "26", "%j": "208"},
    **{"%m": "07", "%-m": "7", "%b": "Jul", "%B": "July", "%y": "24", "%Y": "2024", "%F": "2024-07-26"},
    **{"%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM"},
}
CLOCK = "strftime_now"
# For language models without a chat template (ours, after LLaVA's).
PLAIN_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ 'USER: ' ~ message['content'] if message['role'] == 'user' else ' ASSISTANT: ' ~ message['content'] }}"
    "{%- endfor -%}"
    "{{ ' ASSISTANT:' if add_generation_prompt else '' }}"
)
# Put in front of a template for text messages: it joins the parts of each message into a text.
TEXT_CONTENTS = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- set parts = namespace(texts=[]) -%}"
    "{%- for part in ([] if message['content'] is string else message['content']) -%}"
    "{%- set parts.texts = parts.texts + [VIDEO_TOKEN if part['type'] == 'video' else part['text']] -%}"
    "{%- endfor -%}"
    "{%- set text = message['content'] if message['content'] is string else parts.texts | join('\n') -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=text)] -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)
MOST_CHARACTERS = 1_000_000
MOST_SECONDS = 10.0
JINJA_FRAMES = "<template>"


class ChatTemplateLimitError(Exception):
    """A chat template took too long, or wrote too much text."""


def render_chat(render: Callable[..., str], chat_template: str) -> str:
    """
    Render `chat_template` with `render`, the `apply_chat_template` of a tokenizer or processor with its messages. The
    text is the same every day. transformers renders templates in a sandbox of jinja, in which they can reach nothing
    but the messages.

    Raises:
        ValueError: if the template has an error, or exceeds the limits above.
    """
    try:
        with _limited():
            text = render(chat_template=_on_a_fixed_day(chat_template))
        if len(text) > MOST_CHARACTERS:
            raise ChatTemplateLimitError(f"it makes a prompt of more than {MOST_CHARACTERS:,} characters")
    except Exception as error:  # whatever somebody else's program raises
        raise ValueError(
            f"The tokenizer's chat template cannot be used: {type(error).__name__}: {error}. Correct "
            "`tokenizer.chat_template`, or set it to None for a plain prompt."
        ) from error
    return text


def with_text_contents(chat_template: str, video_token: str) -> str:
    """
    Extend a template for messages with text contents, such as those of language models, to contents made of parts,
    `{"type": "video", ...}` and `{"type": "text", "text": ...}`. A video becomes `video_token`; parts are joined by
    line breaks.
    """
    return TEXT_CONTENTS.replace("VIDEO_TOKEN", json.dumps(video_token)) + chat_template


def _on_a_fixed_day(template: str) -> str:
    """The template with its own clock in place of transformers', which cannot be passed as an argument."""
    if CLOCK not in template:
        return template
    replacements = "".join(f".replace('{name}', '{value}')" for name, value in FRIDAY_26_JULY_2024.items())
    return f"{{%- macro {CLOCK}(format) %}}{{{{ format{replacements} }}}}{{%- endmacro %}}\n{template}"


@contextmanager
def _limited():
    """Stop a template in this thread that runs too long, or builds too long a text, after the line that does so."""
    end = time.monotonic() + MOST_SECONDS

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != JINJA_FRAMES:
            return None
        if time.monotonic() > end:
            raise ChatTemplateLimitError(f"it runs for more than {MOST_SECONDS:.0f} seconds")
        if any(len(text) > MOST_CHARACTERS for text in _texts(frame.f_locals.values())):
            raise ChatTemplateLimitError(f"it makes a text of more than {MOST_CHARACTERS:,} characters")
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


def _texts(values: Iterable[Any]) -> Iterator[str]:
    """The texts among the variables of a template, and in its namespaces."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Namespace):
            for attributes in object.__getattribute__(value, "__dict__").values():
                yield from _texts(attributes.values())


__all__ = ["PLAIN_CHAT_TEMPLATE", "render_chat", "with_text_contents"]
