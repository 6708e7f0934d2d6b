# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""The chat template of a tokenizer, which is somebody else's program: rendered within limits, on a fixed day."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jinja2.utils import Namespace

# Templates of Llama 3 and others write today's date, and a model would read another prompt than it was trained with.
# This day is what theirs name where there is no clock.
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
# In front of a template for messages of text: it gets its messages with a text in place of the parts of each.
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
    """A chat template took too long, or made too much text."""


def render_chat(render: Callable[..., str], chat_template: str) -> str:
    """
    The text that `render`, the `apply_chat_template` of a tokenizer or processor with its messages, makes with
    `chat_template`; the same every day. transformers renders templates in a sandbox of jinja, in which they reach
    nothing but the messages.

    Raises:
        ValueError: if the template has an error, or runs beyond the limits above.
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
    A template for messages whose content is a text, such as those of language models, as one that also takes contents
    of parts, `{"type": "video", ...}` and `{"type": "text", "text": ...}`. A video becomes `video_token`; parts are
    joined by line breaks.
    """
    return TEXT_CONTENTS.replace("VIDEO_TOKEN", json.dumps(video_token)) + chat_template


def _on_a_fixed_day(template: str) -> str:
    """The template with a clock of its own in the place of transformers', which is no argument of a template."""
    if CLOCK not in template:
        return template
    replacements = "".join(f".replace('{name}', '{value}')" for name, value in FRIDAY_26_JULY_2024.items())
    return f"{{%- macro {CLOCK}(format) %}}{{{{ format{replacements} }}}}{{%- endmacro %}}\n{template}"


@contextmanager
def _limited():
    """Stop a template in this thread that runs for too long, or holds too long a text, after the line that does."""
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
    """Among the variables of a template, and in its namespaces."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Namespace):
            for attributes in object.__getattribute__(value, "__dict__").values():
                yield from _texts(attributes.values())


__all__ = ["PLAIN_CHAT_TEMPLATE", "render_chat", "with_text_contents"]
