"""One id for all processes of a job, by what each launcher tells them; two jobs never share one."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.errors import JoulebookError
from joulebook.identity import MAX_ID, RUN_ID
from joulebook.joining import marks_name
from joulebook.ranks import LAST_STEP, Place, bounded, job_of, place_of

SLURM = {
    "SLURM_CLUSTER_NAME": "alps", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2", "SLURM_JOB_NAME": "train",
    "SLURM_JOB_UID": "1000", "SLURM_SUBMIT_DIR": "/home/u",
}  # fmt: skip


def inherited_run_id(environ):
    job = job_of(environ)
    return None if job is None else job.run_id


@pytest.mark.parametrize(
    ("environ", "begins"),
    [
        ({}, None),
        ({RUN_ID: "own", "TORCHELASTIC_RUN_ID": "t"}, "own"),
        ({"TORCHELASTIC_RUN_ID": "t"}, "torchrun-t"),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        ({**SLURM, "TORCHELASTIC_RUN_ID": "none"}, "slurm-alps-7.2-"),
        ({**SLURM, "TORCHELASTIC_RUN_ID": "t"}, "torchrun-t-"),
        (SLURM, "slurm-alps-7.2-"),
        ({**SLURM, "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}, "slurm-alps-5_3.2-"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2"}, "slurm-7.2-"),
        ({"SLURM_JOB_ID": "7"}, None),
        ({**SLURM, "SLURM_STEP_ID": str(LAST_STEP + 11)}, None),
        # What a batch script was told by Slurm 22.05: its commands are no ranks of each other.
        ({"SLURM_JOB_ID": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "1"}, None),
        ({**SLURM, "SLURM_PTY_PORT": "45123", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "PMIX_NAMESPACE": "prterun-n1-412@1"}, "mpi-prterun-n1-412@1"),
        ({"PMIX_RANK": "1", "PMIX_NAMESPACE": "prterun-n1-412@1"}, "mpi-prterun-n1-412@1"),
        ({"MV2_COMM_WORLD_RANK": "1", "MPIRUN_ID": "412", "MPIRUN_HOST": "n1"}, "mpi-n1-412"),
        ({**SLURM, "PMIX_NAMESPACE": "slurm.pmix.7.2", "PMIX_RANK": "1"}, "slurm-alps-7.2-"),
        ({"JOULEBOOK_POD_UID": "0c5e"}, "pod-0c5e"),
    ],
)
def test_the_run_that_a_process_is_born_into(environ, begins):
    found = inherited_run_id(environ)
    assert found is None if begins is None else found.startswith(begins)


def test_ranks_of_one_mpirun_share_the_id_though_slurm_tells_the_nodes_apart():
    """The ranks on the batch node are no step; those on other nodes were started by a step of the daemon's."""
    both = {
        "OMPI_COMM_WORLD_RANK": "0", "PMIX_NAMESPACE": "1634271233", "OMPI_MCA_orte_precondition_transports": "ab-cd",
        "SLURM_CLUSTER_NAME": "alps", "SLURM_JOB_ID": "7",
    }  # fmt: skip
    there = {**both, "OMPI_COMM_WORLD_RANK": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "orted"}
    assert inherited_run_id(both) == inherited_run_id(there)
    assert inherited_run_id(both) != inherited_run_id({**both, "OMPI_MCA_orte_precondition_transports": "ef-01"})


def test_a_requeued_slurm_job_is_the_same_run_and_every_other_job_another():
    run_id = inherited_run_id(SLURM)
    again = {**SLURM, "SLURM_RESTART_COUNT": "1", "SLURM_JOB_START_TIME": "9", "SLURM_NODEID": "1", "SLURM_PROCID": "5"}
    assert inherited_run_id(again) == run_id
    others = [
        {**SLURM, name: "other" if name != "SLURM_STEP_ID" else "3"}
        for name in ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_JOB_NAME", "SLURM_JOB_UID",
                     "SLURM_SUBMIT_DIR")
    ]  # fmt: skip
    ids = {inherited_run_id(environ) for environ in [SLURM, *others, {**SLURM, "JOULEBOOK_CLUSTER": "mine"}]}
    assert len(ids) == 2 + len(others)


def test_components_of_a_heterogeneous_job_share_the_leaders_id():
    leader = {**SLURM, "SLURM_JOB_ID_HET_GROUP_0": "7", "SLURM_HET_SIZE": "2"}
    assert inherited_run_id({**leader, "SLURM_JOB_ID": "8"}) == inherited_run_id(leader)


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ('joulebook.io/run="my-run"\njob-name="x"\n', "my-run"),
        ('app="a"\nbatch.kubernetes.io/controller-uid="5d4e"\nbatch.kubernetes.io/job-name="train"\n', "pod-5d4e"),
        ('training.kubeflow.org/job-name="tr\\"ain"\n', 'pod-tr"ain-'),
        ('app="a"\n', "pod-the-uid"),
        ("", "pod-the-uid"),
    ],
)
def test_pods_of_a_job_by_their_labels(tmp_path, text, begins):
    labels = tmp_path / "labels"
    labels.write_text(text)
    environ = {"JOULEBOOK_POD_LABELS_FILE": str(labels), "JOULEBOOK_POD_NAMESPACE": "ml"}
    found = inherited_run_id({**environ, "JOULEBOOK_POD_UID": "the-uid"})
    assert found.startswith(begins)
    elsewhere = inherited_run_id({**environ, "JOULEBOOK_POD_NAMESPACE": "web", "JOULEBOOK_POD_UID": "the-uid"})
    assert (found != elsewhere) == begins.startswith("pod-tr"), "a name is unique within a namespace only"


def test_labels_that_cannot_be_read_are_an_error_and_no_run_of_ones_own(tmp_path):
    with pytest.raises(JoulebookError, match="labels cannot be read") as caught:
        job_of({"JOULEBOOK_POD_LABELS_FILE": str(tmp_path / "none")})
    assert "downward API" in caught.value.remedy


def test_places():
    assert place_of({}) == Place()
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "1"}
    assert place_of({**torchrun, "SLURM_PROCID": "1"}) == Place(3, 8, 2, 1)
    slurm = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_RESTART_COUNT": "0"}
    assert place_of({**slurm, "SLURM_STEP_ID": "0"}) == Place(1, 4, 2, 0)
    assert place_of(slurm) == Place(restart=0)
    assert place_of({"RANK": "x", "PMI_RANK": "2", "PMI_SIZE": "3"}) == Place(2, 3)


@given(st.text(max_size=3 * MAX_ID), st.text(max_size=3 * MAX_ID))
def test_ids_are_bounded_and_stay_apart(a, b):
    assert len(bounded(a)) <= MAX_ID
    assert bounded(bounded(a)) == bounded(a)
    assert (bounded(a) == bounded(b)) == (a == b)


@given(st.text(min_size=1, max_size=MAX_ID))
def test_any_id_gives_a_file_name(run_id):
    name = marks_name(run_id, 2**22, "launcher-01234567")
    assert len(name.encode()) <= 255
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith(".")


NAMES = [
    *SLURM, RUN_ID, "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_RANK", "PMIX_NAMESPACE", "RANK", "WORLD_SIZE", "PMI_RANK",
    "LOCAL_WORLD_SIZE", "MPIRUN_ID", "MV2_COMM_WORLD_RANK", "JOULEBOOK_POD_UID", "SLURM_RESTART_COUNT",
]  # fmt: skip
VALUES = st.one_of(st.sampled_from(["", "0", "1", "2", "none", "\xb2", "\u0663"]), st.text(max_size=40))


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_any_environment_has_one_id_or_none(environ):
    job = job_of(environ)
    assert job == job_of(dict(environ))
    assert job is None or 0 < len(job.run_id) <= MAX_ID
    assert all(value is None or value >= 0 for value in place_of(environ))


@given(st.binary(max_size=200))
def test_any_bytes_in_the_labels_file_are_labels_or_an_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("pod") / "labels"
    path.write_bytes(content)
    try:
        job = job_of({"JOULEBOOK_POD_LABELS_FILE": str(path), "JOULEBOOK_POD_UID": "u"})
    except JoulebookError:
        return
    assert job is not None
    assert job.run_id


# -- real processes ---------------------------------------------------------------------------

TELL = """
import json, os, sys
from joulebook.ranks import job_of, place_of
job = job_of()
os.write(1, json.dumps([job and job.run_id, job and job.note, place_of()]).encode() + b"\\n")
"""


@pytest.fixture
def bare():
    """The environment without any launcher's variables."""
    launchers = ("JOULEBOOK_", "TORCHELASTIC", "SLURM", "OMPI_", "PMI", "RANK", "WORLD_SIZE", "LOCAL_WORLD")
    return {name: value for name, value in os.environ.items() if not name.startswith(launchers)}


def told(command, environ, **options):
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=120, **options)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


LAUNCH = """
import os, subprocess, sys
ranks = [subprocess.Popen([*sys.argv[2:], sys.executable, "-c", sys.argv[1]], env={**os.environ, "RANK": str(i)})
         for i in range(3)]
sys.exit(sum(rank.wait() for rank in ranks))
"""


@pytest.mark.parametrize(
    "wrapper", [[], ["sh", "-c", '"$0" "$@"; exit $?'], ["setsid", "-w"]], ids=["bare", "sh", "sid"]
)
def test_ranks_that_nobody_names_are_those_of_one_launcher(bare, wrapper):
    environ = {**bare, "WORLD_SIZE": "3"}
    first, second = (told([sys.executable, "-c", LAUNCH, TELL, *wrapper], environ) for _ in range(2))
    for found in (first, second):
        assert len(found) == 3
        assert len({run_id for run_id, _, _ in found}) == 1
        assert {note for _, note, _ in found} == {""}
        assert {place[0] for _, _, place in found} == {0, 1, 2}
    assert first[0][0] != second[0][0]


def test_ranks_of_which_some_must_be_elsewhere_say_so(bare):
    found = told([sys.executable, "-c", LAUNCH, TELL], {**bare, "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3"})
    assert len({run_id for run_id, _, _ in found}) == 1
    assert all("could not be joined" in note for _, note, _ in found)


def test_a_rendezvous_file_names_one_run_for_all_who_come(bare, tmp_path):
    environ = {**bare, "JOULEBOOK_RENDEZVOUS": str(tmp_path / "job"), "WORLD_SIZE": "3"}
    found = told([sys.executable, "-c", LAUNCH, TELL], environ)
    later = told([sys.executable, "-c", TELL], environ)
    assert len({run_id for run_id, _, _ in found + later}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["job"], "no proposal is left behind"
    other = told([sys.executable, "-c", TELL], {**environ, "JOULEBOOK_RENDEZVOUS": str(tmp_path / "other")})
    assert other[0][0] != later[0][0]


def test_a_rendezvous_that_cannot_be_is_an_error(tmp_path):
    from joulebook.rendezvous import agreed_run_id

    for path, cause in ((tmp_path / "no" / "where", "No such file"), (tmp_path, "directory")):
        with pytest.raises(JoulebookError, match=cause):
            agreed_run_id(str(path))
    (tmp_path / "empty").touch()
    with pytest.raises(JoulebookError, match="has not named the run"):
        agreed_run_id(str(tmp_path / "empty"), wait_seconds=0.1)
    (tmp_path / "blank").write_text("\n")
    with pytest.raises(JoulebookError, match="holds no run id"):
        agreed_run_id(str(tmp_path / "blank"))


def test_without_hard_links_the_first_still_names_the_run(tmp_path, monkeypatch):
    from joulebook import rendezvous

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = str(tmp_path / "job")
    first = rendezvous.agreed_run_id(path)
    rendezvous._propose(path)  # one who looked before the file was there
    assert rendezvous.agreed_run_id(path) == first


OPEN_MPI = ["mpirun", "--oversubscribe", "-n", "3"]
HYDRA = ["mpiexec.hydra", "-n", "3"]


def is_there(command, says):
    """True where that command is that launcher."""
    try:
        done = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return says in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "begins"),
    [
        pytest.param(
            OPEN_MPI, "mpi-", marks=pytest.mark.skipif(not is_there(OPEN_MPI, "Open MPI"), reason="no Open MPI")
        ),
        pytest.param(HYDRA, "ranks-", marks=pytest.mark.skipif(not is_there(HYDRA, "HYDRA"), reason="no Hydra")),
    ],
    ids=["Open MPI", "Hydra"],
)
@pytest.mark.parametrize("wrapper", [[], ["sh", "-c", '"$0" "$@"; exit $?']], ids=["bare", "sh"])
def test_real_mpi(bare, command, begins, wrapper):
    environ = {**bare, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    first, second = (told([*command, *wrapper, sys.executable, "-c", TELL], environ) for _ in range(2))
    ids = set()
    for found in (first, second):
        assert sorted(place[:2] for _, _, place in found) == [[0, 3], [1, 3], [2, 3]]
        (run_id,) = {run_id for run_id, _, _ in found}
        assert run_id.startswith(begins)
        assert {note for _, note, _ in found} == {""}
        ids.add(run_id)
    assert len(ids) == 2


torchrun = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import torch.distributed.run"], capture_output=True, check=False).returncode
    != 0,
    reason="torch is not installed",
)


@torchrun
@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", [["--standalone"], ["--rdzv-id", "none"], ["--rdzv-id", "mine"]])
def test_real_torchrun(bare, tmp_path, rendezvous):
    script = tmp_path / "rank.py"
    script.write_text(TELL)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *rendezvous]
    if "--standalone" not in rendezvous:
        command += ["--master-port", "29517"]
    found = told([*command, str(script)], {**bare, "OMP_NUM_THREADS": "1"})
    assert sorted(place[:2] for _, _, place in found) == [[0, 2], [1, 2]]
    (run_id,) = {run_id for run_id, _, _ in found}
    assert run_id.startswith("ranks-" if "none" in rendezvous else "torchrun-")
    assert run_id == "torchrun-mine" or "mine" not in rendezvous
    assert {note for _, note, _ in found} == {""}


@torchrun
@pytest.mark.slow
@pytest.mark.parametrize("agreed", [False, True], ids=["unnamed", "by a file"])
def test_real_torchrun_on_two_nodes_without_an_id(bare, tmp_path, agreed):
    script = tmp_path / "rank.py"
    script.write_text(TELL)
    environ = {**bare, "OMP_NUM_THREADS": "1"} | ({"JOULEBOOK_RENDEZVOUS": str(tmp_path / "job")} if agreed else {})
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--nnodes", "2",
        "--master-addr", "127.0.0.1", "--master-port", "29519", "--node-rank",
    ]  # fmt: skip
    nodes = [
        subprocess.Popen([*command, str(n), str(script)], env=environ, stdout=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    found = [json.loads(node.communicate(timeout=120)[0]) for node in nodes]
    assert sorted(place[:3] for _, _, place in found) == [[0, 2, 2], [1, 2, 2]]
    notes = {note for _, note, _ in found}
    if agreed:
        assert len({run_id for run_id, _, _ in found}) == 1
        assert notes == {""}
    else:
        assert all("could not be joined" in note for note in notes), "two runs, and each says so"
