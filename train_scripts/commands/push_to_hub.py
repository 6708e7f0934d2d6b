"""
Upload a trained model to the Hugging Face Hub, and a Space in which people can try it in their browser. Both are
private unless `--private False` is given. First list what would be uploaded, then upload it:

    flallm push --model stage2 --repo_id me/flallm-phoenix --dry_run True
    flallm push --model stage2 --repo_id me/flallm-phoenix
    flallm push --space me/flallm-phoenix-demo --repo_id me/flallm-phoenix

If a push breaks off, run the same command again. Each push is one commit: nobody ever loads half of it, and files that
the repository already has are not sent again.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo

from modeling_flallm import systems

from ..arguments.command_arguments import PushArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..hub.hub_errors import HUB_ERRORS, explain_hub_error
from ..hub.hub_folder import read_model_folder
from ..hub.model_card import CARD_FILE
from ..hub.uploads import Upload, send

SPACE_FOLDER = Path(__file__).resolve().parents[2] / "spaces_demo"
SPACE_FILES = ("README.md", "requirements.txt") + tuple(
    sorted(path.name for path in SPACE_FOLDER.iterdir() if path.suffix in (".py", ".css", ".js", ".svg"))
)


def plan_uploads(arguments: PushArguments) -> list[Upload]:
    """
    The commits to make, after checking every file that goes into them.

    Raises:
        ValueError: if the folder does not hold a complete model.
    """
    uploads = []
    if arguments.model is not None:
        found = read_model_folder(Path(arguments.model), arguments.repo_id, arguments.base_model_repo_id)
        branch = arguments.revision or "main"
        base = found.base_model_repo_id
        upload = Upload(arguments.repo_id, "model", found.files, found.left_out, branch, base, found.auto_class)
        uploads.append(upload)
    if arguments.space is not None:
        uploads.append(Upload(arguments.space, "space", space_files(), left_out=[]))
    return uploads


def space_files() -> dict[str, Path]:
    """The files of a Space by their names there. It has no package of ours, so it gets the systems' rows, too."""
    rows = Path(systems.__file__)
    return {**{name: SPACE_FOLDER / name for name in SPACE_FILES}, rows.name: rows}


def describe(upload: Upload) -> str:
    """The files with their sizes, their total, and what is left out."""
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


def loading_lines(repo_id: str, commit_id: str, base: ModelInfo | None, auto_class: str) -> str:
    """A few lines of Python that load the upload, pinned to its commit, so that no later code is run."""
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
    api.whoami()  # later answers to a wrong token look like a missing repository
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
