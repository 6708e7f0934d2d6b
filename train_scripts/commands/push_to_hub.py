"""
Send a trained model to the Hugging Face Hub, and a Space in which people try it in their browser. Both are private
unless `--private False` says otherwise. First look at what would be sent, then send it:

    flallm push --model stage2 --repo_id me/flallm-phoenix --dry_run True
    flallm push --model stage2 --repo_id me/flallm-phoenix
    flallm push --space me/flallm-phoenix-demo --repo_id me/flallm-phoenix

A push that breaks off is finished by the same command. Each push is one commit: nobody ever loads half of one, and what
the repository holds already is not sent again.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import ModelInfo

from ..arguments.command_arguments import PushArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..hub.hub_errors import HUB_ERRORS, explain_hub_error
from ..hub.hub_folder import read_model_folder, replaced_files
from ..hub.model_card import CARD_FILE

SPACE_FOLDER = Path(__file__).resolve().parents[2] / "spaces_demo"
SPACE_FILES = ("README.md", "requirements.txt", *sorted(path.name for path in SPACE_FOLDER.glob("*.py")))


@dataclass
class Upload:
    """What becomes one commit; `repo_type` is model or space, `files` and `auto_class` as in ModelFiles."""

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


def plan_uploads(arguments: PushArguments) -> list[Upload]:
    """
    The commits to make, after a look at every file that goes into them.

    Raises:
        ValueError: if the folder holds no complete model.
    """
    uploads = []
    if arguments.model is not None:
        found = read_model_folder(Path(arguments.model), arguments.repo_id, arguments.base_model_repo_id)
        branch = arguments.revision or "main"
        base = found.base_model_repo_id
        upload = Upload(arguments.repo_id, "model", found.files, found.left_out, branch, base, found.auto_class)
        uploads.append(upload)
    if arguments.space is not None:
        files = {name: SPACE_FOLDER / name for name in SPACE_FILES}
        uploads.append(Upload(arguments.space, "space", files, left_out=[]))
    return uploads


def describe(upload: Upload) -> str:
    """The files with their sizes, their sum, and what is left out."""
    sizes = {name: _size_in_bytes(content) for name, content in upload.files.items()}
    lines = [f"{upload.repo_type} {upload.repo_id}, branch {upload.branch}:"]
    lines += [f"{size:15,} bytes  {name}" for name, size in sizes.items()]
    lines.append(f"{sum(sizes.values()):15,} bytes  in {len(sizes)} files")
    if upload.left_out:
        lines.append(f"left out: {', '.join(upload.left_out)}")
    if CARD_FILE not in upload.files:
        lines.append("warning: there is no README.md, so nobody will know what this model was trained on and how well.")
    return "\n".join(lines)


def _size_in_bytes(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def send(api: HfApi, upload: Upload, private: bool, commit_message: str, variables: dict[str, str]) -> str:
    """
    Make the repository if need be, and one commit in it; returns the commit's id.

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
        print(f"{upload.repo_id} exists and stays private; it is made public in its settings.")


def _check_same_kind(upload: Upload, present: list[str]) -> None:
    """An adapter beside a whole model would change what both of them load as."""
    sends_adapter, holds_adapter = ("adapter_config.json" in names for names in (upload.files, present))
    if sends_adapter and "config.json" in present:
        raise ValueError(f"{upload.repo_id} holds a whole model: push the adapter to a repository of its own.")
    if holds_adapter and not sends_adapter:
        raise ValueError(f"{upload.repo_id} holds an adapter: push the whole model to a repository of its own.")


def loading_lines(repo_id: str, commit_id: str, base: ModelInfo | None, auto_class: str) -> str:
    """A few lines of Python that load what has been sent, pinned to the commit, so that no later code is run."""
    if base is None and auto_class == "AutoModel":  # an encoder, which does not translate
        pinned = f'"{repo_id}", revision="{commit_id}", trust_remote_code=True'
        lines = ("from transformers import AutoModel", f"model = AutoModel.from_pretrained({pinned})")
    elif base is None:
        lines = (
            "from transformers import pipeline",
            f'repo_id, revision = "{repo_id}", "{commit_id}"',
            'translate = pipeline("sign-language-translation", repo_id, revision=revision, trust_remote_code=True)',
            'print(translate("clip.mp4"))',
        )
    else:
        pinned = f'"{base.id}", revision="{base.sha}", trust_remote_code=True'
        lines = (
            "from peft import PeftModel",
            f"from transformers import {auto_class}",
            f"base = {auto_class}.from_pretrained({pinned})",
            f'model = PeftModel.from_pretrained(base, "{repo_id}", revision="{commit_id}")',
        )
    return "\n".join(lines)


def push(argv: Sequence[str] | None = None) -> None:
    (arguments,) = COMMANDS["push"].parse(argv)
    uploads = plan_uploads(arguments)
    print("\n\n".join(map(describe, uploads)))
    if arguments.dry_run:
        print("Dry run: nothing has been sent.")
        return
    api = HfApi()
    for upload in uploads:
        try:
            _send_and_report(api, upload, arguments)
        except HUB_ERRORS as error:
            raise ValueError(explain_hub_error(error, upload.repo_id)) from error


def _send_and_report(api: HfApi, upload: Upload, arguments: PushArguments) -> None:
    api.whoami()  # a wrong token reads like a missing repository in every later answer
    message = arguments.commit_message or f"Push the {upload.repo_type} with flallm push"
    if upload.repo_type == "space":
        shown = _look_up(api, arguments.repo_id, arguments.revision)
        send(api, upload, arguments.private, message, {"MODEL_ID": shown.id, "MODEL_REVISION": shown.sha})
        print(f"\nSent to {api.endpoint}/{upload.address}, which shows commit {shown.sha} of {shown.id}.")
        if shown.private:
            print(f"{shown.id} is private: give the Space a secret HF_TOKEN that may read it, in the Space's settings.")
        return
    base = upload.base_model_repo_id and _look_up(api, upload.base_model_repo_id)
    commit_id = send(api, upload, arguments.private, message, variables={})
    print(f"\nSent to {api.endpoint}/{upload.address}. To load it:\n")
    print(loading_lines(upload.repo_id, commit_id, base, upload.auto_class))


def _look_up(api: HfApi, repo_id: str, revision: str | None = None) -> ModelInfo:
    try:
        return api.model_info(repo_id, revision=revision)
    except HUB_ERRORS as error:
        raise ValueError(explain_hub_error(error, repo_id)) from error


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(push, argv)


if __name__ == "__main__":
    sys.exit(main())
