"""Loads the model that the Space's owner names: pins its commit, and refuses a model that does not translate videos."""

import logging
import re
from pathlib import Path

from decoding import VideoReader
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from model_facts import why_not_a_translator
from transformers import PreTrainedConfig, pipeline
from translating import Translator

try:
    import modeling_flallm  # noqa: F401

    IS_FLALLM_INSTALLED = True
except ImportError:
    IS_FLALLM_INSTALLED = False

logger = logging.getLogger(__name__)


def pinned_revision(model_id: str, revision: str | None) -> str | None:
    """
    The current commit of a model's newest version, or of a branch: a reader of videos that starts later must not run
    later code. A commit is returned unchanged, and so is a revision that cannot be looked up.
    """
    if Path(model_id).exists() or re.fullmatch("[0-9a-f]{40}", revision or ""):
        return revision
    try:
        commit_id = HfApi().model_info(model_id, revision=revision).sha
    except (HTTPError, OSError, ValueError):
        return revision  # loading the model says what is wrong, or finds it in the cache
    logger.warning(
        "MODEL_REVISION is %s: this Space runs commit %s of %s, weights and code, until it restarts, and then the "
        "newest one. To keep this commit, set MODEL_REVISION to %s.",
        repr(revision) if revision else "not set",
        commit_id,
        model_id,
        commit_id,
    )
    return commit_id


def load_translator(model_id: str | None, revision: str | None) -> Translator:
    """
    The translator with a model on the Hub or in a folder.

    Raises:
        SystemExit: if there is no `model_id`, or that model cannot be read or does not translate videos.
    """
    if not model_id:
        raise SystemExit("MODEL_ID is not set: name a model such as me/flallm-phoenix in the Space's variables.")
    try:
        return _load(model_id, revision)
    except (OSError, ValueError) as error:
        raise SystemExit(f"MODEL_ID {model_id!r} cannot be loaded: {' '.join(str(error).split())}") from error


def _load(model_id: str, revision: str | None) -> Translator:
    _check_translates(model_id, PreTrainedConfig.get_config_dict(model_id, revision=revision)[0].get("model_type"))
    # Without FLaLLM, the Python files of that repository are run. The Space's owner chooses the repository and, with
    # MODEL_REVISION, its commit; a visitor cannot choose another one.
    trust_remote_code = not IS_FLALLM_INSTALLED
    model = pipeline("sign-language-translation", model_id, revision=revision, trust_remote_code=trust_remote_code)
    return Translator(model, VideoReader(model_id, revision, trust_remote_code))


def _check_translates(model_id: str, model_type: str | None) -> None:
    """A part of a model has no pipeline, and its error would name neither the part nor the whole."""
    reason = why_not_a_translator(model_type)
    if reason is not None:
        raise SystemExit(f"MODEL_ID {model_id!r} holds {reason}.")
