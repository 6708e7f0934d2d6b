"""
Train, push, and load in a new process that has an empty cache and no package of ours: same sentence as before the push,
no code without consent, and none that came after the pinned commit.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mini_hub import MiniHub, Repository, connect
from peft import LoraConfig, get_peft_model
from tiny_corpus import WITHOUT_EVALUATION, corpus, flags, make_talkative, stage1_flags
from without_our_packages import run_without_our_packages

from modeling_flallm import FLaLLMForTranslation
from processing import FLaLLMProcessor
from train_scripts.commands import push_to_hub
from train_scripts.stages import visual_initialing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
REPO_ID = "me/flallm-tiny"

PREAMBLE = """
import json, os, sys
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, AutoVideoProcessor, pipeline

repo_id, clip = sys.argv[1:3]
TASK = "sign-language-translation"

def sentence(model_class, processor, **values):
    model = model_class.from_pretrained(repo_id, trust_remote_code=True, **values).eval()
    return processor.batch_decode(model.generate(**processor(videos=clip, return_tensors="pt")))[0]
"""

LOAD_EVERYTHING = """
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(repo_id, **trust)
processor = AutoProcessor.from_pretrained(repo_id, **trust)
video_processor = AutoVideoProcessor.from_pretrained(repo_id, **trust)
pixels = [each(videos=clip, return_tensors="pt")["pixel_values_videos"] for each in (processor, video_processor)]
translator = pipeline(TASK, repo_id, **trust)
ours = [type(item) for item in (config, processor, video_processor, translator.model, translator)]
print(json.dumps({
    "classes": [each.__name__ for each in ours],
    "packages": sorted({each.__module__.split(".")[0] for each in ours}),
    "same pixels": bool((pixels[0] == pixels[1]).all()),
    "sentences": [
        sentence(AutoModel, processor),
        sentence(AutoModelForSeq2SeqLM, processor),
        translator(clip)["translation_text"],
        pipeline(model=repo_id, **trust)(clip)["translation_text"],
    ],
}))
"""

LOAD_WHAT_WAS_CHANGED_LATER = """
revision, lines = sys.argv[3:5]
has_run = lambda: os.path.exists("marker")
found = {"refused": []}
for values in ({}, {"trust_remote_code": False}):
    for load in (AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, AutoVideoProcessor):
        try:
            load.from_pretrained(repo_id, **values)
        except ValueError as error:
            found["refused"].append("trust_remote_code" in str(error))
    try:
        pipeline(TASK, repo_id, **values)
    except ValueError as error:
        found["refused"].append("trust_remote_code" in str(error))
found["run without consent"] = has_run()

processor = AutoProcessor.from_pretrained(repo_id, revision=revision, trust_remote_code=True)
found["pinned"] = [sentence(load, processor, revision=revision) for load in (AutoModel, AutoModelForSeq2SeqLM)]
exec(lines.replace("print(translate(", "found['printed lines'] = (translate("))
found["run though pinned"] = has_run()

AutoConfig.from_pretrained(repo_id, trust_remote_code=True)
found["run when not pinned"] = has_run()
print()  # behind the question whether to run the code
print(json.dumps(found))
"""

LOAD_ADAPTER = """
processor = AutoProcessor.from_pretrained(repo_id, trust_remote_code=True)
exec(sys.argv[3])
finds_its_base = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[4], trust_remote_code=True)
inputs = processor(videos=clip, return_tensors="pt")
print(json.dumps({"sentences": [
    processor.batch_decode(each.eval().generate(**inputs))[0]
    for each in (finds_its_base, model, model.merge_and_unload())
]}))
"""


@pytest.fixture(scope="module")
def clip() -> Path:
    return sorted((corpus() / "test").glob("*.mp4"))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two steps of training, and then weights whose sentences differ from clip to clip."""
    folder = tmp_path_factory.mktemp("runs") / "stage1"
    visual_initialing.train(stage1_flags(folder, max_steps=2, **WITHOUT_EVALUATION))
    clips = sorted(map(str, (corpus() / "test").glob("*.mp4")))
    model, processor = FLaLLMForTranslation.from_pretrained(folder), FLaLLMProcessor.from_pretrained(folder)
    while len(set(translate(model, processor, clips))) < 3:
        make_talkative(model, processor.tokenizer)
    model.save_pretrained(folder)
    return folder


def translate(model: FLaLLMForTranslation, processor: FLaLLMProcessor, clips: list[str]) -> list[str]:
    return processor.batch_decode(model.eval().generate(**processor(videos=clips, return_tensors="pt")))


@pytest.fixture(scope="module")
def sentence_before_the_push(folder, clip) -> str:
    model, processor = FLaLLMForTranslation.from_pretrained(folder), FLaLLMProcessor.from_pretrained(folder)
    return translate(model, processor, [str(clip)])[0]


@pytest.fixture(scope="module")
def hub():
    with MiniHub() as hub:
        yield hub


def connected(hub: MiniHub, token: str = "") -> dict[str, str]:
    """Environment of a process with an empty cache in the folder that it runs in."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": "hf_home", "HF_HUB_DISABLE_XET": "1"}
    return environment | ({"HF_TOKEN": token} if token else {})


def run_our_command(
    hub: MiniHub, folder: Path, module: str, *arguments: str, token: str = ""
) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", f"train_scripts.{module}", *arguments],
        cwd=folder,
        env={**connected(hub, token), "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def printed_lines(hub, folder, tmp_path_factory) -> str:
    """The code that loads the model, according to the push."""
    arguments = ("--model", str(folder), "--repo_id", REPO_ID)
    push = run_our_command(hub, tmp_path_factory.mktemp("push"), "commands.push_to_hub", *arguments, token=hub.token)
    assert push.returncode == 0, push.stderr
    return push.stdout.split("To load it:\n\n")[1]


@pytest.fixture(scope="module")
def repository(hub, printed_lines) -> Repository:
    return hub.repository(REPO_ID)


def load(hub: MiniHub, folder: Path, code: str, *arguments: str, repo_id: str = REPO_ID) -> dict:
    environment = connected(hub, hub.token)
    printed = run_without_our_packages(PREAMBLE + code, repo_id, *arguments, folder=folder, environment=environment)
    return json.loads(printed.splitlines()[-1])


def test_what_was_trained_translates_where_nothing_of_ours_is(
    hub, repository, clip, sentence_before_the_push, tmp_path
):
    found = load(hub, tmp_path, LOAD_EVERYTHING, str(clip))
    assert found["classes"] == [
        "FLaLLMConfig",
        "FLaLLMProcessor",
        "FLaLLMVideoProcessor",
        "FLaLLMForTranslation",
        "SignLanguageTranslationPipeline",
    ]
    assert found["packages"] == ["transformers_modules"]
    assert found["same pixels"]
    assert found["sentences"] == [sentence_before_the_push] * 4


def test_no_code_without_consent_and_none_behind_the_pin(
    hub, repository, printed_lines, clip, sentence_before_the_push, tmp_path
):
    revision = repository.commit_id("main")
    for name, file in repository.files().items():
        if name.endswith(".py"):
            repository.change_file(name, file.content + b"\nopen('marker', 'w').close()\n")
    lines = printed_lines.replace("clip.mp4", str(clip))
    found = load(hub, tmp_path, LOAD_WHAT_WAS_CHANGED_LATER, str(clip), revision, lines)
    assert found == {
        "refused": [True] * 12,
        "run without consent": False,
        "pinned": [sentence_before_the_push] * 2,
        "printed lines": {"translation_text": sentence_before_the_push},
        "run though pinned": False,
        "run when not pinned": True,
    }


def test_an_adapter_loads_alone_and_merged(hub, folder, clip, sentence_before_the_push, tmp_path, monkeypatch, capsys):
    connect(monkeypatch, hub.url, hub.token)
    adapter = LoraConfig(target_modules=r"text_model\..*\.(q_proj|fc1)", init_lora_weights=False)
    model = get_peft_model(FLaLLMForTranslation.from_pretrained(folder), adapter)
    sentence = sentence_before_the_push
    while sentence == sentence_before_the_push:
        for name, weight in model.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(weight)
        sentence = translate(model, FLaLLMProcessor.from_pretrained(folder), [str(clip)])[0]
    model.save_pretrained(str(tmp_path / "lora_adapter"))
    assert push_to_hub.main(flags(model=folder, repo_id="me/base")) == 0
    arguments = flags(model=tmp_path / "lora_adapter", repo_id="me/adapter", base_model_repo_id="me/base")
    assert push_to_hub.main(arguments) == 0
    lines = capsys.readouterr().out.split("To load it:\n\n")[2]
    found = load(hub, tmp_path, LOAD_ADAPTER, str(clip), lines, "me/adapter", repo_id="me/base")
    assert found == {"sentences": [sentence] * 3}


def test_without_a_token_a_private_model_is_not_found(hub, repository, clip, tmp_path):
    child = run_our_command(hub, tmp_path, "commands.translate", str(clip), "--model", REPO_ID)
    assert child.returncode == 2
    sentence = (
        f"{REPO_ID} is neither a local folder nor a repository at {hub.url} that you may see. Check the spelling; "
    )
    assert sentence in child.stderr
