"""
Export a trained model to graphs that run without torch and transformers:

    flallm export --model quickstart_output/model --output_dir exported --format onnx

The folder holds the graphs, the tokenizer, the settings, and the program that runs them, `flallm_runner`. It needs
`pip install numpy onnxruntime tokenizers safetensors av`, and one line:

    python -c "import sys; sys.path.insert(0, 'exported'); from flallm_runner import load; print(load()('clip.mp4'))"

`--dtype float16` halves the files, `--dtype int8` also computes the linear layers of the text model in eight bits.
`--repo_id me/flallm-phoenix` uploads the folder into that model's repository, beside its weights. A model of the
quickstart is exported in seconds on a CPU.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import HfApi

from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.flag_values import check_new_folder
from ..hub.hub_errors import HUB_ERRORS, explain_hub_error
from ..machine.atomic_files import write_folder
from ..runs.exported_folder import fill_folder
from ..runs.exported_formats import check_packages
from ..runs.trained_models import load_trained


def export(argv: Sequence[str] | None = None) -> None:
    """
    Export from command-line arguments.

    Raises:
        ValueError: for mistakes that the user has to fix.
    """
    (arguments,) = COMMANDS["export"].parse(argv)
    folder = Path(arguments.output_dir)
    check_new_folder(folder)
    check_packages(arguments.format)
    model, processor = load_trained(arguments.model, dtype=torch.float32)

    def fill(unfinished: Path) -> None:
        num_equal, num_tried = fill_folder(unfinished, model, processor, arguments.format, arguments.dtype)
        print(f"Of {num_tried} random clips, {num_equal} get the same sentence from the exported model.")

    write_folder(folder, fill)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"Exported {arguments.model} to {folder}, {size / 1e6:,.1f} MB.")
    if arguments.repo_id is not None:
        push(folder, arguments.repo_id, name_on_hub(arguments.format, arguments.dtype))


def name_on_hub(format_name: str, dtype: str) -> str:
    """The folder in the repository of the model: `onnx`, `onnx_int8`, ..."""
    return format_name if dtype == "float32" else f"{format_name}_{dtype}"


def push(folder: Path, repo_id: str, place: str) -> None:
    """
    Upload an exported folder as one commit into the folder `place` of an existing repository of a model.

    Raises:
        ValueError: if there is no such repository, or it may not be written.
    """
    try:
        commit = HfApi().upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            path_in_repo=place,
            commit_message=f"Add the exported model with flallm export: {place}",
            delete_patterns="*",
        )
    except HUB_ERRORS as error:
        raise ValueError(explain_hub_error(error, repo_id)) from error
    print(f"Sent to {place}/ of {repo_id}, commit {commit.oid}.")


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(export, argv)


if __name__ == "__main__":
    sys.exit(main())
