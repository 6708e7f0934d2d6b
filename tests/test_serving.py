"""The server's endpoints: the same sentences as the pipeline, batches, limits, errors that say what to do."""

import itertools
import json
import multiprocessing
import re
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from test_pipeline import NO_SPECIAL_TOKENS, make_pipeline, random_file

for package in ("fastapi", "uvicorn", "prometheus_client", "multipart", "pebble"):
    pytest.importorskip(package)

from pebble import ProcessExpired  # noqa: E402
from serving_parts import serving  # noqa: E402

from modeling_flallm.clip_translation_slt import EncodedClips  # noqa: E402
from train_scripts.__main__ import find_command  # noqa: E402
from train_scripts.commands import serve  # noqa: E402
from train_scripts.serving import file_readers  # noqa: E402
from train_scripts.serving.file_readers import FileReaders, ReaderLimits  # noqa: E402
from train_scripts.serving.problems import Problem  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BUSY = "Try again in 5 seconds."


@pytest.fixture
def translator():
    pipeline = make_pipeline()
    pipeline.model.generation_config.update(min_new_tokens=2, **NO_SPECIAL_TOKENS)
    return pipeline


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    """Of different lengths."""
    return [random_file(tmp_path / f"{length}.mp4", length) for length in (24, 40, 31, 52)]


def ask(client, clip: Path, **fields):
    return client.post("/translate", files={"file": (clip.name, clip.read_bytes())}, data=fields)


def ask_for_all(client, clips):
    return client.post("/translate-batch", files=[("files", (clip.name, clip.read_bytes())) for clip in clips])


def metric(client, line: str) -> float:
    """The value of the line of the metrics that begins so."""
    (found,) = re.findall(rf"^{re.escape(line)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found)


# The same as the pipeline


def test_a_clip_gets_the_answer_of_the_pipeline(translator, clips, monkeypatch):
    with serving(translator, monkeypatch) as client:
        for clip, fields in itertools.product(clips[:2], ({}, {"start": 0.4, "end": 2.2}, {"num_beams": 3})):
            answer = ask(client, clip, **fields)
            expected = translator(str(clip), return_scores=True, **fields)
            assert answer.status_code == 200
            assert answer.json()["translation_text"] == expected["translation_text"] != ""
            assert answer.json()["score"] == pytest.approx(expected["score"], abs=1e-5)
            assert answer.json().keys() == expected.keys()


def test_a_calibrated_model_says_how_sure_it_is(translator, clips, monkeypatch):
    translator.model.config.confidence_calibration = {"slope": 1.0, "intercept": 0.5}
    with serving(translator, monkeypatch) as client:
        answer, expected = ask(client, clips[0]).json(), translator(str(clips[0]), return_scores=True)
        assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)
        assert (answer["is_familiar"], answer["is_measured"]) == (True, True)


def test_a_left_handed_signer(translator, clips, monkeypatch):
    with serving(translator, monkeypatch) as client:
        answer = ask(client, clips[0], left_handed="true").json()
        expected = translator(str(clips[0]), left_handed=True)
        assert (answer["translation_text"], answer["left_handed"]) == (expected["translation_text"], True)


def test_clips_that_wait_are_written_together_as_one_by_one(translator, clips, monkeypatch):
    flags = {"max_batch_size": len(clips), "batch_wait_milliseconds": 1000.0}
    with serving(translator, monkeypatch, **flags) as client:
        answers = ask_for_all(client, clips).json()
        assert [answer["file"] for answer in answers] == [clip.name for clip in clips]
        for clip, answer in zip(clips, answers, strict=True):
            expected = translator(str(clip), return_scores=True)
            assert answer["translation"]["translation_text"] == expected["translation_text"]
            assert answer["translation"]["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert metric(client, "flallm_batch_size_count") == 1
        assert metric(client, "flallm_batch_size_sum") == len(clips)


def test_a_batch_is_not_larger_than_it_may_be(translator, clips, monkeypatch):
    with serving(translator, monkeypatch, max_batch_size=3, batch_wait_milliseconds=200.0) as client:
        assert all("translation" in answer for answer in ask_for_all(client, clips).json())
        assert metric(client, 'flallm_batch_size_bucket{le="4.0"}') == metric(client, "flallm_batch_size_count")
        assert metric(client, "flallm_batch_size_count") >= 2


def test_different_beams_are_not_written_together(translator, clips, monkeypatch):
    with serving(translator, monkeypatch, batch_wait_milliseconds=200.0) as client:
        texts = {}

        def one(beams: int) -> None:
            texts[beams] = ask(client, clips[0], num_beams=beams).json()["translation_text"]

        threads = [threading.Thread(target=one, args=(beams,)) for beams in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == {beams: translator(str(clips[0]), num_beams=beams)["translation_text"] for beams in (1, 2)}


def test_joined_clips_are_those_of_each(translator, clips):
    alone = [translator.encode_clips([translator.read_clip(str(clip))]) for clip in clips]
    together = EncodedClips.joined(alone)
    assert together.num_frames == [each.num_frames[0] for each in alone] and together.are_left_handed is None
    written = translator.write_sentences(together, return_scores=True)
    for each, of_batch in zip(alone, written, strict=True):
        (by_itself,) = translator.write_sentences(each, return_scores=True)
        (expected,), (answer,) = translator.answers_of(by_itself), translator.answers_of(of_batch)
        assert answer["translation_text"] == expected["translation_text"]
        assert torch.allclose(of_batch["mean_features"], by_itself["mean_features"], atol=1e-5)
    assert EncodedClips.joined(alone[:1]) is alone[0]


# Mistakes


def test_a_bad_file_costs_only_itself(translator, clips, tmp_path, monkeypatch):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video", encoding="utf-8")
    with serving(translator, monkeypatch) as client:
        first, second, third = ask_for_all(client, [clips[0], bad, clips[1]]).json()
        assert second == {"file": "bad.mp4", "error": {"detail": "The file is not a video."}}
        assert first["translation"]["translation_text"] == translator(str(clips[0]))["translation_text"]
        assert third["translation"]["translation_text"] == translator(str(clips[1]))["translation_text"]
        assert metric(client, 'flallm_errors_total{kind="no_video"}') == 1


@pytest.mark.parametrize(
    ("name", "content", "fields", "status", "detail"),
    [
        ("clip.mp4", b"", {}, 400, "The file is empty."),
        ("clip.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", {}, 400, "The file is not a video."),
        ("http://localhost/clip.mp4", b"#EXTM3U\nhttp://localhost/a.ts\n", {}, 400, "The file is not a video."),
        ("notes.txt", b"a", {}, 415, "The model takes videos, in files such as clip.mp4. Got the name 'notes.txt'."),
        ("clip.mp4", None, {"start": 90}, 400, "The file has nothing between these seconds."),
        ("clip.mp4", None, {"start": 2, "end": 1}, 422, "`start` must come before `end`, got 2 and 1."),
        ("clip.mp4", None, {"start": "nan"}, 422, "`start` must be a number of seconds, 0 or more, got nan."),
        ("clip.mp4", None, {"num_beams": 0}, 422, "`num_beams` must be from 1 to 16, got 0."),
        ("clip.mp4", None, {"spoken_language": "de"}, 422, "This model writes one language. Leave `spoken_language`"),
        ("clip.mp4", None, {"left_handed": "maybe"}, 422, "The request has wrong fields: `left_handed`: Input should"),
    ],
)
def test_what_is_wrong_is_said(translator, clips, monkeypatch, name, content, fields, status, detail):
    with serving(translator, monkeypatch) as client:
        content = clips[0].read_bytes() if content is None else content
        answer = client.post("/translate", files={"file": (name, content)}, data=fields)
        assert answer.status_code == status
        assert answer.json()["detail"].startswith(detail) and "/tmp" not in answer.text
        assert metric(client, f'flallm_requests_total{{endpoint="/translate",status="{status}"}}') == 1


def test_a_clip_that_is_too_short(clips, monkeypatch):
    with serving(make_pipeline(vision={"temporal_blocks": ["K5", "P2", "K5", "P2"]}), monkeypatch) as client:
        answer = ask(client, clips[0], end=0.1)
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("The clip is too short to translate: 1 frame(s) are left after")


def test_a_request_without_a_file_and_an_unknown_address(translator, monkeypatch):
    with serving(translator, monkeypatch) as client:
        assert client.post("/translate").json() == {"detail": "The request has wrong fields: `file`: Field required."}
        answer = client.get("/nothing")
        assert (answer.status_code, answer.json()["detail"]) == (404, "Not Found. See /docs for what there is.")
        assert metric(client, 'flallm_requests_total{endpoint="other",status="404"}') == 1


def test_too_much_is_refused_whether_its_size_is_said_or_not(translator, monkeypatch):
    too_much = b"0" * 2**18
    with serving(translator, monkeypatch, max_megabytes=0.1) as client:
        expected = (413, {"detail": "A request may have 0.1 MB at most."})
        answer = client.post("/translate", files={"file": ("clip.mp4", too_much)})
        assert (answer.status_code, answer.json()) == expected
        form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="clip.mp4"\r\n\r\n'
        kind = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post("/translate", content=iter([form, too_much, b"\r\n--x--\r\n"]), headers=kind)
        assert (answer.status_code, answer.json()) == expected
        assert metric(client, 'flallm_errors_total{kind="too_large"}') == 2


def test_a_clip_may_last_so_long(translator, clips, monkeypatch):
    with serving(translator, monkeypatch, max_clip_seconds=2.0) as client:
        answer = ask(client, clips[1])
        assert (answer.status_code, answer.json()["detail"]) == (
            413,
            "A clip may last 2 seconds at most, got 4.0. Send one sentence at a time, or its `start` and `end`.",
        )
        assert ask(client, clips[1], start=1, end=3).status_code == 200


def test_a_picture_may_be_so_large(translator, clips, monkeypatch):
    monkeypatch.setattr(file_readers, "LARGEST_WIDTH_IN_PIXELS", 32)
    with serving(translator, monkeypatch) as client:
        answer = ask(client, clips[0])
        assert (answer.status_code, answer.json()["detail"]) == (
            413,
            "Its picture may have 32 x 2304 pixels at most, got 40 x 40.",
        )


def test_who_comes_when_all_places_are_taken_is_told_when_to_try_again(translator, clips, monkeypatch):
    with serving(translator, monkeypatch, max_waiting_clips=1) as client:
        with client.app.state.server.clips.places:
            answer = ask(client, clips[0])
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert answer.json() == {
                "detail": f"The server is busy: 1 clips are in work or waiting. {BUSY}",
                "retry_after_seconds": 5,
            }
            assert client.get("/health").json()["clips"] == 1
        assert ask(client, clips[0]).status_code == 200


def test_a_mistake_of_ours_says_nothing_of_it_and_the_next_clip_is_translated(translator, clips, monkeypatch):
    with serving(translator, monkeypatch) as client:
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(translator, "write_sentences", lambda *_, **__: 1 / 0)
            answer = ask(client, clips[0])
        assert (answer.status_code, answer.json()) == (
            500,
            {"detail": "The server could not translate this. Its log says why."},
        )
        assert metric(client, 'flallm_errors_total{kind="internal"}') == 1
        assert ask(client, clips[0]).json()["translation_text"] == translator(str(clips[0]))["translation_text"]


def test_what_cannot_be_written_together_is_written_one_by_one(translator, clips, monkeypatch):
    write = translator.write_sentences

    def without_memory_for_two(encoded, **arguments):
        if len(encoded.num_frames) > 1:
            raise RuntimeError("out of memory")
        return write(encoded, **arguments)

    with serving(translator, monkeypatch, batch_wait_milliseconds=500.0) as client:
        # Clips are encoded together, too, so two of different hands.
        monkeypatch.setattr(translator, "write_sentences", without_memory_for_two)
        server = client.app.state.server
        read = [translator.read_clip(str(clip)) for clip in clips[:2]]
        waiting = [server.model.translate(clip, hand, {}) for clip, hand in zip(read, (True, "auto"), strict=True)]
        texts = [future.result(60)[0]["translation_text"] for future in waiting]
        monkeypatch.setattr(translator, "write_sentences", write)
        assert texts == [
            translator(str(clip), left_handed=hand)["translation_text"]
            for clip, hand in zip(clips[:2], (True, "auto"), strict=True)
        ]


# Operations


def test_health(translator, monkeypatch):
    with serving(translator, monkeypatch, max_streams=7) as client:
        answer = client.get("/health")
        assert (answer.status_code, answer.json()) == (
            200,
            {
                "status": "ready",
                "model": "tiny",
                "streams": 0,
                "max_streams": 7,
                "clips": 0,
                "max_waiting_clips": 32,
            },
        )
        client.app.state.server.model.close()
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "failed")


def test_metrics_count(translator, clips, monkeypatch):
    with serving(translator, monkeypatch) as client:
        for clip in clips:
            ask(client, clip)
        assert metric(client, 'flallm_requests_total{endpoint="/translate",status="200"}') == len(clips)
        for part in ("read", "wait", "write", "clip"):
            assert metric(client, f'flallm_seconds_count{{part="{part}"}}') == len(clips)
        assert (
            metric(client, "flallm_clips") == metric(client, "flallm_streams") == metric(client, "flallm_waiting") == 0
        )


def test_the_openapi_description(translator, monkeypatch):
    with serving(translator, monkeypatch) as client:
        description = client.get("/openapi.json").json()
    assert description["paths"].keys() == {"/translate", "/translate-batch", "/health", "/metrics"}
    assert "/stream" in description["info"]["description"]
    of_translate = description["paths"]["/translate"]["post"]
    assert {"200", "400", "413", "415", "422", "503"} <= of_translate["responses"].keys()
    schemas = description["components"]["schemas"]
    assert schemas["Translation"]["examples"] and schemas["OneOfABatch"]["examples"]
    fields = schemas["Body_translate_translate_post"]["properties"]
    assert fields.keys() == {"file", "start", "end", "num_beams", "left_handed", "spoken_language"}
    assert all("description" in field for field in fields.values())


def test_files_are_gone_afterwards(translator, clips, monkeypatch):
    with serving(translator, monkeypatch) as client:
        folder = client.app.state.server.clips._folder
        ask(client, clips[0])
        client.post("/translate", files={"file": ("clip.mp4", b"no video")})
        assert folder.is_dir() and list(folder.iterdir()) == []
    assert not folder.exists()


@pytest.mark.slow
def test_a_process_that_reads_may_die(translator, clips, tmp_path, monkeypatch):
    translator.save_pretrained(tmp_path / "model")
    readers = FileReaders(str(tmp_path / "model"), ReaderLimits(60.0, 1))
    try:
        values, metadata = readers.read(clips[0], 0.5, 2.0)
        expected, of_expected = translator.processor.modality.open(clips[0], 0.5, 2.0)
        assert torch.equal(torch.from_numpy(values), expected) and metadata == dict(of_expected)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(Problem, match="The file is not a video."):
            readers.read(Path(__file__), None, None)
        assert len(readers.read(clips[0], 0.5, 2.0)[0]) == len(values)
    finally:
        readers.close()


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (TimeoutError(), "Reading the file took more than 120 seconds."),
        (ProcessExpired("killed"), "The file is damaged, or of a kind that cannot be read."),
        (MemoryError(), "The file is damaged, or of a kind that cannot be read."),
    ],
)
def test_a_file_that_ends_its_process_or_keeps_it_busy(error, detail):
    class Pool:
        active = True

        def schedule(self, *_, **__):
            future = Future()
            future.set_exception(error)
            return future

    readers = FileReaders.__new__(FileReaders)
    readers._limits, readers._lock, readers._pool = ReaderLimits(60.0, 1), threading.Lock(), Pool()
    with pytest.raises(Problem, match=re.escape(detail)):
        readers.read(Path("clip.mp4"), None, None)


def test_a_package_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr(serve, "PACKAGES", ("fastapi", "no_such_package"))
    assert serve.main(["--model", "m"]) == 2
    assert "The server needs no_such_package: pip install 'flallm[serving]'." in capsys.readouterr().err


# The container


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_container_copies_what_there_is():
    sources = [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert len(sources) == 7 and all((ROOT / source).exists() for source in sources)
    assert ignored[0] == "*" and all(f"!{source}" in ignored for source in sources)


def test_the_container_runs_a_command_that_there_is_without_root():
    (entry,) = (json.loads(rest) for name, rest in instructions() if name == "ENTRYPOINT")
    (flags,) = (json.loads(rest) for name, rest in instructions() if name == "CMD")
    command, words = find_command([*entry[1:], *flags])
    (arguments,) = command.parse(words)
    assert (entry[0], command.name) == ("flallm", "serve")
    assert (arguments.host, arguments.port, arguments.model) == ("0.0.0.0", 8000, "/model")
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT") and names.index("USER") > names.index("RUN")
    (check,) = (rest for name, rest in instructions() if name == "HEALTHCHECK")
    assert "http://127.0.0.1:8000/health" in check
