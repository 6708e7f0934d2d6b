"""
The same server as replicas on a Ray cluster, for more users than one machine has room for.

    serve run train_scripts.serving.ray_deployment:build model=quickstart_output/model

`configs/ray_serve.yaml` says how many replicas there are. Each has a model and limits of its own; a stream stays with
its replica. Needs flallm[serving] and ray[serve].
"""

import functools
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from ..arguments.commands import COMMANDS
from ..arguments.serving_arguments import ServeArguments
from .app import build_app
from .server import load_server

OTHER_REQUESTS = 16  # health, metrics and those that are refused


def build(settings: dict[str, Any]) -> Application:
    """
    Args:
        settings: the flags of `flallm serve` by name, of which Ray Serve has `host` and `port` of its own.

    Raises:
        SystemExit: for unknown flags and values out of range, which it names.
    """
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    (arguments,) = COMMANDS["serve"].parse(words)
    most = arguments.max_streams + arguments.max_waiting_clips + OTHER_REQUESTS
    replica = serve.ingress(_builder(arguments))()
    return serve.deployment(replica, name="Translator", max_ongoing_requests=most).bind()


def _builder(arguments: ServeArguments) -> Any:
    def build_in_replica() -> FastAPI:
        return build_app(functools.partial(load_server, arguments))

    return build_in_replica
