"""Uploads one commit to the Hub. Creates the repository if needed, and never sends private content to a public one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from .hub_folder import replaced_files


@dataclass
class Upload:
    """The content of one commit; `repo_type` is model or space, `files` and `auto_class` as in ModelFiles."""

    repo_id: str
    repo_type: str
    files: dict[str, Path | bytes]
    left_out: list[str]
    branch: str = "main"
    base_model_repo_id: str | None = None
    auto_class: str | None = None

    @property
    def address(self) -> str:
        return f"spaces/{self.repo_id}" if self.repo_type == "space" else self.repo_id


def send(api: HfApi, upload: Upload, private: bool, commit_message: str, variables: dict[str, str]) -> str:
    """
    Create the repository if needed, and make one commit in it; returns the commit's id.

    Args:
        variables: environment variables of a Space.

    Raises:
        ValueError: if the repository is public and `private` is True, or if it holds an adapter and a model is sent,
            or the other way round.
    """
    target = {"repo_id": upload.repo_id, "repo_type": upload.repo_type}
    info = _existing_repository(api, target)
    if info is None:
        sdk = "gradio" if upload.repo_type == "space" else None
        api.create_repo(**target, private=private, space_sdk=sdk, exist_ok=True)
    else:
        _check_visibility(upload, info.private, private)
    if upload.branch != "main":
        api.create_branch(**target, branch=upload.branch, exist_ok=True)
    for key, value in variables.items():
        api.add_space_variable(upload.repo_id, key, value)
    present = api.list_repo_files(**target, revision=upload.branch)
    _check_same_kind(upload, present)
    operations = [CommitOperationDelete(name) for name in replaced_files(present, upload.files)]
    operations += [CommitOperationAdd(name, content) for name, content in upload.files.items()]
    commit = api.create_commit(**target, operations=operations, commit_message=commit_message, revision=upload.branch)
    return commit.oid


def _existing_repository(api: HfApi, target: dict[str, str]) -> Any | None:
    try:
        return api.repo_info(**target)
    except RepositoryNotFoundError:
        return None


def _check_visibility(upload: Upload, is_private: bool, private: bool) -> None:
    if private and not is_private:
        raise ValueError(
            f"{upload.repo_id} exists and is public: everybody would see what is sent. Pass --private False if that "
            "is meant; else make it private in its settings first."
        )
    if is_private and not private:
        print(f"{upload.repo_id} exists and stays private; you can make it public in its settings.")


def _check_same_kind(upload: Upload, present: list[str]) -> None:
    """An adapter next to a whole model would change what both of them load as."""
    sends_adapter, holds_adapter = ("adapter_config.json" in names for names in (upload.files, present))
    if sends_adapter and "config.json" in present:
        raise ValueError(f"{upload.repo_id} holds a whole model: push the adapter to a different repository.")
    if holds_adapter and not sends_adapter:
        raise ValueError(f"{upload.repo_id} holds an adapter: push the whole model to a different repository.")
