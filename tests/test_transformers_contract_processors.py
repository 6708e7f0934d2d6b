"""What transformers expects of every processor: the essential tests of its `ProcessorTesterMixin`, on both of ours."""

import inspect
import json

import numpy as np
import pytest
import torch
from test_processing_llava_slt import make_processor as make_prompted_processor
from tiny_tokenizers import SENTENCES, make_plain_tokenizer
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from processing import FLaLLMProcessor, FLaLLMVideoProcessor


def make_processor() -> FLaLLMProcessor:
    size = {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}
    return FLaLLMProcessor(FLaLLMVideoProcessor(**size, frame_sampling_rate=0.5), make_plain_tokenizer())


every_processor = pytest.mark.parametrize(
    "processor", [make_processor(), make_prompted_processor()], ids=["FLaLLMProcessor", "LlavaSltProcessor"]
)


def random_clips(*lengths: int) -> list[np.ndarray]:
    return [np.random.randint(0, 256, (length, 40, 48, 3), dtype=np.uint8) for length in lengths]


@every_processor
def test_it_is_a_processor_of_the_library_with_both_parts(processor, tmp_path):
    assert isinstance(processor, ProcessorMixin)
    assert processor.get_attributes() == ["video_processor", "tokenizer"]
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
    assert saved["processor_class"] == type(processor).__name__
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    settings, expected = ({**each.to_dict(), "auto_map": None} for each in (loaded, processor))
    assert settings == expected
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


@every_processor
def test_settings_are_replaced_on_loading(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, frame_sampling_rate=1.0)
    assert loaded.video_processor.frame_sampling_rate == 1.0


@every_processor
def test_its_outputs_are_its_input_names_in_every_kind_of_tensor(processor):
    clips = random_clips(8, 6)
    outputs = {kind: processor(videos=clips, text_target=SENTENCES, return_tensors=kind) for kind in ("pt", "np", None)}
    for kind, output in outputs.items():
        assert type(output) is BatchFeature
        assert sorted(output) == sorted(processor.model_input_names)
        expected = np.ndarray if kind == "np" else torch.Tensor
        assert all(isinstance(value, expected) for value in output.values())
        for name, value in output.items():
            assert (np.asarray(value) == outputs["pt"][name].numpy()).all()


@every_processor
def test_the_video_processor_gives_the_same_alone(processor):
    clips = random_clips(8, 6)
    alone, together = processor.video_processor(clips, return_tensors="pt"), processor(videos=clips)
    assert all(torch.equal(alone[name], together[name]) for name in processor.video_processor.model_input_names)


@every_processor
def test_metadata_comes_on_demand_only(processor):
    clip, rate = random_clips(8)[0], {"fps": 25}
    assert "video_metadata" not in processor(videos=clip, video_metadata=rate)
    (metadata,) = processor(videos=clip, video_metadata=rate, return_metadata=True)["video_metadata"]
    assert metadata["frames_indices"] == [0, 2, 4, 6]


@every_processor
def test_arguments_by_name_and_in_groups_are_one(processor):
    clips = random_clips(8, 6)
    by_name = processor(videos=clips, text_target=SENTENCES, frame_sampling_rate=1.0, return_tensors="np")
    in_groups = processor(
        videos=clips,
        text_target=SENTENCES,
        videos_kwargs={"frame_sampling_rate": 1.0},
        common_kwargs={"return_tensors": "np"},
    )
    assert all((by_name[name] == in_groups[name]).all() for name in by_name)


@every_processor
def test_unknown_arguments_and_other_inputs_are_refused(processor):
    with pytest.raises(TypeError, match="Unknown arguments"):
        processor(videos=random_clips(8), unknown=1)
    for name in ("images", "audio"):
        with pytest.raises(ValueError, match=f"The model takes videos, got `{name}`."):
            processor(videos=random_clips(8), **{name: [1]})
    with pytest.raises(ValueError):
        processor()


@every_processor
def test_decoding_is_the_tokenizer_and_ignores_what_labels_ignore(processor):
    labels = processor(videos=random_clips(8, 6), text_target=SENTENCES)["labels"]
    assert processor.batch_decode(labels) == SENTENCES
    assert processor.decode(labels[0]) == SENTENCES[0]
    assert list(inspect.signature(type(processor).__call__).parameters)[1:4] == ["videos", "text", "text_target"]
