"""
Serve a trained model over HTTP: clips by request, live signing by WebSocket.

    flallm serve --model quickstart_output/model --port 8000

http://127.0.0.1:8000/docs describes the endpoints, http://127.0.0.1:8000/metrics is for Prometheus. Ctrl-C ends the
server after what it is translating.
"""

import importlib.util
import sys
from collections.abc import Sequence

from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS

PACKAGES = ("fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client", "pebble")
SECONDS_TO_CLOSE = 5


def run(argv: Sequence[str] | None = None) -> int:
    """
    Serve until Ctrl-C, from command-line arguments.

    Raises:
        ValueError: for mistakes that the user has to fix.
    """
    (arguments,) = COMMANDS["serve"].parse(argv)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"The server needs {', '.join(missing)}: pip install 'flallm[serving]'.")
    import uvicorn

    from ..serving.app import build_app
    from ..serving.server import load_server
    from ..serving.stream_session import largest_message

    server = load_server(arguments)
    uvicorn.run(
        build_app(lambda: server),
        host=arguments.host,
        port=arguments.port,
        ws_max_size=largest_message(arguments),
        ws_per_message_deflate=False,  # pictures are compressed already
        access_log=False,
        timeout_graceful_shutdown=SECONDS_TO_CLOSE,
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
