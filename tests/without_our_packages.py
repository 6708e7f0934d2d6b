"""Run Python code in a new process in which our packages cannot be imported, even if FLaLLM is installed."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

REFUSE_OUR_PACKAGES = """
import sys

OURS = ("modeling_flallm", "processing", "train_scripts")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OURS:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
for name in OURS:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
"""
# What the code imports in any case: importing it takes longer than what the code does. It computes in one thread, so
# that its process can be forked.
FORK_FOR_EACH_REQUEST = """
import gc
gc.disable()
import json, os, traceback
import torch, torchvision
from transformers import AutoModel, AutoProcessor, AutoTokenizer, GenerationMixin, PreTrainedModel, Trainer, pipeline
from transformers import AutoVideoProcessor, MBartForConditionalGeneration, MT5ForConditionalGeneration
gc.freeze()
gc.enable()

def run(code, arguments, folder, output, errors):
    for number, path in ((0, os.devnull), (1, output), (2, errors)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.chdir(folder)
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    process = os.fork()
    if process == 0:
        status = run(**json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def run_without_our_packages(
    code: str, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    """
    What the code prints; it runs in `folder` with one thread and its own cache of remote code, `folder/modules`.

    Args:
        environment: in place of the environment of this process.
    """
    with tempfile.TemporaryDirectory() as printed:
        output, errors = Path(printed, "output"), Path(printed, "errors")
        paths = {"folder": str(folder), "output": str(output), "errors": str(errors)}
        server = _server(environment and tuple(environment.items()))
        print(json.dumps({"code": code, "arguments": arguments, **paths}), file=server.stdin, flush=True)
        status = server.stdout.readline()
        assert status == "0\n", errors.read_text() if status else "the process that forks has ended"
        return output.read_text()


@functools.cache
def _server(environment: tuple[tuple[str, str], ...] | None) -> subprocess.Popen[str]:
    """
    Imports everything once, and forks for each code that it is sent. The cache of remote code is named relative to the
    folder that the code runs in.
    """
    server = subprocess.Popen(
        [sys.executable, "-c", REFUSE_OUR_PACKAGES + FORK_FOR_EACH_REQUEST],
        cwd=tempfile.gettempdir(),
        env={**dict(environment or os.environ), "HF_MODULES_CACHE": "modules", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.wait)
    atexit.register(server.stdin.close)
    return server
