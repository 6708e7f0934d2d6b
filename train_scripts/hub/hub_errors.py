"""Turns the errors of the Hub's client into one sentence that says what to do."""

from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# Exceptions that calls to the Hub can raise: an upload that broke off is a RuntimeError.
HUB_ERRORS = (HTTPError, OSError, RuntimeError)

_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (
        LocalTokenNotFoundError,
        f"You are not logged in to the Hub: {_LOG_IN}, with a token that may write, from {{endpoint}}/settings/tokens.",
    ),
    (
        OfflineModeIsEnabled,
        "HF_HUB_OFFLINE is set, so the Hub is not asked for {repo_id}: unset it.",
    ),
    (
        GatedRepoError,
        "{repo_id} is gated: its owners decide who may load it. Ask for access at {endpoint}/{repo_id}, then "
        f"{_LOG_IN} with that account's token.",
    ),
    (
        RepositoryNotFoundError,
        "{repo_id} is neither a local folder nor a repository at {endpoint} that you may see. Check the spelling; if "
        f"it is private, {_LOG_IN} with its owner's token.",
    ),
    (HFValidationError, "{repo_id} is neither a local folder nor the OWNER/NAME of a repository on the Hub."),
    (RevisionNotFoundError, "{repo_id} has no such branch, tag or commit. See {endpoint}/{repo_id}/tree/main."),
)
_SENTENCES_BY_STATUS = {
    401: f"The Hub does not accept your token: {_LOG_IN}, with a token from {{endpoint}}/settings/tokens.",
    403: "Your token may not write to {repo_id}: name a repository of yours, or use a token with write access from "
    "{endpoint}/settings/tokens.",
    412: "Somebody else has just changed {repo_id}: run the same command again.",
    429: "You have reached the Hub's rate limit: wait a few minutes and run the same command again.",
}


def explain_hub_error(error: BaseException, repo_id: str) -> str:
    """
    One sentence for an error raised while loading from the Hub or uploading to it.

    transformers and the upload code wrap the client's errors in their own: this uses the first known one among `error`
    and its causes. If there is none, it returns the text of `error` on one line.
    """
    causes = list(_with_causes(error))
    for cause in causes:
        sentence = _sentence_for(cause)
        if sentence is not None:
            return sentence.format(repo_id=repo_id, endpoint=constants.ENDPOINT)
    return " ".join(str(error).split())


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _sentence_for(error: BaseException) -> str | None:
    for error_class, sentence in _SENTENCES:
        if isinstance(error, error_class):
            return sentence
    if isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
        return (
            "{repo_id} is neither a local folder nor in the cache, and HF_HUB_OFFLINE is set: unset it to ask the Hub."
        )
    if isinstance(error, EntryNotFoundError):
        return None  # a file is missing, locally or on the Hub: transformers names it, or a cause says why
    if isinstance(error, HfHubHTTPError):
        return _sentence_for_status(error)
    if isinstance(error, HTTPError):
        return "{endpoint} cannot be reached, or the connection broke off. Check it and run the same command again."
    return None


def _sentence_for_status(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status in _SENTENCES_BY_STATUS:
        return _SENTENCES_BY_STATUS[status]
    if status >= 500:
        return f"The Hub has a problem (status {status}): run the same command again later."
    text = " ".join((error.server_message or str(error)).split())
    return f"The Hub refused the request (status {status}): {text}".replace("{", "{{").replace("}", "}}")
