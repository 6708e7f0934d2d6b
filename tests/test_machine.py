"""What a run measures of its machine, and how it uses it: cores, threads, precision, memory."""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tiny_corpus import error_of, flags

from train_scripts.arguments import training_arguments as arguments_file
from train_scripts.arguments.dataclass_parser import CONFIG_FOLDER
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.commands import translate
from train_scripts.commands.evaluate_model import EvaluationRunArguments
from train_scripts.machine import cores, machine
from train_scripts.machine.machine import computing_dtype
from train_scripts.runs import training as training_file
from train_scripts.runs.training import start_run
from train_scripts.stages import pretrain_language_model, visual_initialing

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parent.parent
PRESETS = sorted(path.name for path in CONFIG_FOLDER.glob("*.yaml"))
needs_linux = pytest.mark.skipif(not cores.PROCESSOR_TIMES.is_file(), reason="the system does not tell busy cores")
# Makes torch see a processor with AVX2 only.
AVX2_ALONE = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


class FakeMachine:
    """
    A Linux machine of so many cores, of which others keep some busy while our process works on some itself; it is seen
    in place of the real one, with a clock that moves in `sleep` alone. There is no container, and our process may run
    on all cores.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, num_cores: int):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.shares = [0.0] * num_cores  # of the time in which others keep each core busy
        self.busy_seconds = [0.0] * num_cores
        self.num_own_cores = self.own_seconds = self.seconds = 0.0
        self.field = "user"
        monkeypatch.setattr(cores, "PROCESSOR_TIMES", folder / "stat")
        monkeypatch.setattr(cores, "CGROUP_LIMIT", folder / "cpu.max")
        clock = SimpleNamespace(
            sleep=self.sleep, monotonic=lambda: 1e5 + self.seconds, process_time=lambda: self.own_seconds
        )
        monkeypatch.setattr(cores, "time", clock)
        monkeypatch.setattr(machine, "time", clock)
        monkeypatch.setattr(os, "cpu_count", lambda: num_cores)
        self.may_run_on(set(range(num_cores)))
        self.write_times()

    def may_run_on(self, own: set[int]) -> None:
        self.monkeypatch.setattr(os, "sched_getaffinity", lambda process: own, raising=False)

    def limit_container(self, text: str) -> None:
        (self.folder / "cpu.max").write_text(text, encoding="utf-8")

    def keep_busy(self, num_busy: float, first: int = 0) -> None:
        """This many cores from the first one on; half a core is busy every other moment."""
        self.shares = [
            min(max(first + num_busy - index, 0.0), 1.0) * (index >= first) for index in range(len(self.shares))
        ]

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.own_seconds += self.num_own_cores * seconds
        self.busy_seconds = [
            busy + (share + self.num_own_cores / len(self.shares)) * seconds
            for busy, share in zip(self.busy_seconds, self.shares, strict=True)
        ]
        self.write_times()

    def write_times(self) -> None:
        """As proc(5) has it, in ticks: a line of all cores, and one of each."""
        names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
        rows = []
        for index, busy in enumerate(self.busy_seconds):
            seconds = dict.fromkeys(names, index + 1.0)
            seconds[self.field] += busy
            seconds["idle"] += self.seconds - busy
            rows.append([round(seconds[name] * os.sysconf("SC_CLK_TCK")) for name in names])
        rows = [[sum(column) for column in zip(*rows, strict=True)], *rows]
        labels = ["cpu ", *(f"cpu{index}" for index in range(len(self.shares)))]
        lines = [f"{label} {' '.join(map(str, row))}" for label, row in zip(labels, rows, strict=True)]
        (self.folder / "stat").write_text("\n".join([*lines, "intr 1 2 3", "ctxt 7"]) + "\n", encoding="utf-8")


@pytest.fixture
def fake_machine(tmp_path, monkeypatch) -> Callable[[int], FakeMachine]:
    return lambda num_cores: FakeMachine(tmp_path, monkeypatch, num_cores)


@pytest.fixture
def threads(monkeypatch) -> Iterator[Callable[[int], None]]:
    """Sets torch's threads for one test, in which no run has lowered them yet; afterwards they are as before."""
    monkeypatch.setattr(machine.ThreadsForFreeCores, "_lowered", None)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def processor(monkeypatch) -> Callable[[str, bool], None]:
    """A processor with the given capability of torch's kernels, with or without instructions for bfloat16."""

    def pretend(capability: str, has_bfloat16: bool) -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)

    return pretend


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# ------------------------------------------------------------------------------------------ cores


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # what exceeds one core is used by a second thread
        ("100001 50000\n", 3),
        ("10000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("", 8),
        ("200000\n", 8),
    ],
)
def test_a_container_limits_the_cores(fake_machine, limit, expected):
    fake_machine(8).limit_container(limit)
    assert cores.num_cores() == expected


def test_affinity_limits_the_cores(fake_machine):
    fake = fake_machine(8)
    assert cores.num_cores() == 8
    own = set(random.sample(range(8), random.randint(1, 8)))
    fake.may_run_on(own)
    assert cores.num_cores() == len(own)
    fake.limit_container("300000 100000\n")
    assert cores.num_cores() == min(len(own), 3)


def test_without_affinity_the_cores_are_those_of_the_machine(fake_machine, monkeypatch):
    fake_machine(6)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores.num_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # where Python does not know
    assert cores.num_cores() == 1


def busy_cores(fake: FakeMachine, seconds: float) -> float:
    """As measured within this many seconds."""
    busy = cores.BusyCores()
    fake.sleep(seconds)
    return busy.since_last()


@pytest.mark.parametrize("field", ["user", "nice", "system", "irq", "softirq"])
def test_work_of_every_kind_keeps_a_core_busy(fake_machine, field):
    fake = fake_machine(8)
    fake.field = field
    fake.keep_busy(2.5)
    assert busy_cores(fake, 0.1) == pytest.approx(2.5, abs=0.15)  # of ticks of a hundredth second
    assert busy_cores(fake, 20) == pytest.approx(2.5, abs=0.01)


@pytest.mark.parametrize("field", ["idle", "iowait", "steal"])
def test_a_core_that_waits_is_not_busy(fake_machine, field):
    fake = fake_machine(8)
    fake.field = field
    fake.keep_busy(3)
    assert busy_cores(fake, 20) == 0


def test_our_own_work_keeps_no_core_busy(fake_machine):
    fake = fake_machine(8)
    fake.num_own_cores = 3
    assert busy_cores(fake, 20) == pytest.approx(0, abs=0.01)
    fake.keep_busy(2)
    assert busy_cores(fake, 20) == pytest.approx(2, abs=0.01)


def test_more_work_of_our_own_than_the_system_counts_is_none_of_others(fake_machine, monkeypatch):
    """Both are counted by different clocks."""
    fake = fake_machine(8)
    monkeypatch.setattr(cores.time, "process_time", lambda: 9 * fake.seconds)
    assert busy_cores(fake, 20) == 0


def test_each_question_is_about_the_time_since_the_last_one(fake_machine):
    fake = fake_machine(8)
    busy = cores.BusyCores()
    for num_busy in (6, 0, 3):
        fake.keep_busy(num_busy)
        fake.sleep(20)
        assert busy.since_last() == pytest.approx(num_busy, abs=0.01)
    assert busy.since_last() == 0  # no time has passed


def test_where_the_system_does_not_tell_no_core_is_busy(fake_machine, tmp_path, monkeypatch):
    fake = fake_machine(8)
    fake.keep_busy(8)
    monkeypatch.setattr(cores, "PROCESSOR_TIMES", tmp_path / "nothing")
    assert busy_cores(fake, 20) == 0


@pytest.mark.parametrize(
    ("num_busy", "expected"), [(0, 8), (0.3, 8), (0.7, 7), (1, 7), (5, 3), (7, 1), (7.6, 1), (8, 1), (20, 1)]
)
def test_free_cores_are_those_that_nobody_else_keeps_busy(fake_machine, num_busy, expected):
    fake_machine(8)
    assert cores.num_free_cores(num_busy) == expected


@needs_linux
def test_this_machine_has_cores_and_a_busy_process_is_seen():
    """At least half of the one core that a process alone would use; others may be busy beside it."""
    assert 1 <= cores.num_cores() <= os.cpu_count()
    spinning = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(spinning, stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            busy = cores.BusyCores()
            time.sleep(0.8)
            assert 0.5 < busy.since_last() < os.cpu_count() + 1
        finally:
            process.kill()


def test_cores_are_known_without_importing_what_is_heavy():
    code = (
        "import sys, train_scripts.machine.cores; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    finished = run_python(code)
    assert finished.stdout.strip() == "[]", finished.stderr


# ------------------------------------------------------------------------------------------ threads


def test_threads_follow_the_free_cores_up_to_the_number_at_first(fake_machine, threads):
    fake = fake_machine(8)
    threads(4)
    fake.keep_busy(6)
    following = machine.ThreadsForFreeCores()
    assert torch.get_num_threads() == 2
    for num_busy, expected in ((0, 4), (8, 1), (5, 3), (4, 4), (7, 1)):
        fake.keep_busy(num_busy)
        fake.sleep(3)
        following.adapt()
        assert torch.get_num_threads() == expected


@pytest.mark.parametrize(("num_threads", "num_cores", "expected"), [(1, 4, 1), (4, 3, 3), (2, 2, 2)])
def test_more_threads_than_at_first_or_than_cores_are_never_taken(
    fake_machine, threads, num_threads, num_cores, expected
):
    fake_machine(num_cores)
    threads(num_threads)
    following = machine.ThreadsForFreeCores()
    assert torch.get_num_threads() == expected
    following.adapt()
    assert torch.get_num_threads() == expected


def test_the_next_run_of_a_process_gets_the_threads_back_that_this_one_left_to_others(fake_machine, threads):
    fake = fake_machine(4)
    threads(4)
    fake.keep_busy(3)
    machine.ThreadsForFreeCores()
    assert torch.get_num_threads() == 1
    fake.keep_busy(0)
    machine.ThreadsForFreeCores()
    assert torch.get_num_threads() == 4
    threads(2)  # by whoever runs the next one
    machine.ThreadsForFreeCores()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("limited_by", ["affinity", "container"])
def test_what_others_do_on_other_cores_takes_none_of_our_threads(fake_machine, threads, limited_by):
    """On a shared node: two of 64 cores are ours, and others keep 40 of theirs busy."""
    fake = fake_machine(64)
    fake.keep_busy(40, first=2)
    if limited_by == "affinity":
        fake.may_run_on({0, 1})
    else:
        fake.limit_container("200000 100000\n")
    threads(2)
    following = machine.ThreadsForFreeCores()
    assert torch.get_num_threads() == 2
    fake.keep_busy(64)
    fake.sleep(3)
    following.adapt()
    assert torch.get_num_threads() == 1


def test_a_wished_number_of_threads_is_taken_and_kept(fake_machine, threads, monkeypatch):
    fake = fake_machine(2)
    fake.keep_busy(2)
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: None)
    threads(1)
    assert machine.prepare_machine(CPU, 3) is None
    assert torch.get_num_threads() == 3 and fake.seconds == 0  # nor does it wait for a measurement of the cores
    assert isinstance(machine.prepare_machine(CPU), machine.ThreadsForFreeCores)
    assert torch.get_num_threads() == 1


def test_a_training_looks_at_the_cores_every_few_seconds(monkeypatch):
    now, looks = [100.0], []
    monkeypatch.setattr(training_file, "time", SimpleNamespace(monotonic=lambda: now[0]))
    following = training_file.FollowFreeCores(SimpleNamespace(adapt=lambda: looks.append(now[0])))
    for now[0] in (100.5, 102, 103.1, 104, 106, 106.2, 120):
        following.on_step_begin(None, None, None)
    assert looks == [103.1, 106.2, 120]


@pytest.mark.parametrize(
    ("device", "num_cores", "num_trainings", "expected"),
    [
        ("cpu", 16, None, 0),
        ("cuda", 1, None, 0),
        ("cuda", 4, None, 3),
        ("cuda", 64, None, 8),
        ("cuda", 16, "4", 3),
        ("cuda", 4, "8", 0),
    ],
)
def test_processes_read_videos_beside_an_accelerator_where_there_are_cores_for_them(
    fake_machine, monkeypatch, device, num_cores, num_trainings, expected
):
    fake_machine(num_cores)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if num_trainings is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", num_trainings)
    assert machine.num_loading_processes(torch.device(device)) == expected


def test_the_number_of_loading_processes_follows_the_machine_unless_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments_file, "num_loading_processes", lambda device: 5)
    values = {"output_dir": str(tmp_path), "use_cpu": True}
    assert FLaLLMTrainingArguments(**values).dataloader_num_workers == 5
    for number in (0, 2):
        assert FLaLLMTrainingArguments(**values, dataloader_num_workers=number).dataloader_num_workers == number


@pytest.mark.parametrize("command", [pretrain_language_model, visual_initialing], ids=lambda command: command.__name__)
@pytest.mark.parametrize("number", [0, -2])
def test_a_run_in_no_threads_is_refused(command, number, tmp_path, capsys):
    needed = {
        pretrain_language_model: {"text_file": "no.txt"},
        visual_initialing: {"dataset": "no", "tokenizer_name_or_path": "no"},
    }[command]
    argv = flags(**needed, output_dir=tmp_path / "run", use_cpu=True, num_threads=number)
    assert error_of(command.main, argv, capsys) == f"--num_threads must be 1 or more, got {number}."
    assert not (tmp_path / "run").exists()


def test_translating_in_no_threads_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        translate.main(["clip.mp4", "--model", "m", "--num_threads", "0"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("error: --num_threads must be 1 or more, got 0.")


# ------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    ("capability", "flag", "expected"),
    [
        ("AVX512", True, True),
        ("AVX512", False, False),
        ("AVX2", True, False),  # ATEN_CPU_CAPABILITY lowers the one, and not the other
        ("AVX2", False, False),
        ("DEFAULT", True, False),
    ],
)
def test_a_processor_computes_in_bfloat16_by_its_instructions(processor, capability, flag, expected):
    processor(capability, flag)
    assert machine.computes_in_bfloat16(CPU) is expected
    assert machine.fastest_dtype(CPU) == (torch.bfloat16 if expected else torch.float32)


@pytest.mark.parametrize("is_supported", [True, False])
def test_a_gpu_that_only_imitates_bfloat16_does_not_compute_in_it(monkeypatch, is_supported):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or is_supported
    )
    assert machine.computes_in_bfloat16(torch.device("cuda")) is is_supported
    assert machine.fastest_dtype(torch.device("cuda", 0)) == (torch.bfloat16 if is_supported else torch.float32)


@pytest.mark.parametrize("is_supported", [True, False])
def test_of_other_accelerators_transformers_knows_it(monkeypatch, is_supported):
    monkeypatch.setattr(machine, "is_torch_bf16_gpu_available", lambda: is_supported)
    assert machine.computes_in_bfloat16(torch.device("xpu")) is is_supported
    assert machine.computes_in_bfloat16(torch.device("meta")) is False


@pytest.mark.slow
@pytest.mark.parametrize("lowered", [{"ATEN_CPU_CAPABILITY": "avx2"}, AVX2_ALONE], ids=["torch", "all libraries"])
def test_a_processor_that_is_made_to_look_old_does_not_compute_in_bfloat16(lowered):
    code = (
        "import torch; from train_scripts.machine.machine import computes_in_bfloat16;"
        "print(torch.backends.cpu.get_cpu_capability(), computes_in_bfloat16(torch.device('cpu')))"
    )
    finished = run_python(code, **lowered)
    assert finished.stdout.split() in (["AVX2", "False"], ["DEFAULT", "False"]), finished.stderr


def test_the_cost_of_bfloat16_is_a_ratio_of_times(monkeypatch):
    assert 0 < machine.cost_of_bfloat16() < float("inf")
    seconds = {torch.bfloat16: 0.85, torch.float32: 0.01}
    monkeypatch.setattr(machine, "_seconds_of_a_product", seconds.__getitem__)
    assert machine.cost_of_bfloat16() == pytest.approx(85)


@pytest.mark.parametrize("accelerator", [None, "cuda", "xpu"])
def test_the_device_is_the_accelerator_if_there_is_one(monkeypatch, accelerator):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(accelerator or "cuda"))
    assert machine.default_device() == torch.device(accelerator or "cpu")
    assert machine.default_device(use_cpu=True) == CPU


# ------------------------------------------------------------------------------------------ what a run says


@pytest.fixture
def described(processor, threads, monkeypatch) -> Callable[..., str]:
    """The log line for a processor of 8 cores on which bfloat16 is 85 times slower and two threads compute."""

    def describe(dtype: torch.dtype, capability: str, has_bfloat16: bool) -> str:
        processor(capability, has_bfloat16)
        threads(2)
        monkeypatch.setattr(machine, "num_cores", lambda: 8)
        monkeypatch.setattr(machine, "cost_of_bfloat16", lambda: 84.7)
        return machine.describe_machine(CPU, dtype)

    return describe


@pytest.mark.parametrize(
    ("dtype", "capability", "has_bfloat16", "expected"),
    [
        (
            torch.bfloat16, "AVX512", True,
            "Computing in bfloat16 on a processor with bfloat16 (AVX512), in 2 thread(s) on 8 core(s).",
        ),
        (
            torch.float32, "AVX512", True,
            "Computing in float32 on a processor with bfloat16 (AVX512), in 2 thread(s) on 8 core(s).",
        ),
        (
            torch.float32, "AVX2", True,
            "Computing in float32 on a processor without bfloat16 (AVX2), in 2 thread(s) on 8 core(s).",
        ),
        (
            torch.float16, "AVX512", False,
            "Computing in float16 on a processor without bfloat16 (AVX512), in 2 thread(s) on 8 core(s).",
        ),
        (
            torch.bfloat16, "AVX2", False,
            "Computing in bfloat16 on a processor without bfloat16 (AVX2), in 2 thread(s) on 8 core(s). A matrix "
            "product in bfloat16 takes this processor 85 times as long as in float32: leave the precision unset to "
            "have it chosen for you.",
        ),
    ],
)  # fmt: skip
def test_one_line_says_how_a_processor_computes(described, dtype, capability, has_bfloat16, expected):
    assert described(dtype, capability, has_bfloat16) == expected


def test_one_line_says_on_which_accelerator_a_run_computes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Some GPU {device.index}")
    assert machine.describe_machine(torch.device("cuda", 1), torch.bfloat16) == "Computing in bfloat16 on Some GPU 1."
    assert machine.describe_machine(torch.device("mps"), torch.float32) == "Computing in float32 on mps."


def test_nothing_is_tried_where_bfloat16_is_not_asked_for(described, monkeypatch):
    described(torch.float32, "AVX2", False)
    monkeypatch.setattr(machine, "cost_of_bfloat16", lambda: pytest.fail("tried"))
    machine.describe_machine(CPU, torch.float32)


@pytest.mark.parametrize(("values", "expected"), [({"bf16": True}, "bfloat16"), ({"bf16": False}, "float32")])
def test_a_run_says_it_and_computes_in_the_threads_that_it_says(values, expected, threads, tmp_path, capsys):
    training = FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, num_threads=2, **values)
    assert start_run(training) == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Computing in {expected} on a processor with") and ", in 2 thread(s) on " in line
    assert torch.get_num_threads() == 2
    start_run(training, torch.float16)  # of a model that was loaded in it
    assert capsys.readouterr().out.startswith("Computing in float16 on ")


def test_a_run_without_a_number_of_threads_follows_the_free_cores(threads, tmp_path):
    (callback,) = start_run(FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    assert isinstance(callback, training_file.FollowFreeCores)


def test_of_several_processes_one_says_it(threads, tmp_path, capsys, monkeypatch):
    training = FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, num_threads=2)
    monkeypatch.setattr(FLaLLMTrainingArguments, "process_index", 1)
    start_run(training)
    assert capsys.readouterr().out == "" and torch.get_num_threads() == 2


# ------------------------------------------------------------------------------------------ memory


def test_memory_is_kept_only_where_a_processor_computes(threads, monkeypatch):
    kept = []
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: kept.append("kept"))
    machine.prepare_machine(torch.device("meta"), 1)
    assert not kept
    machine.prepare_machine(CPU, 1)
    assert kept == ["kept"]


@pytest.mark.parametrize(("system", "library"), [("darwin", ("", "")), ("win32", ("", "")), ("linux", ("musl", "1.2"))])
def test_another_c_library_than_glibc_is_left_alone(system, library, monkeypatch):
    monkeypatch.setattr(machine, "sys", SimpleNamespace(platform=system))
    monkeypatch.setattr(machine, "platform", SimpleNamespace(libc_ver=lambda: library))
    monkeypatch.setattr(machine, "ctypes", SimpleNamespace(CDLL=lambda name: pytest.fail("opened")))
    machine.keep_freed_memory()


# ------------------------------------------------------------------------------------------ presets and flags


def settings_of(preset: str) -> set[str]:
    return set(yaml.safe_load((CONFIG_FOLDER / preset).read_text(encoding="utf-8")))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_no_precision(preset):
    """It follows from the machine; a preset with one is very slow on another."""
    assert {name for name in settings_of(preset) if re.search("bf16|fp16|tf32|half_precision|dtype", name)} == set()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_no_device_and_no_number_of_threads_or_processes(preset):
    assert {name for name in settings_of(preset) if re.search("thread|num_workers|use_cpu|device_map", name)} == set()


@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize(
    ("values", "follows_the_machine", "dtype"),
    [
        ({}, True, None),
        ({"bf16": None}, True, None),
        ({"bf16": True}, False, torch.bfloat16),
        ({"bf16": False}, False, torch.float32),
        ({"fp16": True}, False, torch.float16),
        ({"bf16": None, "fp16": True}, False, torch.float16),
    ],
)
def test_the_precision_follows_the_machine_unless_it_is_given(
    has_bfloat16, values, follows_the_machine, dtype, processor, tmp_path
):
    processor("AVX512", has_bfloat16)
    training = FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **values)
    if follows_the_machine:
        dtype = torch.bfloat16 if has_bfloat16 else torch.float32
    assert (training.bf16, training.fp16) == (dtype == torch.bfloat16, dtype == torch.float16)
    assert computing_dtype(training) == dtype
    assert training.device == CPU


def test_the_precision_of_an_evaluation_is_that_of_the_model(processor, tmp_path):
    processor("AVX512", True)
    assert EvaluationRunArguments(output_dir=str(tmp_path), use_cpu=True).bf16 is False
