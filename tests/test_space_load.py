"""The Space under load and attack: many requests, files that nobody uploaded, killed readers, leftovers."""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from space_app import FOLDER, NUM_EXAMPLES, TEXTS, Space, bad_files, clips, settings
from tiny_corpus import trained_model

pytestmark = pytest.mark.slow

ENGLISH = TEXTS["en"]
NUM_CLIENTS = 50
NUM_CLIENTS_TO_WARM_UP = 30
MOST_WAITING = 60
MOST_GROWTH_IN_BYTES = 48 * 2**20
SECONDS_TO_START = 300
SECONDS_TO_WAIT = 120
web = httpx.Client(timeout=SECONDS_TO_WAIT, limits=httpx.Limits(max_connections=None))
# The real page, but its queue is full earlier, and it looks for old files each second. With SIGUSR1 it takes every
# file for as old as files may get, with SIGUSR2 no longer.
START = f"""
import signal, time, types, app, uploads

later = types.SimpleNamespace(sleep=time.sleep, time=lambda: time.time() + 60 * app.MINUTES_UNTIL_FILES_ARE_DELETED)
uploads.SECONDS_BETWEEN_SWEEPS = 1
app.MOST_WAITING = {MOST_WAITING}
signal.signal(signal.SIGUSR1, lambda *_: setattr(uploads, "time", later))
signal.signal(signal.SIGUSR2, lambda *_: setattr(uploads, "time", time))
app.main()
"""


@dataclass(frozen=True)
class SpaceProcess(Space):
    """A Space in a separate process; `examples` are the files in `sent` that belong to the page."""

    process: psutil.Process
    examples: frozenset[Path]

    def memory_in_bytes(self) -> int:
        """Memory of the process and its children that no other process shares."""
        tree = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_full_info().uss for process in tree)

    def kill_readers(self) -> None:
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("spawn_main" in word for word in child.cmdline()):
                    child.kill()

    def files(self) -> set[Path]:
        return files_in(self.sent) - self.examples


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Iterator[SpaceProcess]:
    folder = tmp_path_factory.mktemp("space")
    values = settings(folder)
    environment = {**os.environ, **values, "PYTHONPATH": str(FOLDER.parent), "OMP_NUM_THREADS": "1"}
    address = f"http://127.0.0.1:{values['GRADIO_SERVER_PORT']}"
    with subprocess.Popen([sys.executable, "-c", START], cwd=FOLDER, env=environment) as process:
        try:
            wait_until(lambda: is_answering(address) or process.poll() is not None, SECONDS_TO_START)
            sent = Path(values["GRADIO_TEMP_DIR"])
            yield SpaceProcess(address, sent, psutil.Process(process.pid), frozenset(files_in(sent)))
        finally:
            process.terminate()


def is_answering(address: str) -> bool:
    try:
        return web.get(f"{address}/config").is_success
    except httpx.TransportError:
        return False


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def alone(space) -> dict[Path, Any]:
    """The answer to each good file without other requests, by path."""
    client = Client(space.address, verbose=False)
    return {path: answer_of(client, path) for path in clips()}


def answer_of(client: Client, path: Path) -> Any:
    """The text and the captions of a good file, the sentence that says what is wrong with a bad one."""
    try:
        answer = client.predict(handle_file(str(path)), api_name="/translate")
    except AppError as error:
        return str(error)
    return answer["text"], [sentence["words"] for sentence in answer["sentences"]], answer["srt"], answer["vtt"]


def from_address(number: int) -> dict[str, str]:
    """The header with which a proxy on the same machine names the caller."""
    return {"X-Forwarded-For": f"8.8.8.{number}"}


def burst(space: SpaceProcess, paths: list[Path]) -> list[Any]:
    """Answers of clients that ask all at the same time, one for each path."""
    clients = [Client(space.address, verbose=False, headers=from_address(number)) for number in range(len(paths))]
    start = threading.Barrier(len(paths))

    def ask(client: Client, path: Path) -> Any:
        start.wait()
        return answer_of(client, path)

    with ThreadPoolExecutor(len(paths)) as threads:
        return list(threads.map(ask, clients, paths))


def mixed(expected: dict[Path, Any], count: int) -> list[Path]:
    paths = list(expected) * (count // len(expected) + 1)
    return [paths[index] for index in np.random.permutation(count)]


def test_fifty_at_once(space, alone, tmp_path):
    expected = {**alone, **{path: ENGLISH[name] for name, path in bad_files(tmp_path).items()}}
    burst(space, mixed(expected, NUM_CLIENTS_TO_WARM_UP))
    before = space.memory_in_bytes()
    paths = mixed(expected, NUM_CLIENTS)
    began = time.monotonic()
    answers = burst(space, paths)
    seconds = time.monotonic() - began
    assert [(path.name, answer) for path, answer in zip(paths, answers, strict=True)] == [
        (path.name, expected[path]) for path in paths
    ]
    wait_until(lambda: space.memory_in_bytes() - before < MOST_GROWTH_IN_BYTES, 10)
    growth = space.memory_in_bytes() - before
    print(f"{NUM_CLIENTS} at once: {seconds:.1f} s; memory: {before / 2**20:.0f} MiB, then {growth / 2**20:+.1f} MiB")


def test_nothing_that_was_sent_is_kept(space, alone, tmp_path):
    never_translated = upload(space, shutil.copy(clips()[0], tmp_path / f"other {np.random.bytes(4).hex()}.mp4"))
    assert Path(never_translated) in space.files() and len(space.files()) > len(alone) - NUM_EXAMPLES
    space.process.send_signal(signal.SIGUSR1)
    try:
        wait_until(lambda: not space.files(), SECONDS_TO_WAIT)
    finally:
        space.process.send_signal(signal.SIGUSR2)
    assert answer_of(Client(space.address, verbose=False), clips()[0]) == alone[clips()[0]]


def upload(space: SpaceProcess, path: str | Path) -> str:
    """The path on the server of a file that was uploaded."""
    with open(path, "rb") as file:
        return web.post(f"{space.address}/gradio_api/upload", files={"files": file}).json()[0]


def file_data(path: str, **values: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **values}


def call(space: SpaceProcess, video: Any, number: int = 0) -> str:
    """All that the simple API answers; the number distinguishes visitors."""
    address = f"{space.address}/gradio_api/call/translate"
    asked = web.post(address, json={"data": [video, 0, 0, False, "en", 1, "no"]}, headers=from_address(number))
    if not asked.is_success:
        return f"event: error\n{asked.text}"
    return web.get(f"{address}/{asked.json()['event_id']}", timeout=SECONDS_TO_WAIT).text


def takers_of_a_video(space: SpaceProcess) -> list[tuple[int, list[Any]]]:
    """Number and inputs of each function of the page that takes a video, named or not."""
    config = web.get(f"{space.address}/config").json()
    parts = {part["id"]: part for part in config["components"]}
    (video,) = [number for number, part in parts.items() if part["type"] == "video"]
    return [
        (
            function["id"],
            [None if number == video else parts[number]["props"].get("value") for number in function["inputs"]],
        )
        for function in config["dependencies"]
        if function["backend_fn"] and function["inputs"][:1] == [video]
    ]


def join(space: SpaceProcess, function: int, data: list[Any]) -> str:
    """All that the page's own requests get as an answer."""
    session = np.random.bytes(8).hex()
    asked = {"data": data, "fn_index": function, "session_hash": session}
    answer = web.post(f"{space.address}/gradio_api/queue/join", json=asked)
    if not answer.is_success:
        return f'"success":false {answer.text}'
    address = f"{space.address}/gradio_api/queue/data?session_hash={session}"
    return web.get(address, timeout=SECONDS_TO_WAIT).text


@pytest.fixture
def asked_for() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and the requests that it gets."""
    paths: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()


def test_only_what_was_uploaded_can_be_read(space, alone, asked_for, tmp_path):
    address, paths = asked_for
    secret = tmp_path / "secret.mp4"
    shutil.copy(clips()[0], secret)
    up = "/".join([".."] * 12)
    takers = takers_of_a_video(space)
    assert len(takers) >= 3
    videos = [
        *map(file_data, ["/etc/passwd", f"{up}/etc/passwd", "app.py", str(FOLDER / "app.py"), str(secret)]),
        *map(file_data, [f"{up}{secret}", f"file://{secret}", f"{space.sent}/../../{secret.name}"]),
        file_data(str(trained_model() / "config.json")),
        *map(file_data, [f"{address}/clip.mp4", f"HTTP{address[4:]}/clip.mp4", f"ftp{address[4:]}/clip.mp4"]),
        file_data("clip.mp4", url=f"{address}/clip.mp4"),
        file_data(f"concat:{secret}"),
        file_data(str(secret), url=f"file://{secret}"),
        str(secret),
        {"video": file_data(str(secret))},
    ]
    for video in videos:
        answer = call(space, video)
        assert "event: error" in answer and "event: complete" not in answer, video
        answers = [join(space, function, [video, *data[1:]]) for function, data in takers]
        assert all(re.search(r'"success": ?false', text) for text in answers), video
        assert not any(re.search(r"root:|import |text_config", text) for text in [answer, *answers]), video
    assert paths == []


def test_no_other_file_can_be_fetched(space, tmp_path):
    secret = shutil.copy(clips()[0], tmp_path / "secret.mp4")
    for path in ("/etc/passwd", secret, FOLDER / "app.py", trained_model() / "config.json", "app.py", "../README.md"):
        answer = web.get(f"{space.address}/gradio_api/file={path}")
        assert answer.status_code in (403, 404), path


def test_a_file_that_is_too_large(space, tmp_path):
    config = web.get(f"{space.address}/config").json()
    path = tmp_path / "large.mp4"
    with open(path, "wb") as file:
        file.truncate(config["max_file_size"] + 1)
    with open(path, "rb") as file:
        answer = web.post(f"{space.address}/gradio_api/upload", files={"files": file})
    assert answer.status_code == 413
    assert max((path.stat().st_size for path in space.files()), default=0) < 2**20


def test_the_queue_is_full(space, alone):
    clip = clips()[0]
    path = upload(space, clip)
    with ThreadPoolExecutor(2 * MOST_WAITING) as threads:
        answers = list(threads.map(lambda number: call(space, file_data(path), number), range(2 * MOST_WAITING)))
    done = [answer for answer in answers if "event: complete" in answer]
    refused = [answer for answer in answers if "event: error" in answer]
    assert len(done) + len(refused) == len(answers) and len(done) >= MOST_WAITING and refused
    text, *_ = alone[clip]
    assert all(json.dumps(text) in answer for answer in done)
    assert all(ENGLISH["error_too_many"] in answer for answer in refused)
    assert answer_of(Client(space.address, verbose=False), clip) == alone[clip]


def test_one_visitor_cannot_fill_the_queue(space, alone):
    """The others get their answers while one visitor sends more requests than there are places."""
    clip = clips()[0]
    path = upload(space, clip)
    with ThreadPoolExecutor(2 * MOST_WAITING) as threads:
        flood = [threads.submit(call, space, file_data(path), 1) for _ in range(2 * MOST_WAITING - 8)]
        others = [threads.submit(call, space, file_data(path), number) for number in range(2, 10)]
    text, *_ = alone[clip]
    assert all(json.dumps(text) in other.result() for other in others)
    refusal = ENGLISH["error_too_many_of_yours"].format(limit=10)
    assert all(json.dumps(text) in answer.result() or refusal in answer.result() for answer in flood)
    assert sum(refusal in answer.result() for answer in flood) > MOST_WAITING


def test_killed_readers_are_replaced(space, alone):
    paths = mixed(alone, 8)
    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(burst, space, paths)
        for _ in range(3):
            time.sleep(0.5)
            space.kill_readers()
        outcomes = zip(paths, answers.result(timeout=SECONDS_TO_WAIT), strict=True)
    assert all(answer in (alone[path], ENGLISH["error_damaged"]) for path, answer in outcomes)
    (clip,) = mixed(alone, 1)
    assert answer_of(Client(space.address, verbose=False), clip) == alone[clip]


def commands_on_the_page(space: SpaceProcess, language: str) -> str:
    """The one piece of code in that language that the page shows to programs."""
    config = web.get(f"{space.address}/config").json()
    values = [str(part["props"].get("value")) for part in config["components"] if part["type"] == "markdown"]
    (code,) = re.findall(rf"```{language}\n(.*?)```", "\n".join(values), re.DOTALL)
    return code


@pytest.mark.parametrize("language", ["python", "bash"])
def test_the_commands_on_the_page_work_as_they_stand(space, alone, tmp_path, language):
    if language == "bash" and not shutil.which("curl"):
        pytest.skip("there is no curl")
    clip = clips()[np.random.randint(len(clips()))]
    shutil.copy(clip, tmp_path / "clip.mp4")
    command = [sys.executable if language == "python" else "bash", "-c", commands_on_the_page(space, language)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS_TO_WAIT)
    assert done.returncode == 0, done.stderr
    text, *_ = alone[clip]
    assert (text if language == "python" else json.dumps(text)) in done.stdout
