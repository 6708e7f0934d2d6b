"""Pushing models, adapters and Spaces: what is uploaded, what is not, and the errors."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from mini_hub import MiniHub, Refusal, connect
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tiny_corpus import WITHOUT_EVALUATION, error_of, flags, stage1_flags, trained_llava_slt, trained_model
from tiny_models import tiny_contrastive_model, tiny_model, tiny_vision_model
from transformers import TrainerCallback, pipeline
from two_processes import unused_port

from modeling_flallm import FLaLLMForTranslation, FLaLLMProcessor
from modeling_flallm.calibration_slt import CALIBRATION_FILE
from modeling_flallm.own_processing import LlavaSltProcessor
from train_scripts.commands.push_to_hub import SPACE_FOLDER, main
from train_scripts.hub.hub_errors import HUB_ERRORS, explain_hub_error
from train_scripts.hub.hub_folder import read_model_folder
from train_scripts.stages import visual_initialing

pytestmark = pytest.mark.slow

REPO_ID = "me/flallm-tiny"
OF_TRAINING = ("optimizer.pt", "training_args.bin", "trainer_state.json", "events.pkl", ".env", "token", "notes.py")
FOLDERS_OF_TRAINING = ("checkpoint-8", "runs", "lora_adapter")


@pytest.fixture
def hub(monkeypatch):
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        yield hub


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder like the output of training: the model, and much that must not be shared."""
    folder = shutil.copytree(trained_model(), tmp_path / "stage2")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny model\n")
    for name in OF_TRAINING:
        (folder / name).write_bytes(b"not for others")
    for name in FOLDERS_OF_TRAINING:
        (folder / name).mkdir()
        shutil.copy(folder / "model.safetensors", folder / name)
    return folder


@pytest.fixture
def adapter(tmp_path) -> Path:
    """A LoRA adapter as peft saves it, with the path of its base model in two files."""
    base = shutil.copytree(trained_model(), tmp_path / "lora_base")
    model = FLaLLMForTranslation.from_pretrained(base)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=r"text_model\..*\.q_proj"))
    model.save_pretrained(str(tmp_path / "lora_adapter"))
    return tmp_path / "lora_adapter"


def files_of(folder: Path) -> dict[str, bytes]:
    """What a complete model consists of."""
    kept = {
        name: (folder / name).read_bytes()
        for name in sorted(path.name for path in folder.iterdir())
        if name not in OF_TRAINING + FOLDERS_OF_TRAINING
    }
    return kept


def files_on(hub: MiniHub, repo_id: str = REPO_ID, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
    files = hub.repository(repo_id, kind).files(revision)
    return {name: file.content for name, file in sorted(files.items()) if name != ".gitattributes"}


def push(folder: Path, **values) -> None:
    assert main(flags(**{"model": folder, "repo_id": REPO_ID, **values})) == 0


def make_sharded(folder: Path) -> list[str]:
    """Replace the weights by several files; returns their names."""
    model = FLaLLMForTranslation.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    names = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(names) > 2
    return names


def test_a_dry_run_lists_all_and_sends_nothing(hub, folder, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    push(folder, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    sizes = {name: len(content) for name, content in files_of(folder).items()}
    assert lines[0] == f"model {REPO_ID}, branch main:"
    assert lines[1 : len(sizes) + 1] == [f"{size:15,} bytes  {name}" for name, size in sizes.items()]
    assert lines[len(sizes) + 1] == f"{sum(sizes.values()):15,} bytes  in {len(sizes)} files"
    left_out = sorted([*OF_TRAINING, *(f"{name}/" for name in FOLDERS_OF_TRAINING)])
    assert lines[len(sizes) + 2 :] == [f"left out: {', '.join(left_out)}", "Dry run: nothing has been sent."]
    assert hub.requests == []


def test_prompts_are_the_same_after_a_push(hub):
    """Without its chat template, a language model would silently get prompts in an unfamiliar format."""
    push(trained_llava_slt())
    assert "chat_template.jinja" in files_on(hub)
    processors = [LlavaSltProcessor.from_pretrained(name) for name in (trained_llava_slt(), REPO_ID)]
    prompts = [processor(num_visual_tokens=[3])["input_ids"].tolist() for processor in processors]
    assert prompts[0] == prompts[1]
    # A model that is pushed next, and has no template, does not get that of the one before.
    push(trained_model())
    assert "chat_template.jinja" not in files_on(hub)


def test_a_push_sends_the_model_and_nothing_else(hub, folder, capsys):
    push(folder)
    assert files_on(hub) == files_of(folder)
    assert hub.repository(REPO_ID).private
    (announcement,) = [json.loads(request.body) for request in hub.requests if "/preupload/" in request.path]
    assert [file["path"] for file in announcement["files"]] == list(files_of(folder))
    assert len(hub.uploads()) == 1
    assert len([request for request in hub.requests if "/commit/" in request.path]) == 1
    *_, last = capsys.readouterr().out.split("To load it:\n\n")
    commit_id = hub.repository(REPO_ID).commit_id("main")
    assert last == (
        "from transformers import pipeline\n"
        f'repo_id, revision = "{REPO_ID}", "{commit_id}"\n'
        'translate = pipeline("sign-language-translation", repo_id, revision=revision, trust_remote_code=True)\n'
        'print(translate("clip.mp4"))\n'
    )


def test_what_is_there_already_is_not_sent_again(hub, folder):
    push(folder)
    first = hub.repository(REPO_ID).commit_id("main")
    num_requests = len(hub.requests)
    push(folder)
    assert hub.repository(REPO_ID).commit_id("main") == first
    assert [request.path for request in hub.requests[num_requests:] if "/commit/" in request.path] == []
    (folder / "README.md").write_text("# Another card\n")
    push(folder)
    (commit,) = [request for request in hub.requests[num_requests:] if "/commit/" in request.path]
    operations = [json.loads(line) for line in commit.body.splitlines()]
    assert [item["value"].get("path") for item in operations if item["key"] != "header"] == ["README.md"]
    assert len(hub.uploads()) == 1


def test_an_interrupted_push_is_completed_by_the_same_command(hub, folder, capsys, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its six attempts
    shards = make_sharded(folder)
    with hub.failing_after_uploads(1):
        error = error_of(main, flags(model=folder, repo_id=REPO_ID), capsys)
    assert (
        error == f"{hub.url} cannot be reached, or the connection broke off. Check it and run the same command again."
    )
    (arrived,) = hub.uploads()
    assert files_on(hub) == {}
    push(folder)
    assert files_on(hub) == files_of(folder)
    paths = [request.path for request in hub.uploads()]
    assert len(paths) == len(set(paths)) == len(shards) and paths[0] == arrived.path


def test_weights_of_an_earlier_push_go_and_other_files_stay(hub, folder):
    whole = (folder / "model.safetensors").read_bytes()
    shards = make_sharded(folder)
    push(folder)
    repository = hub.repository(REPO_ID)
    for name in ("LICENSE", "assets/model.safetensors", "demo.py", "old_flallm.py"):
        repository.change_file(name, b"from the web page")
    for name in [*shards, "model.safetensors.index.json"]:
        (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(whole)
    push(folder)
    kept = {name: b"from the web page" for name in ("LICENSE", "assets/model.safetensors", "demo.py")}
    assert files_on(hub) == dict(sorted({**files_of(folder), **kept}.items()))


def test_a_branch_is_made_and_main_stays(hub, folder):
    push(folder)
    (folder / "README.md").write_text("# On a branch\n")
    push(folder, revision="experiment", commit_message="An experiment")
    assert files_on(hub, revision="experiment")["README.md"] == b"# On a branch\n"
    assert files_on(hub)["README.md"] != b"# On a branch\n"
    assert any(b'"summary": "An experiment"' in request.body for request in hub.requests)


def test_a_public_repository_is_not_written_to_by_accident(hub, folder, capsys):
    hub.create_repository(REPO_ID)
    assert error_of(main, flags(model=folder, repo_id=REPO_ID), capsys) == (
        f"{REPO_ID} exists and is public: everybody would see what is sent. Pass --private False if that is meant; "
        "else make it private in its settings first."
    )
    assert hub.writes() == []
    push(folder, private=False)
    assert files_on(hub) == files_of(folder)


def test_a_private_repository_stays_private(hub, folder, capsys):
    push(folder)
    push(folder, private=False)
    assert f"{REPO_ID} exists and stays private; you can make it public in its settings." in capsys.readouterr().out
    assert hub.repository(REPO_ID).private


def test_a_public_repository_can_be_asked_for(hub, folder):
    push(folder, private=False)
    assert not hub.repository(REPO_ID).private


def test_a_missing_card_is_told_and_no_obstacle(hub, folder, capsys):
    (folder / "README.md").unlink()
    push(folder)
    assert "warning: there is no README.md, so nobody will know" in capsys.readouterr().out
    assert files_on(hub) == files_of(folder)


def test_without_a_token(hub, folder, capsys, monkeypatch):
    connect(monkeypatch, hub.url, token=None)
    assert error_of(main, flags(model=folder, repo_id=REPO_ID), capsys) == (
        "You are not logged in to the Hub: log in with `hf auth login` or set HF_TOKEN, with a token that may write, "
        f"from {hub.url}/settings/tokens."
    )
    assert hub.requests == []


def test_with_a_wrong_token(hub, folder, capsys, monkeypatch):
    connect(monkeypatch, hub.url, token="hf_of_nobody")
    assert error_of(main, flags(model=folder, repo_id=REPO_ID), capsys) == (
        "The Hub does not accept your token: log in with `hf auth login` or set HF_TOKEN, with a token from "
        f"{hub.url}/settings/tokens."
    )
    assert hub.writes() == []


@pytest.mark.parametrize("exists", [False, True])
def test_in_the_name_of_another(hub, folder, capsys, exists):
    if exists:
        hub.create_repository("another/model")
    assert error_of(main, flags(model=folder, repo_id="another/model", private=False), capsys) == (
        "Your token may not write to another/model: name a repository of yours, or use a token with write access "
        f"from {hub.url}/settings/tokens."
    )
    assert hub.uploads() == []


def test_offline(hub, folder, capsys, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert error_of(main, flags(model=folder, repo_id=REPO_ID), capsys) == (
        f"HF_HUB_OFFLINE is set, so the Hub is not asked for {REPO_ID}: unset it."
    )


def test_without_a_network(folder, capsys, monkeypatch):
    url = f"http://127.0.0.1:{unused_port()}"
    connect(monkeypatch, url, token="hf_of_me")
    error = error_of(main, flags(model=folder, repo_id=REPO_ID), capsys)
    assert error == f"{url} cannot be reached, or the connection broke off. Check it and run the same command again."


@pytest.mark.parametrize("repo_id", ["flallm-tiny", "me/a/b", "me/-x", "me/x.git", "me/two words", ""])
def test_a_bad_repository_id(hub, folder, capsys, repo_id):
    assert error_of(main, flags(model=folder, repo_id=repo_id), capsys) == (
        f"--repo_id must be OWNER/NAME, such as me/flallm-phoenix, got {repo_id!r}."
    )


def test_bad_combinations_of_arguments(folder, capsys):
    assert error_of(main, flags(repo_id=REPO_ID), capsys) == (
        "say what to upload: --model FOLDER, --space OWNER/NAME, or both."
    )
    assert error_of(main, flags(model=folder, repo_id=REPO_ID, revision="0" * 40), capsys) == (
        f"--revision must be a branch, so that a commit can be added, got {'0' * 40}."
    )
    assert error_of(main, flags(model=folder, repo_id=REPO_ID, base_model_repo_id="me/base"), capsys) == (
        f"--base_model_repo_id is for a LoRA adapter, and {folder} holds a whole model. Leave it out."
    )


def incomplete(folder: Path, capsys) -> str:
    """The error for a folder."""
    error = error_of(main, flags(model=folder, repo_id=REPO_ID, dry_run=True), capsys)
    start = f"{folder} holds no complete model: "
    assert error.startswith(start) and error.endswith(".")
    return error.removeprefix(start).removesuffix(".")


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_a_missing_file(folder, capsys, name):
    (folder / name).unlink()
    assert incomplete(folder, capsys) == f"{name} is missing"


@pytest.mark.parametrize(
    "name",
    [
        "modeling_flallm.py",
        "encoder_frames_slt.py",
        "pipeline_slt.py",
        "dataset_rows_slt.py",
        "word_evidence_slt.py",
        "loading_slt.py",
        "losses_slt.py",
        "configuration_flallm.py",
        "processing_flallm.py",
        "video_processing_slt.py",
        "video_decoding_slt.py",
    ],
)
def test_a_missing_python_file(folder, capsys, name):
    (folder / name).unlink()
    assert incomplete(folder, capsys) == f"{name} is missing, which another file needs"


@pytest.fixture
def secret(tmp_path) -> Path:
    """A file of the machine that does not belong to the model."""
    path = tmp_path / "secret.safetensors"
    save_file({"key": torch.ones(2)}, path)
    return path


def refused(hub: MiniHub, folder: Path, capsys) -> str:
    """Why a folder is not pushed; a dry run gives the same reason."""
    error = error_of(main, flags(model=folder, repo_id=REPO_ID), capsys)
    assert hub.writes() == []
    assert error_of(main, flags(model=folder, repo_id=REPO_ID, dry_run=True), capsys) == error
    return error


def name_in_index(folder: Path, name: Any) -> Path:
    """Let the index of a sharded model name another file in place of its first shard."""
    first, *_ = make_sharded(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shards = index["weight_map"]
    index["weight_map"] = {key: name if shard == first else shard for key, shard in shards.items()}
    path.write_text(json.dumps(index))
    return path


@pytest.mark.parametrize("name", ["{secret}", "../secret.safetensors", "runs/../../secret.safetensors", "..\\secret"])
def test_an_index_that_names_a_file_elsewhere(hub, folder, secret, capsys, name):
    name = name.format(secret=secret)
    name_in_index(folder, name)
    assert refused(hub, folder, capsys) == (
        f"{name!r} would leave {folder}. Put the file into that folder, and name it from there."
    )


@pytest.mark.parametrize("name", ["optimizer.pt", "token", "checkpoint-8/model.safetensors", "notes.py"])
def test_an_index_that_names_what_is_no_weights_beside_it(hub, folder, capsys, name):
    index = name_in_index(folder, name)
    assert refused(hub, folder, capsys) == (
        f"{index} names {name!r}, which is no .safetensors file beside it. Save the model again."
    )


@pytest.mark.parametrize("name", [".env", ".git/config", ".hidden.safetensors"])
def test_an_index_that_names_a_hidden_file(hub, folder, capsys, name):
    name_in_index(folder, name)
    assert refused(hub, folder, capsys) == (
        f"{folder / name} leads to the hidden {folder / name}. Hidden files are neither read nor sent."
    )


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_that_is_none(hub, folder, capsys, content):
    make_sharded(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(content)
    assert refused(hub, folder, capsys).startswith(f"{index} ")


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
@pytest.mark.parametrize("module", ["/{secret}", "../secret", "sub/secret"])
def test_code_elsewhere_is_no_module_of_the_model(hub, folder, tmp_path, capsys, key, module):
    (tmp_path / "secret.py").write_text("KEY = 1")
    (folder / "sub").mkdir()
    (folder / "sub" / "secret.py").write_text("KEY = 1")
    module = module.format(secret=str(tmp_path / "secret").lstrip("/"))
    config = json.loads((folder / "config.json").read_text())
    reference = f"{module}.Class"
    config[key]["more"] = reference if key == "auto_map" else {"impl": reference}
    (folder / "config.json").write_text(json.dumps(config))
    assert refused(hub, folder, capsys) == (
        f"{folder} holds no complete model: {module.split('.')[0]}.py is missing, which another file needs."
    )


def test_an_import_of_code_elsewhere(hub, folder, tmp_path, capsys):
    (tmp_path / "secret.py").write_text("KEY = 1")
    module = folder / "losses_slt.py"
    module.write_text(module.read_text() + "\nfrom ./../secret import KEY\n")
    assert "/../secret.py is missing, which another file needs." in refused(hub, folder, capsys)


SENT_BY_NAME = ["README.md", "config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors",
                "training_run.json", "processing_flallm.py", "vocab.txt", "adapter_config.json",
                CALIBRATION_FILE]  # fmt: skip


@pytest.mark.parametrize("name", SENT_BY_NAME)
def test_links_to_other_places_are_not_followed(hub, folder, secret, capsys, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    assert refused(hub, folder, capsys) == (
        f"{folder / name} is a link to {secret}, outside its folder. Put the file itself in its place."
    )
    (folder / name).unlink()
    (folder / name).hardlink_to(secret)
    assert refused(hub, folder, capsys) == (
        f"{folder / name} is a hard link to a file outside its folder. Put a copy of it in its place."
    )


def test_a_link_to_a_hidden_file_of_the_folder(hub, folder, capsys):
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(".env")
    assert refused(hub, folder, capsys) == (
        f"{folder / 'README.md'} leads to the hidden {folder / '.env'}. Hidden files are neither read nor sent."
    )


def test_a_link_that_leads_nowhere(hub, folder, capsys):
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("README.md")
    assert refused(hub, folder, capsys).startswith(f"{folder / 'README.md'} cannot be read: ")


def test_links_within_the_folder_and_links_that_are_not_sent(hub, folder, secret, tmp_path):
    expected = files_of(folder)
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "model.safetensors")
    (folder / "model.safetensors").symlink_to("weights/model.safetensors")
    (folder / "checkpoint-8" / "config.json").hardlink_to(folder / "config.json")
    (folder / "more").symlink_to(tmp_path)
    (folder / "all.safetensors").symlink_to(secret)
    (tmp_path / "link").symlink_to(folder)
    push(tmp_path / "link")
    assert files_on(hub) == expected


def test_a_snapshot_of_the_cache_is_sent(hub, folder):
    push(folder)
    snapshot = Path(huggingface_hub.snapshot_download(REPO_ID, cache_dir=folder.parent / "cache"))
    assert (snapshot / "config.json").is_symlink()
    push(snapshot, repo_id="me/again")
    assert files_on(hub, "me/again") == files_on(hub)


def test_everything_that_is_wrong_is_said_at_once(folder, capsys):
    for name in ("model.safetensors", "tokenizer.json", "processor_config.json"):
        (folder / name).unlink()
    shutil.copy(folder / "config.json", folder / "pytorch_model.bin")
    assert incomplete(folder, capsys) == (
        "the weights, model.safetensors, are missing; processor_config.json is missing; the tokenizer's vocabulary, "
        "such as tokenizer.json, is missing"
    )


def test_weights_that_were_cut_off(folder, capsys):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert re.fullmatch(r"model\.safetensors is broken \(.+\)", incomplete(folder, capsys))


def test_a_missing_shard_and_a_second_set_of_weights(folder, capsys):
    whole = (folder / "model.safetensors").read_bytes()
    first, *_ = make_sharded(folder)
    content = (folder / first).read_bytes()
    (folder / first).unlink()
    assert incomplete(folder, capsys) == f"{first} is missing"
    (folder / first).write_bytes(content)
    (folder / "model.safetensors").write_bytes(whole)
    assert incomplete(folder, capsys) == (
        "it holds both model.safetensors and a sharded model, of which one is from another run (remove it)"
    )


def test_a_model_without_its_python_files(folder, capsys):
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"], config["custom_pipelines"]
    (folder / "config.json").write_text(json.dumps(config))
    assert incomplete(folder, capsys) == (
        "config.json names no Python file for AutoConfig, AutoModel, AutoModelForSeq2SeqLM (load the model with this "
        "version of FLaLLM and save it again)"
    )


def test_no_folder_and_no_json(folder, tmp_path, capsys):
    missing = tmp_path / "nothing"
    assert error_of(main, flags(model=missing, repo_id=REPO_ID), capsys) == (
        f"--model {missing} is not a folder. Name the one in which training saved the model."
    )
    for name in (CALIBRATION_FILE, "config.json"):
        (folder / name).write_text("{")
        error = error_of(main, flags(model=folder, repo_id=REPO_ID), capsys)
        assert error.startswith(f"{folder / name} is no JSON file: ")


def test_an_adapter_names_its_base_on_the_hub(hub, adapter, capsys):
    base = hub.create_repository("me/base", private=True)
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    local_base = str(adapter.parent / "lora_base").encode()
    assert local_base in before["README.md"] and local_base in before["adapter_config.json"]
    push(adapter, repo_id="me/adapter", base_model_repo_id="me/base")
    sent = files_on(hub, "me/adapter")
    assert set(sent) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    config = json.loads(before["adapter_config.json"])
    assert json.loads(sent["adapter_config.json"]) == {**config, "base_model_name_or_path": "me/base"}
    assert b"\nbase_model: me/base\n" in sent["README.md"]
    assert not any(local_base in content for content in sent.values())
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    out = capsys.readouterr().out
    assert f'from_pretrained("me/base", revision="{base.commit_id("main")}", trust_remote_code=True)' in out
    assert f'"me/adapter", revision="{hub.repository("me/adapter").commit_id("main")}")' in out


def test_the_card_of_a_run_names_the_repository(hub, tmp_path, capsys):
    """The output of training is pushed with its record; in the folder the card keeps the folder's name."""
    stage = tmp_path / "stage1"
    visual_initialing.train(stage1_flags(stage, max_steps=1, **WITHOUT_EVALUATION))
    card, record = ((stage / name).read_text(encoding="utf-8") for name in ("README.md", "training_run.json"))
    push(stage)
    sent = files_on(hub)
    assert f'model="{REPO_ID}", trust_remote_code=True' in sent["README.md"].decode()
    assert json.loads(sent["training_run.json"])["model_name"] == REPO_ID
    assert (stage / "README.md").read_text(encoding="utf-8") == card
    assert (stage / "training_run.json").read_text(encoding="utf-8") == record
    assert not any(str(tmp_path).encode() in content for content in sent.values())
    assert "training_arguments.json" in capsys.readouterr().out  # is left out: it holds paths of this machine


def test_training_can_push_by_itself(hub, tmp_path):
    stage = tmp_path / "stage1"
    visual_initialing.train(
        stage1_flags(stage, max_steps=1, push_to_hub=True, hub_model_id=REPO_ID, **WITHOUT_EVALUATION)
    )
    assert hub.repository(REPO_ID).private
    sent = files_on(hub)
    for name in ("config.json", "model.safetensors", "modeling_flallm.py", "processor_config.json", "README.md"):
        assert sent[name] == (stage / name).read_bytes(), name
    assert f'model="{REPO_ID}", trust_remote_code=True' in sent["README.md"].decode()
    assert not any(str(tmp_path).encode() in content for content in sent.values())


def test_training_pushes_the_model_and_nothing_else_of_its_folder(hub, tmp_path, secret):
    stage = tmp_path / "stage1"
    names = {"logs/.env": b"", "notes.py": b"", "keys.safetensors": b""}

    class LeaveFiles(TrainerCallback):
        def on_save(self, *_, **__):
            (stage / "logs").mkdir(exist_ok=True)
            for name in names:
                (stage / name).write_bytes(b"not for others")
            (stage / "more.json").symlink_to(secret)

    values = {**WITHOUT_EVALUATION, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    arguments = stage1_flags(stage, push_to_hub=True, hub_model_id=REPO_ID, report_to="tensorboard", **values)
    visual_initialing.train(arguments, callbacks=[LeaveFiles()])
    assert (stage / "notes.py").is_file() and (stage / "checkpoint-1" / "optimizer.pt").is_file()
    sent = set(files_on(hub))
    assert {"config.json", "model.safetensors", "README.md", "training_run.json"} <= sent
    assert sent == set(read_model_folder(stage, REPO_ID).files)


def test_training_does_not_push_to_a_public_repository_by_accident(hub, tmp_path, capsys):
    hub.create_repository(REPO_ID)
    values = {"max_steps": 1, "push_to_hub": True, "hub_model_id": REPO_ID, **WITHOUT_EVALUATION}
    assert error_of(visual_initialing.main, stage1_flags(tmp_path / "private", **values), capsys) == (
        f"{REPO_ID} exists and is public: everybody would see the model. Pass --hub_private_repo False if that is "
        "meant; else make it private in its settings first."
    )
    assert files_on(hub) == {} and not list((tmp_path / "private").glob("*.safetensors"))
    visual_initialing.train(stage1_flags(tmp_path / "public", hub_private_repo=False, **values))
    assert "model.safetensors" in files_on(hub)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_checkpoints_are_not_sent_while_training(hub, tmp_path, capsys, strategy):
    argv = stage1_flags(tmp_path / "stage1", push_to_hub=True, hub_model_id=REPO_ID, hub_strategy=strategy)
    assert error_of(visual_initialing.main, argv, capsys) == (
        "--hub_strategy must be end: the others upload all of --output_dir during training, including its logs and the "
        "optimizer's state."
    )
    assert hub.requests == []


def test_the_methods_of_transformers_push_complete_repositories(hub, folder):
    FLaLLMForTranslation.from_pretrained(folder).push_to_hub(REPO_ID, private=True)
    FLaLLMProcessor.from_pretrained(folder).push_to_hub(REPO_ID)
    expected = {name for name in files_of(folder) if name != "README.md"}
    assert expected <= set(files_on(hub))
    for name in expected - {"config.json", "tokenizer_config.json"}:  # these say how they were loaded
        assert files_on(hub)[name] == (folder / name).read_bytes(), name


def card_on(hub: MiniHub, repo_id: str = REPO_ID) -> ModelCard:
    return ModelCard(files_on(hub, repo_id)["README.md"].decode())


def facts_of(card: ModelCard) -> tuple[str, str | None, list[str]]:
    return card.data.library_name, card.data.pipeline_tag, card.data.tags


FACTS = ("transformers", "video-text-to-text", ["sign-language", "sign-language-translation", "gloss-free", "flallm"])
WAYS = {
    "push_to_hub": lambda model, folder: model.push_to_hub(REPO_ID),
    "save_pretrained": lambda model, folder: model.save_pretrained(folder, push_to_hub=True, repo_id=REPO_ID),
    "pipeline": lambda model, folder: pipeline(
        "sign-language-translation", model, processor=FLaLLMProcessor.from_pretrained(trained_model())
    ).push_to_hub(REPO_ID),
}


@pytest.mark.parametrize("way", WAYS)
def test_without_a_card_the_methods_of_transformers_send_a_short_one(hub, tmp_path, way):
    WAYS[way](tiny_model(), tmp_path / "saved")
    card = card_on(hub)
    assert facts_of(card) == FACTS
    assert "[More Information Needed]" not in card.text
    assert f'pipeline("sign-language-translation", "{REPO_ID}", trust_remote_code=True)' in card.text
    assert "**Do not use it where a mistake can hurt somebody.**" in card.text


@pytest.mark.parametrize("way", WAYS)
def test_the_methods_of_transformers_send_the_card_of_the_folder(hub, folder, tmp_path, way):
    usage = '<!-- flallm:usage:begin -->\nload("stage2")\n<!-- flallm:usage:end -->'
    text = f'---\nlicense: apache-2.0\ntags: [mine]\n---\n# A "stage2"\n{usage}\n'
    (folder / "README.md").write_text(text, encoding="utf-8")
    WAYS[way](FLaLLMForTranslation.from_pretrained(folder), tmp_path / "saved")
    card = card_on(hub)
    assert facts_of(card) == (*FACTS[:2], ["mine", *FACTS[2]]) and card.data.license == "apache-2.0"
    assert card.text.strip() == text.split("---\n")[2].replace('load("stage2")', f'load("{REPO_ID}")').strip()
    assert (folder / "README.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("way", WAYS)
def test_the_methods_of_transformers_keep_a_card_that_is_there(hub, tmp_path, way):
    text = "---\npipeline_tag: translation\n---\nBy hand. [More Information Needed]\n"
    hub.create_repository(REPO_ID, files={"README.md": text.encode()})
    WAYS[way](tiny_model(), tmp_path / "saved")
    card = card_on(hub)
    assert card.text.strip() == "By hand. [More Information Needed]"
    assert facts_of(card) == ("transformers", "translation", FACTS[2])


def test_a_card_in_the_folder_that_is_saved_to_is_not_written_over(hub, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nBy hand.\n", encoding="utf-8")
    WAYS["save_pretrained"](tiny_model(), tmp_path)
    for card in (card_on(hub), ModelCard.load(tmp_path / "README.md")):
        assert card.text.strip() == "By hand." and card.data.license == "mit" and facts_of(card) == FACTS


def test_a_card_that_is_a_link_is_not_sent_by_the_methods_of_transformers(hub, folder, tmp_path):
    (tmp_path / "secret").write_text("not for others")
    model = FLaLLMForTranslation.from_pretrained(folder)
    for make in (Path.symlink_to, Path.hardlink_to):
        (folder / "README.md").unlink()
        make(folder / "README.md", tmp_path / "secret")
        for send in (lambda: model.push_to_hub(REPO_ID), lambda: WAYS["save_pretrained"](model, folder)):
            with pytest.raises(ValueError, match=re.escape(f"{folder / 'README.md'} is a link, and its target")):
                send()
    assert (tmp_path / "secret").read_text() == "not for others"
    assert not any(b"not for others" in request.body for request in hub.requests)


def test_encoders_have_a_card_too(hub):
    for number, model in enumerate((tiny_vision_model(), tiny_contrastive_model().vision_model)):
        model.push_to_hub(f"me/encoder{number}")
        card = card_on(hub, f"me/encoder{number}")
        tags = FACTS[2] + ["llava-slt"] * number
        assert facts_of(card) == ("transformers", None, tags) and "**It cannot write a sentence.**" in card.text


def test_an_adapter_of_a_local_model(hub, adapter, capsys):
    error = error_of(main, flags(model=adapter, repo_id="me/adapter"), capsys)
    assert error == (
        f"The adapter's base model is {str(adapter.parent / 'lora_base')!r}, which nobody else can load: push that "
        "model first, and name it with --base_model_repo_id OWNER/NAME."
    )
    error = error_of(main, flags(model=adapter, repo_id="me/adapter", base_model_repo_id="me/typo"), capsys)
    assert error.startswith(f"me/typo is neither a local folder nor a repository at {hub.url} that you may see.")
    assert hub.writes() == []


def test_an_adapter_whose_base_is_on_the_hub_already(hub, adapter):
    hub.create_repository("me/base")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "me/base"}))
    (adapter / "README.md").unlink()
    push(adapter, repo_id="me/adapter")
    assert files_on(hub, "me/adapter") == {path.name: path.read_bytes() for path in sorted(adapter.iterdir())}


def test_adapter_and_model_do_not_share_a_repository(hub, folder, adapter, capsys):
    push(folder)
    arguments = flags(model=adapter, repo_id=REPO_ID, base_model_repo_id=REPO_ID)
    assert error_of(main, arguments, capsys) == (
        f"{REPO_ID} holds a whole model: push the adapter to a different repository."
    )
    push(adapter, repo_id="me/adapter", base_model_repo_id=REPO_ID)
    assert error_of(main, flags(model=folder, repo_id="me/adapter"), capsys) == (
        "me/adapter holds an adapter: push the whole model to a different repository."
    )


def space_files() -> dict[str, bytes]:
    paths = [*SPACE_FOLDER.iterdir(), SPACE_FOLDER.parent / "modeling_flallm" / "systems.py"]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def test_model_and_space_in_one_command(hub, folder, capsys):
    push(folder, space="me/demo")
    space = hub.repository("me/demo", "spaces")
    commit_id = hub.repository(REPO_ID).commit_id("main")
    assert files_on(hub) == files_of(folder)
    assert files_on(hub, "me/demo", "spaces") == space_files()
    assert space.private and space.sdk == "gradio"
    assert space.variables == {"MODEL_ID": REPO_ID, "MODEL_REVISION": commit_id}
    out = capsys.readouterr().out
    assert f"Sent to {hub.url}/spaces/me/demo, which shows commit {commit_id} of {REPO_ID}.\n" in out
    assert f"{REPO_ID} is private: give the Space a secret HF_TOKEN that may read it, in the Space's settings.\n" in out


def test_a_space_for_a_model_that_is_there(hub, capsys):
    hub.create_repository("another/model", files={"config.json": b"{}"})
    arguments = flags(space="me/demo", repo_id="another/model")
    assert main([*arguments, "--dry_run", "True"]) == 0
    assert hub.requests == []
    out = capsys.readouterr().out
    assert all(name in out for name in space_files()) and "README.md, so nobody" not in out
    assert main(arguments) == 0
    assert hub.repository("me/demo", "spaces").variables["MODEL_ID"] == "another/model"
    assert "HF_TOKEN" not in capsys.readouterr().out


def test_a_space_for_a_model_that_is_not_there(hub, capsys):
    error = error_of(main, flags(space="me/demo", repo_id="me/typo"), capsys)
    assert error == (
        f"me/typo is neither a local folder nor a repository at {hub.url} that you may see. Check the spelling; if it "
        "is private, log in with `hf auth login` or set HF_TOKEN with its owner's token."
    )
    assert hub.writes() == []


def test_the_space_says_what_the_hub_needs_to_know():
    front_matter = yaml.safe_load((SPACE_FOLDER / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert front_matter["sdk"] == "gradio" and re.fullmatch(r"6\.\d+\.\d+", front_matter["sdk_version"])
    assert front_matter["app_file"] == "app.py"
    assert len(front_matter["short_description"]) <= 60


def loading_error(repo_id: str, tmp_path: Path, **values) -> str:
    with pytest.raises(HUB_ERRORS) as caught:
        FLaLLMForTranslation.from_pretrained(repo_id, cache_dir=tmp_path / "cache", **values)
    return explain_hub_error(caught.value, repo_id)


def test_errors_on_loading(hub, tmp_path, monkeypatch):
    hub.create_repository("another/gated", files={"config.json": b"{}"}, gated=True)
    hub.create_repository("another/private", private=True)
    hub.create_repository("me/model", files={"config.json": b"{}"})
    assert loading_error("another/gated", tmp_path) == (
        f"another/gated is gated: its owners decide who may load it. Ask for access at {hub.url}/another/gated, then "
        "log in with `hf auth login` or set HF_TOKEN with that account's token."
    )
    for repo_id in ("another/private", "me/typo"):
        assert loading_error(repo_id, tmp_path).startswith(f"{repo_id} is neither a local folder nor a repository")
    assert loading_error("me/model", tmp_path, revision="nowhere") == (
        f"me/model has no such branch, tag or commit. See {hub.url}/me/model/tree/main."
    )
    connect(monkeypatch, hub.url, token="hf_of_nobody")
    assert loading_error("another/gated", tmp_path).startswith("The Hub does not accept your token: ")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert loading_error("me/model", tmp_path) == (
        "me/model is neither a local folder nor in the cache, and HF_HUB_OFFLINE is set: unset it to ask the Hub."
    )
    assert loading_error("no/such/folder", tmp_path) == (
        "no/such/folder is neither a local folder nor the OWNER/NAME of a repository on the Hub."
    )


def test_errors_that_are_none_of_the_hubs_keep_their_text():
    assert explain_hub_error(FileNotFoundError("no\n  such file"), "me/model") == "no such file"


def test_the_servers_own_troubles(hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    answers = {
        412: "Somebody else has just changed me/model: run the same command again.",
        429: "You have reached the Hub's rate limit: wait a few minutes and run the same command again.",
        503: "The Hub has a problem (status 503): run the same command again later.",
        418: "The Hub refused the request (status 418): I am a {teapot}",
    }
    for status, sentence in answers.items():
        hub.refusal = Refusal(status, "", "I am a {teapot}")
        with pytest.raises(HUB_ERRORS) as caught:
            huggingface_hub.HfApi(endpoint=hub.url).model_info("me/model")
        assert explain_hub_error(caught.value, "me/model") == sentence
