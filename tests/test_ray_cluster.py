"""A Ray cluster: each task has one result whatever is lost, and commands write what one machine writes."""

import os
import re
import shutil
import sys
from pathlib import Path

import pool_tasks
import pytest
import safetensors.torch
from test_evaluate_and_translate import evaluation_flags
from test_extract_features import extraction
from tiny_corpus import corpus, error_of, trained_model
from torch.testing import assert_close

from train_scripts.commands import describe_clips, evaluate_model, extract_features, prepare_dataset, translate
from train_scripts.machine.ray_cluster import MOST_TRIES, RayCluster, _RayWorker, run_as_processes_on_ray, run_on_ray

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_machines():
    """A cluster of two "machines" with one core each: two groups of Ray's processes on this machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def results_of(cluster, tasks: list[str], **options) -> list[tuple[str, str]]:
    of_address = RayCluster(cluster.address)
    return sorted(run_on_ray(of_address, pool_tasks.do, tasks, lambda task, why: f"LOST {why}", **options))


def test_a_process_that_dies_costs_its_task_only(two_machines):
    healthy = [(f"double {number}", str(2 * number)) for number in range(6)]
    tasks = ["exit 5", *(task for task, _ in healthy)]
    *others, (lethal, why) = sorted(results_of(two_machines, tasks), key=lambda pair: pair[0] == "exit 5")
    assert others == healthy and lethal == "exit 5"
    assert why.startswith(f"LOST its process was lost {MOST_TRIES} times, at last: ") and "\n" not in why


def test_each_task_has_one_result_when_a_machine_is_lost(two_machines):
    lost = two_machines.add_node(num_cpus=1)
    tasks = [f"sleep 0.{number:03d}" for number in range(100, 130)]
    of_three = RayCluster(two_machines.address, 3)
    results = []
    for task, result in run_on_ray(of_three, pool_tasks.do, tasks, lambda task, why: f"LOST {why}"):
        results.append((task, result))
        if len(results) == 8:
            two_machines.remove_node(lost)
    assert sorted(results) == [(task, "sleep") for task in tasks]
    # What comes next goes on with the two that are left.
    assert list(run_on_ray(of_three, pool_tasks.do, ["double 4"], lambda task, why: why)) == [("double 4", "8")]


def test_a_task_that_takes_too_long_costs_itself_only(two_machines):
    assert results_of(two_machines, ["sleep 600", "double 1", "double 2"], seconds_for_a_task=2) == [
        ("double 1", "2"),
        ("double 2", "4"),
        ("sleep 600", "LOST it took longer than 2 s"),
    ]


def test_an_error_ends_all_and_shows_where_it_was_raised(two_machines):
    with pytest.raises(ValueError) as caught:
        results_of(two_machines, ["raise broken", "double 1"])
    assert str(caught.value) == "broken" and "in do\n" in caught.value.__notes__[0]


def test_tasks_are_taken_when_there_is_a_worker_for_them(two_machines):
    taken = []

    def tasks():
        for number in range(50):
            taken.append(number)
            yield f"double {number}"

    results = run_on_ray(RayCluster(two_machines.address), pool_tasks.do, tasks(), lambda task, why: why)
    next(results)
    assert len(taken) <= 4
    results.close()


def test_processes_that_cannot_start_end_the_work(two_machines, monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: "/a folder that the others do not have")
    with pytest.raises(FileNotFoundError, match="a folder that the others do not have"):
        results_of(two_machines, ["double 1"])
    monkeypatch.undo()
    monkeypatch.setattr(_RayWorker, "begin", lambda self, folder: os._exit(1))
    with pytest.raises(ChildProcessError, match="^No worker process could start: "):
        results_of(two_machines, ["double 1", "double 2"])


def test_without_tasks_there_are_no_results(two_machines):
    assert results_of(two_machines, []) == []


# --------------------------------------------------------------------------------------------------- commands


DESCRIPTIONS = ["--dataset", "x", "--description_column", "said", "--text_encoder_name_or_path", "y"]


def on(cluster, *argv: object) -> list[str]:
    return [*map(str, argv), "--ray_address", cluster.address]


@pytest.fixture
def videos(tmp_path) -> Path:
    """Six clips, one of which is none, in a folder."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, source in enumerate(sorted((corpus() / "test").glob("*.mp4"))[:5]):
        shutil.copy(source, folder / f"{number}.mp4")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.parametrize(("what", "workers"), [("files", 2), ("data set", 1)])
def test_a_cluster_writes_the_translations_of_one_machine(what, workers, two_machines, videos, tmp_path):
    given, status, num_clips = ([videos], 1, 6) if what == "files" else (["--dataset", corpus()], 0, 6)
    written = []
    for name in ("here", "on the cluster"):
        output = tmp_path / name
        argv = ["--model", trained_model(), *given, "--device", "cpu", "--dtype", "float32", "--batch_size", 1]
        argv = [*map(str, argv), "--format", "csv", "--output", str(output)]
        on_it = on(two_machines, *argv, "--ray_workers", workers)
        assert translate.main(argv if name == "here" else on_it) == status
        written.append(output.read_text(encoding="utf-8"))
    assert written[0] == written[1] and len(written[0].splitlines()) == 1 + num_clips


def test_a_cluster_prepares_what_one_machine_does(two_machines, tmp_path):
    files = {}
    for name in ("here", "on the cluster"):
        folder = tmp_path / name
        argv = ["--corpus", "table", "--source", corpus(), "--table", corpus() / "test" / "metadata.csv"]
        argv += ["--videos", corpus() / "test", "--output_dir", folder, "--columns", "file=file_name"]
        assert prepare_dataset.main(list(map(str, argv)) if name == "here" else on(two_machines, *argv)) == 0
        files[name] = {path.name: path.read_bytes() for path in folder.rglob("*.mp4")}
        files[name]["table"] = b"".join(sorted(path.read_bytes() for path in folder.rglob("metadata.csv")))
    assert files["here"] == files["on the cluster"] and len(files["here"]) > 3


def test_processes_of_a_cluster_share_the_clips(two_machines, tmp_path):
    """They know of each other, as torchrun's do."""
    features = {}
    for name in ("here", "on the cluster"):
        argv = extraction(
            tmp_path / name, output_dir=tmp_path / name / "made", features_dtype="float32", splits=["test"]
        )
        assert extract_features.main(argv if name == "here" else on(two_machines, *argv)) == 0
        files = (tmp_path / name).glob("made/test/*.safetensors")
        features[name] = {path.name: safetensors.torch.load_file(path)["features"] for path in files}
    assert_close(features["here"], features["on the cluster"], atol=1e-4, rtol=1e-4)
    assert len(features["here"]) > 3
    assert len(list((tmp_path / "on the cluster" / "cache").glob("*/*.arrow"))) > 1  # each process wrote its own


def test_all_processes_begin_again_if_one_is_lost(two_machines, tmp_path, capsys):
    argv = [str(tmp_path), "lose one"]
    assert run_as_processes_on_ray(RayCluster(two_machines.address), "cluster_command", argv) == 7
    assert "A process was lost; all begin again with what is kept." in capsys.readouterr().err
    written = sorted(path.read_text() for path in tmp_path.glob("rank_*"))
    assert written == ["rank 0 of 2, 2 together", "rank 1 of 2, 2 together"]


def test_a_process_that_is_always_lost_ends_the_command(two_machines, tmp_path):
    with pytest.raises(ChildProcessError, match=f"A process of the cluster was lost {MOST_TRIES} times, at last: "):
        run_as_processes_on_ray(RayCluster(two_machines.address), "cluster_command", [str(tmp_path), "lose all"])


@pytest.mark.parametrize(
    ("module", "argv"),
    [
        (evaluate_model, lambda folder: evaluation_flags(folder)),
        (extract_features, lambda folder: extraction(folder)),
        (describe_clips, lambda folder: [*DESCRIPTIONS, "--output_dir", str(folder)]),
    ],
)
def test_commands_start_their_processes_on_the_cluster(module, argv, tmp_path, monkeypatch):
    started = []

    def record(cluster, name, given):
        started.append((cluster, name, given))
        return 3

    monkeypatch.setattr(module, "run_as_processes_on_ray", record)
    given = [*argv(tmp_path), "--ray_address", "there:1", "--ray_workers", "4", "--device", "cpu", "--num_threads", "2"]
    assert module.main(given) == 3
    assert started == [(RayCluster("there:1", 4, uses_gpus=False, threads=2), module.__name__, given)]


# ------------------------------------------------------------------------------------------------ mistakes


def translation_error(capsys, *flags: object) -> str:
    argv = ["--model", str(trained_model()), str(corpus() / "test"), *map(str, flags)]
    return error_of(translate.main, argv, capsys)


def test_more_workers_than_have_a_place_leave_the_work_to_these(two_machines, capfd):
    of_more = RayCluster(two_machines.address, 5)
    tasks = [f"double {number}" for number in range(8)]
    assert len(list(run_on_ray(of_more, pool_tasks.do, tasks, lambda task, why: why))) == 8
    assert "The cluster has places for 2 of 5 processes: the others wait." in capfd.readouterr().err


def test_more_threads_than_a_machine_has_cores(two_machines, capsys):
    assert translation_error(capsys, *on(two_machines), "--num_threads", 2) == (
        "--num_threads 2: no machine of the cluster has so many cores."
    )


def test_workers_without_a_cluster(capsys):
    assert translation_error(capsys, "--ray_workers", 2) == (
        "--ray_workers is the number of processes of a Ray cluster: pass its --ray_address."
    )


def test_no_cluster_at_an_address(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**_):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "init", refuse)
    expected = "--ray_address here:1: there is no Ray cluster (nobody answers). Start one with `ray start --head`, "
    with pytest.raises(ValueError, match=re.escape(expected)):
        RayCluster("here:1").connect()


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=re.escape("--ray_address needs Ray: pip install 'flallm[distributed]'.")):
        RayCluster("auto").connect()
