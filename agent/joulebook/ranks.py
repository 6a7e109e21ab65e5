"""One run id for all processes of a job, whatever started them, and each process's place in it.

Every launcher is asked in turn for what all of its processes share and no other job has; the id is made of that.
A launcher's own variable comes before the scheduler's around it: the processes that ``mpirun`` starts inherit Slurm's
step on some nodes and not on others. Slurm's requeue and torchrun's restart keep the id: the run goes on.

What may come twice is qualified: by the cluster (JOULEBOOK_CLUSTER, SLURM_CLUSTER_NAME) and by the job's owner, name
and directory. A start time would tell more, but a requeued job has another one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from joulebook.identity import MAX_ID, RUN_ID, boot_id

Environ = Mapping[str, str]


class Job(NamedTuple):
    """What a launcher says. note: what a report must say of the id."""

    run_id: str
    note: str = ""


class Place(NamedTuple):
    """Where a process is in its job; None where nothing says so. restart: how often the job was started before."""

    rank: int | None = None
    world_size: int | None = None
    nodes: int | None = None
    restart: int | None = None


RANK_VARIABLES: Final = ("RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID", "PMI_RANK", "PMIX_RANK")
SIZE_VARIABLES: Final = (
    "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "PMI_SIZE",
)  # fmt: skip
LOCAL_SIZE_VARIABLES: Final = (
    "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
)  # fmt: skip
NODE_VARIABLES: Final = ("GROUP_WORLD_SIZE", "SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES")
RESTART_VARIABLES: Final = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
MPI_VARIABLES: Final = (
    "OMPI_MCA_orte_precondition_transports", "OMPI_MCA_initial_wdir", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE",
    "SLURM_JOB_ID",
)  # fmt: skip
"""What every rank of a job of mpirun is told alike, where it is told at all."""
LAST_STEP: Final = 0xFFFF_FFF0
"""Slurm step numbers from here on are no steps of the user's: batch script, interactive shell, extern."""
POD_JOB_LABELS: Final = (
    "batch.kubernetes.io/controller-uid", "controller-uid", "jobset.sigs.k8s.io/jobset-uid",
    "batch.kubernetes.io/job-name", "job-name", "jobset.sigs.k8s.io/jobset-name", "training.kubeflow.org/job-name",
)  # fmt: skip
"""Labels that all pods of a job carry: those that are unique for ever first."""


def job_of(environ: Environ = os.environ) -> Job | None:
    """The job of this process, None when it has none. Raises JoulebookError when a file that should name it fails."""
    if own := environ.get(RUN_ID):
        return Job(bounded(own))
    for find in (_torchrun, _mpi, _slurm, _pod, _file, _siblings):
        job = find(environ)
        if job is not None:
            return Job(bounded(job.run_id), job.note)
    return None


def place_of(environ: Environ = os.environ) -> Place:
    """This process's place in its job."""
    restart = _number(environ, RESTART_VARIABLES)
    if not _in_step(environ):  # a batch script is told a SLURM_PROCID too, and is no rank
        environ = {name: value for name, value in environ.items() if not name.startswith("SLURM_")}
    rank, size, nodes = (_number(environ, names) for names in (RANK_VARIABLES, SIZE_VARIABLES, NODE_VARIABLES))
    return Place(rank, size, nodes, restart)


def bounded(run_id: str) -> str:
    """The same id in at most MAX_ID characters: a longer one keeps its beginning and a hash of the whole."""
    return run_id if len(run_id) <= MAX_ID else f"{run_id[: MAX_ID - 17]}-{_hash(run_id)}"


def _torchrun(environ: Environ) -> Job | None:
    named = environ.get("TORCHELASTIC_RUN_ID", "none")
    if named == "none":
        return None
    return Job(_qualified(f"torchrun-{named}", environ, environ.get("SLURM_JOB_ID", "")))


def _mpi(environ: Environ) -> Job | None:
    """A job of mpirun: its name, made of mpirun's host and pid, and what else all of its ranks are told alike.

    A pid comes again, in a container soon: where all ranks are here, mpirun's start on this boot tells jobs apart.
    """
    space = environ.get("PMIX_NAMESPACE", "")
    if "MPIRUN_ID" in environ and "MV2_COMM_WORLD_RANK" in environ:
        named = f"{environ.get('MPIRUN_HOST', '')}-{environ['MPIRUN_ID']}"
    elif "OMPI_COMM_WORLD_RANK" in environ or (space and not space.startswith("slurm")):
        named = space or environ.get("OMPI_MCA_ess_base_jobid", "")
    else:
        return None
    if not named:
        return None
    told = [environ.get(name, "") for name in MPI_VARIABLES]
    if _number(environ, SIZE_VARIABLES) == _number(environ, LOCAL_SIZE_VARIABLES) is not None:
        told += [boot_id(), *_launcher(environ)[:2]]
    return Job(_qualified(f"mpi-{named}", environ, *told))


def _slurm(environ: Environ) -> Job | None:
    """A step of a Slurm job. Without a step it is a batch script or a shell, whose commands are runs of their own."""
    number = environ.get("SLURM_JOB_ID_HET_GROUP_0") or environ.get("SLURM_JOB_ID", "")
    if not number or not _in_step(environ):
        return None
    step = environ["SLURM_STEP_ID"]
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    shown = f"{array}_{task}" if array and task else number
    cluster = _cluster(environ)
    told = [environ.get(name, "") for name in ("SLURM_JOB_UID", "SLURM_JOB_USER", "SLURM_JOB_NAME", "SLURM_SUBMIT_DIR")]
    return Job(f"slurm-{cluster + '-' if cluster else ''}{shown}.{step}-{_hash(cluster, number, step, *told)}")


def _in_step(environ: Environ) -> bool:
    """True for a task that srun started; a shell on a terminal of its own (srun --pty) is none."""
    step = environ.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < LAST_STEP and "SLURM_PTY_PORT" not in environ


def _pod(environ: Environ) -> Job | None:
    """A pod's job by its labels (a file of the downward API), else the pod itself by its uid."""
    labels = _labels(environ.get("JOULEBOOK_POD_LABELS_FILE", ""))
    if named := labels.get("joulebook.io/run"):
        return Job(named)
    space = environ.get("JOULEBOOK_POD_NAMESPACE", "")
    for label in POD_JOB_LABELS:
        if named := labels.get(label):
            return Job(f"pod-{named}" if label.endswith("-uid") else _qualified(f"pod-{named}", environ, space))
    uid = environ.get("JOULEBOOK_POD_UID", "")
    return Job(f"pod-{uid}") if uid else None


def _file(environ: Environ) -> Job | None:
    path = environ.get("JOULEBOOK_RENDEZVOUS", "")
    if not path:
        return None
    from joulebook.rendezvous import agreed_run_id

    return Job(agreed_run_id(path))


def _siblings(environ: Environ) -> Job | None:
    """Ranks of which nothing else is known: those of one launcher on this machine. Other nodes' cannot be joined."""
    place = place_of(environ)
    if place.rank is None or (place.world_size or 1) < 2:
        return None
    if environ.get("SLURM_JOB_ID") and "PMI_RANK" in environ:  # a process manager of MPI's own within a Slurm job
        return Job(_qualified(f"slurm-{environ['SLURM_JOB_ID']}-mpi", environ))
    pid, started, is_launcher = _launcher(environ)
    local = _number(environ, LOCAL_SIZE_VARIABLES)
    whole = is_launcher and ((place.nodes or 1) == 1 if local is None else local == place.world_size)
    apart = "" if whole else "ranks started elsewhere could not be joined: name the job by JOULEBOOK_RUN_ID"
    namespace = str(os.stat("/proc/self/ns/pid").st_ino)  # noqa: PTH116
    return Job(f"ranks-{_hash(boot_id(), namespace, pid, started)}", apart)


def _launcher(environ: Environ) -> tuple[str, str, bool]:
    """Pid and start of the nearest ancestor without a rank, and True; the topmost rank's and False where none is."""
    variable = next(name for name in RANK_VARIABLES if environ.get(name, "").isdecimal())
    rank = f"{variable}=".encode()
    pid, top = os.getpid(), ("", "")
    while pid > 0:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            top = (str(pid), fields[19].decode())
            with open(f"/proc/{pid}/environ", "rb") as file:
                ranked = any(word.startswith(rank) for word in file.read().split(b"\0")) or pid == os.getpid()
        except PermissionError:
            ranked = False  # another user's process started ours: that is no rank
        except OSError:
            break
        if not ranked:
            return *top, True
        pid = int(fields[1])
    return *top, False


def _qualified(name: str, environ: Environ, *told: str) -> str:
    """The name, with a hash of what else tells this job from another of that name; without it when nothing does."""
    known = [*told, _cluster(environ)]
    return f"{name}-{_hash(*known)}" if any(known) else name


def _cluster(environ: Environ) -> str:
    return environ.get("JOULEBOOK_CLUSTER") or environ.get("SLURM_CLUSTER_NAME", "")


def _hash(*values: str) -> str:
    return hashlib.sha256("\0".join(values).encode(errors="surrogateescape")).hexdigest()[:16]


def _number(environ: Environ, variables: tuple[str, ...]) -> int | None:
    return next((int(text) for name in variables if (text := environ.get(name, "")).isdecimal()), None)


def _labels(path: str) -> dict[str, str]:
    """The pod's labels: lines of key="value" with Go's quoting; empty when no file is named."""
    if not path:
        return {}
    import json

    from joulebook.errors import JoulebookError

    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, ValueError) as error:
        raise JoulebookError(
            f"the pod's labels cannot be read from {path}: {error}", "mount metadata.labels there by the downward API"
        ) from error
    labels = {}
    for line in lines:
        key, equals, quoted = line.partition("=")
        if equals:
            try:
                labels[key] = str(json.loads(quoted))
            except ValueError:
                labels[key] = quoted.strip('"')
    return labels
