"""The model card that is uploaded where transformers would push an empty template."""

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .systems import TAGS

CARD_FILE = "README.md"
# The Hub knows no task "sign-language-translation". This is its only one with a video in and text out; "translation" is
# text to text, and "automatic-speech-recognition" takes audio.
HUB_TASK = "video-text-to-text"
OPEN_PLACE = "[More Information Needed]"  # in the template that transformers pushes without a card
USAGE = re.compile(r"<!-- flallm:usage:begin.*?<!-- flallm:usage:end -->", re.DOTALL)

TRANSLATOR = """# {name}

This model {reads} of a sign language and writes a sentence in a spoken one. Its author has not written what it
was trained on, or how good it is.

> **Warning.** A wrong translation can read like a right one. **Do not use it where a mistake can hurt somebody.** It
> does not replace an interpreter.

The repository carries its own Python code. `trust_remote_code=True` runs it: read the `.py` files first, and pin the
version that you read with `revision=`.

```python
from transformers import pipeline

translate = pipeline("sign-language-translation", "{repo_id}", trust_remote_code=True)
print(translate("{example}"))
```
"""
ENCODER = """# {name}

This model turns {a_clip} of a sign language into features for a text model. **It cannot write a sentence.** Its author
has not written what it was trained on.

The repository carries its own Python code. `trust_remote_code=True` runs it: read the `.py` files first, and pin the
version that you read with `revision=`.

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)
```
"""


class SentWithACard:
    """
    Mixin for classes with `push_to_hub` and `save_pretrained(push_to_hub=True)` of transformers. A card in the folder
    that is saved to, or else in the repository, keeps its text. Without one, the card of the folder that the model was
    loaded from is uploaded, or a short one. Each names the library, the task (`hub_task`, if set) and `hub_tags`.
    """

    hub_task: str | None = None
    hub_tags: tuple[str, ...] = TAGS
    _card_beside: str | None = None

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """See transformers, which would overwrite a card in the folder with its own when it pushes."""
        self._card_beside = _read_card(Path(save_directory)) if kwargs.get("push_to_hub") else None
        try:
            return super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self._card_beside = None

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """Both methods end here: transformers has put its card into this folder, and uploads what is new in it."""
        path = Path(working_dir) / CARD_FILE
        card = ModelCard.load(path, ignore_metadata_errors=True)
        if self._card_beside is not None:
            card.content = self._card_beside
        elif _is_empty_form(card):
            card.content = self._card_where_loaded(repo_id) or self._short_card(repo_id)
        card.data.library_name = card.data.library_name or "transformers"
        card.data.pipeline_tag = card.data.pipeline_tag or self.hub_task
        card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *self.hub_tags]))
        card.save(path)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _short_card(self, repo_id: str) -> str:
        model = self if hasattr(self, "config") else self.model  # that of a pipeline
        words = getattr(model, "vision_model", model).clip_words
        return (TRANSLATOR if self.hub_task else ENCODER).format(name=repo_id.split("/")[-1], repo_id=repo_id, **words)

    def _card_where_loaded(self, repo_id: str) -> str | None:
        """The card names that folder; in the repository, "How to use" must load the repository."""
        config = self.config if hasattr(self, "config") else self.model.config  # that of a pipeline
        folder = Path(config.name_or_path)
        card = _read_card(folder) if config.name_or_path else None
        return card and with_usage_of(repo_id, card, folder)


def with_usage_of(repo_id: str, card: str, folder: Path) -> str:
    """The card in a folder, whose "How to use" then loads the repository in place of the folder."""
    named = f'"{folder.absolute().name}"'
    return USAGE.sub(lambda usage: usage[0].replace(named, f'"{repo_id}"'), card)


def _read_card(folder: Path) -> str | None:
    """
    Raises:
        ValueError: for a link, which may point to any file on this machine.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    if path.is_symlink() or path.stat().st_nlink > 1:
        raise ValueError(f"{path} is a link, and its target would be uploaded. Replace it with the file itself.")
    return path.read_text(encoding="utf-8")


def _is_empty_form(card: ModelCard) -> bool:
    num_places = ModelCard.from_template(ModelCardData()).text.count(OPEN_PLACE)
    return num_places > 0 and card.text.count(OPEN_PLACE) == num_places


__all__ = ["CARD_FILE", "HUB_TASK", "TAGS", "SentWithACard", "with_usage_of"]
