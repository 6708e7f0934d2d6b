"""configs/ray_serve.yaml: the server as a replica on a local Ray cluster."""

import json
import os
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from test_pipeline import make_pipeline, random_file

for package in ("fastapi", "uvicorn", "prometheus_client", "multipart", "pebble", "httpx", "ray"):
    pytest.importorskip(package)
try:
    from ray import serve
except ImportError as error:  # ray without its parts for serving
    pytest.skip(f"ray[serve] is not installed: {error}", allow_module_level=True)

import httpx  # noqa: E402
import ray  # noqa: E402

from train_scripts.serving.ray_deployment import build  # noqa: E402

CONFIG = yaml.safe_load((Path(__file__).resolve().parent.parent / "configs" / "ray_serve.yaml").read_text())


def test_the_flags_of_the_file_are_those_of_the_command():
    (application,) = CONFIG["applications"]
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    assert [each["name"] for each in application["deployments"]] == ["Translator"]
    assert build(application["args"]) is not None
    with pytest.raises(SystemExit):
        build({**application["args"], "max_streems": 3})


@pytest.mark.slow
def test_a_replica_answers_as_the_pipeline(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    for check in ("READY_CHECK", "HEALTH_CHECK"):  # machines that are busy start it slowly
        monkeypatch.setenv(f"RAY_SERVE_PROXY_{check}_TIMEOUT_S", "120")
    translator = make_pipeline()
    translator.save_pretrained(tmp_path / "model")
    clip = random_file(tmp_path / "clip.mp4")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (application,) = CONFIG["applications"]
    settings = application["args"] | {"model": str(tmp_path / "model"), "dtype": "float32", "num_readers": 1}
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(settings), name="flallm", route_prefix="/")
        address = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{address}/health", timeout=60) as answer:
            assert json.load(answer)["status"] == "ready"
        answer = httpx.post(f"{address}/translate", files={"file": ("clip.mp4", clip.read_bytes())}, timeout=60)
        assert answer.json()["translation_text"] == translator(str(clip))["translation_text"]
    finally:
        serve.shutdown()
        ray.shutdown()
