"""Shared code asks a modality: its names occur in its own files, and in the places below, each with its reason."""

import ast
import re
from collections.abc import Iterator

import pytest
from test_project import REMOTE_CODE_PACKAGES, ROOT, python_files

from modeling_flallm import SIGN_ENCODERS
from processing import MODALITIES
from processing.modalities_slt import modality_of_input
from train_scripts.arguments.encoder_arguments import ENCODER_ROWS

# The files of each modality, by its column.
OWN_FILES = {
    "video": r"processing/(modality_)?video_\w+\.py|modeling_flallm/encoder_(frames|words|pretrained)_slt\.py",
    "visual_features": r"processing/\w*features?_(files_)?slt\.py|modeling_flallm/\w+_features_slt\.py|"
    r"train_scripts/arguments/visual_features_arguments\.py",
    "poses": r"processing/(\w*poses?_(\w+_)?|hand_crops_)slt\.py|modeling_flallm/\w+_poses_slt\.py|"
    r"train_scripts/arguments/pose_arguments\.py",
}
ENCODED = "the models' argument for clips that are encoded already, from any sign encoder"
NAMED_ARGUMENT = "transformers names each modality in the call of a model or a processor"
OF_TRANSFORMERS = "what transformers calls all that moves: chat templates, `get_encoder`, `input_modalities`"
ONE_CLIP = "the pipeline's own key for a clip of any modality"
RAW_CORPORA = "raw corpora are videos: they are prepared, inspected and rendered as such"
SPACE = "the page takes videos or poses"
RAW_POSES = "poses that others found, and those of rendered signers, are prepared, inspected and rendered as such"
RAW_FEATURES = "features that others computed are prepared as such"
POSES_COMMAND = "a command has this name, too"
MEASURES_VIDEOS = "measures the way of videos"
MEASURES_POSES = "measures the way of poses"
EXCEPTIONS = {
    "video": {
        "modeling_flallm/backbone_slt.py": "transformers' own name for the input of a video model",
        "modeling_flallm/dataset_rows_slt.py": ONE_CLIP,
        "modeling_flallm/encoder_features_slt.py": OF_TRANSFORMERS,
        "modeling_flallm/encoder_poses_slt.py": OF_TRANSFORMERS,
        "modeling_flallm/language_encoder_decoder_slt.py": NAMED_ARGUMENT,
        "modeling_flallm/language_prompted_slt.py": NAMED_ARGUMENT,
        "modeling_flallm/long_videos_slt.py": "only long videos are split into sentences",
        "modeling_flallm/modeling_diffslt.py": NAMED_ARGUMENT,
        "modeling_flallm/modeling_flallm.py": OF_TRANSFORMERS,
        "modeling_flallm/modeling_llava_slt_contrastive.py": NAMED_ARGUMENT,
        "modeling_flallm/modeling_mmslt.py": NAMED_ARGUMENT,
        "modeling_flallm/pipeline_slt.py": ONE_CLIP,
        "modeling_flallm/sign_encoder_slt.py": "one check of frames for all sign encoders of videos",
        "modeling_flallm/translation_model_slt.py": NAMED_ARGUMENT,
        "processing/hand_crops_slt.py": "poses whose hands are cropped from the video beside them",
        "processing/processing_llava_slt.py": OF_TRANSFORMERS,
        "train_scripts/commands/inspect_dataset.py": RAW_CORPORA,
        "train_scripts/commands/prepare_dataset.py": RAW_CORPORA,
        "train_scripts/corpora/annotation_files.py": RAW_CORPORA,
        "train_scripts/corpora/corpus_schema.py": RAW_CORPORA,
        "train_scripts/corpora/corpus_tables.py": RAW_CORPORA,
        "train_scripts/corpora/inspected_clips.py": RAW_CORPORA,
        "train_scripts/corpora/planned_videos.py": RAW_CORPORA,
        "train_scripts/corpora/preparation_report.py": RAW_CORPORA,
        "train_scripts/runs/describers.py": OF_TRANSFORMERS,
        "train_scripts/runs/exported_settings.py": OF_TRANSFORMERS,
        "spaces_demo/app.py": SPACE,
        "benchmarks/confidence_on_untrained_videos.py": MEASURES_VIDEOS,
        "benchmarks/decode_and_preprocess.py": MEASURES_VIDEOS,
        "benchmarks/frozen_features.py": MEASURES_VIDEOS,
        "benchmarks/latency.py": MEASURES_VIDEOS,
        "benchmarks/latency_process.py": MEASURES_VIDEOS,
        "benchmarks/long_video.py": MEASURES_VIDEOS,
        "benchmarks/peak_memory.py": MEASURES_VIDEOS,
        "benchmarks/pretrained_encoders.py": MEASURES_VIDEOS,
        "benchmarks/serving.py": MEASURES_VIDEOS,
        "benchmarks/spamo_at_real_size.py": MEASURES_VIDEOS,
        "benchmarks/streamed_memory.py": MEASURES_VIDEOS,
    },
    "visual_features": {
        "modeling_flallm/adapter_slt.py": ENCODED,
        "modeling_flallm/clip_translation_slt.py": ENCODED,
        "modeling_flallm/encoder_combined_slt.py": ENCODED,
        "modeling_flallm/handedness_slt.py": ENCODED,
        "modeling_flallm/language_encoder_decoder_slt.py": ENCODED,
        "modeling_flallm/language_prompted_slt.py": ENCODED,
        "modeling_flallm/modeling_diffslt.py": ENCODED,
        "modeling_flallm/modeling_mmslt.py": ENCODED,
        "modeling_flallm/sign_encoder_slt.py": ENCODED,
        "modeling_flallm/translation_model_slt.py": ENCODED,
        "processing/processing_flallm.py": NAMED_ARGUMENT,
        "processing/processing_llava_slt.py": NAMED_ARGUMENT,
        "train_scripts/clips/collators.py": ENCODED,
        "train_scripts/corpora/corpus_schema.py": RAW_FEATURES,
        "train_scripts/corpora/planned_features.py": RAW_FEATURES,
        "train_scripts/corpora/preparation_report.py": RAW_FEATURES,
        "train_scripts/corpora/reader_features.py": RAW_FEATURES,
        "train_scripts/runs/collapse_check.py": ENCODED,
        "train_scripts/runs/exported_graphs.py": ENCODED,
        "train_scripts/runs/trainers.py": ENCODED,
        "benchmarks/inference.py": ENCODED,
        "benchmarks/peak_memory.py": ENCODED,
        "benchmarks/spamo_at_real_size.py": ENCODED,
        "benchmarks/visual_initialing.py": ENCODED,
    },
    "poses": {
        "train_scripts/__main__.py": POSES_COMMAND,
        "train_scripts/arguments/commands.py": POSES_COMMAND,
        "train_scripts/commands/extract_poses.py": POSES_COMMAND,
        "train_scripts/commands/generate_corpus.py": RAW_POSES,
        "train_scripts/commands/inspect_dataset.py": RAW_POSES,
        "train_scripts/commands/prepare_dataset.py": RAW_POSES,
        "train_scripts/corpora/corpus_schema.py": RAW_POSES,
        "train_scripts/corpora/inspection_page.py": RAW_POSES,
        "train_scripts/corpora/planned_poses.py": RAW_POSES,
        "train_scripts/corpora/pose_folders.py": RAW_POSES,
        "train_scripts/corpora/reader_poses.py": RAW_POSES,
        "benchmarks/frame_rates.py": MEASURES_POSES,
        "benchmarks/isolated_recognition.py": MEASURES_POSES,
        "benchmarks/killed_commands.py": MEASURES_POSES,
        "benchmarks/poses_beside_frames.py": MEASURES_POSES,
        "spaces_demo/decoding.py": SPACE,
    },
}


def names_of(column: str) -> set[str]:
    """What the modality of a column calls its columns, arguments, tensors and flags."""
    (modality,) = (each for each in MODALITIES if each.column == column)
    flags = {row.flag for row in ENCODER_ROWS if row.column == column}
    return {modality.column, modality.argument, *modality.input_names} | flags


def names_in(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """
    Names that are whole texts and, of those in several words, which are no English, all within texts and in the code.
    Docstrings may name them.
    """
    no_english = {name for name in names if "_" in name}
    within = re.compile(rf"\b({'|'.join(sorted(no_english))})\b")
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from {node.value} & names or within.findall(node.value)
        yield from {getattr(node, field, None) for field in ("id", "attr", "arg")} & no_english


@pytest.fixture(scope="module")
def syntax_trees() -> dict[str, ast.AST]:
    """Of all files but the tests, by name."""
    packages = (*REMOTE_CODE_PACKAGES, "train_scripts", "spaces_demo", "benchmarks")
    paths = [path for package in packages for path in python_files(package)]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@pytest.mark.parametrize("column", OWN_FILES)
def test_only_its_own_files_name_a_modality(column, syntax_trees):
    found = {
        name: sorted(set(names_in(tree, names_of(column))))
        for name, tree in syntax_trees.items()
        if not re.fullmatch(OWN_FILES[column], name)
    }
    assert len(found) > 100
    named = {name: names for name, names in found.items() if names}
    assert {name: names for name, names in named.items() if name not in EXCEPTIONS[column]} == {}
    assert set(EXCEPTIONS[column]) - set(named) == set()  # no reason without its place


def test_every_modality_has_files_of_its_own():
    assert {modality.column for modality in MODALITIES} == set(OWN_FILES)
    files = [path.relative_to(ROOT).as_posix() for path in python_files()]
    assert all(any(re.fullmatch(own, name) for name in files) for own in OWN_FILES.values())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("if 'video' in columns: pass", {"video"}),
        ("row['visual_features']", {"visual_features"}),
        ("arguments.visual_features_size", {"visual_features_size"}),
        ("call(visual_features=x)", {"visual_features"}),
        ("def f(visual_features): pass", {"visual_features"}),
        ("f'Pass --visual_features_size for {x}'", {"visual_features_size"}),
        ("'a video of a sign language'", set()),
        ("def f(video):\n    'visual_features'", set()),
        ("modality.column", set()),
    ],
)
def test_the_search_for_names_of_modalities(source, found):
    assert set(names_in(ast.parse(source), names_of("video") | names_of("visual_features"))) == found


def test_rows_and_encoders_say_what_their_modality_says():
    """Help texts are there without torch, and a pushed model without its processor, so these have it once more."""
    for row in ENCODER_ROWS:
        (modality,) = (each for each in MODALITIES if each.column == row.column)
        assert row.clips == modality.words.clips
    for encoder in SIGN_ENCODERS.values():
        if "main_input_name" not in vars(encoder):
            continue  # made of other encoders, of which it takes the inputs
        modality = modality_of_input(encoder.main_input_name)
        assert encoder.input_names == modality.input_names
        words = encoder.clip_words
        assert (words["reads"], words["example"]) == (modality.words.reads, modality.words.example)
        assert modality.words.reads.endswith(words["a_clip"])
