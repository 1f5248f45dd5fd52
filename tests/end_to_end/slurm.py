"""A SLURM cluster of one node on this machine, for the time of a test; it writes into one folder only."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.samples import clean_environment

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NOT_ENDED = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")  # states of a job


class Slurm:
    """The commands of a cluster that runs.

    Attributes:
        folder: folder of the daemons' files, and working folder of the jobs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        outside = {name: value for name, value in clean_environment().items() if not name.startswith("SLURM_")}
        here = {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(Path(__file__).parents[2])}
        self.environment = {**outside, **here}
        self.environment["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"  # not in the PATH of an ordinary user

    def ask(self, *command: str) -> str:
        """Run a SLURM command and return its output."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """Submit a job that runs a script and appends its output to `NUMBER.log`; return its number."""
        path = self.folder / "job.sh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        defaults = ("--requeue", "--open-mode=append", "--output=%j.log", "--nodes=1")
        return self.ask("sbatch", "--parsable", *defaults, *options, str(path))

    def facts(self, job: str) -> dict[str, str]:
        """Return the fields of `scontrol show job`."""
        return dict(field.split("=", 1) for field in self.ask("scontrol", "show", "job", job).split() if "=" in field)

    def start_again(self, job: str) -> None:
        """Start a requeued job now, not in two minutes as SLURM would."""
        wait_for(lambda: self.facts(job)["JobState"] == "PENDING", f"job {job} in the queue")
        time.sleep(3)  # its node does not accept it in the second in which it ended
        self.ask("scontrol", "update", f"jobid={job}", "starttime=now")

    def log(self, job: str) -> str:
        """Return the output of a job so far."""
        path = self.folder / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def end(self, job: str) -> str:
        """Wait for the end of a job and return its state."""
        wait_for(lambda: self.facts(job)["JobState"] not in NOT_ENDED, f"the end of job {job}")
        return self.facts(job)["JobState"]

    def clear(self) -> None:
        """Cancel the jobs that a failed test has left."""
        for job in self.ask("squeue", "--noheader", "--format=%i").split():
            self.ask("scancel", job)
        wait_for(lambda: not self.ask("squeue", "--noheader"), "the end of all jobs")


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def missing() -> str:
    """Return the programs that are not installed."""
    return ", ".join(name for name in PROGRAMS if shutil.which(name, path=Slurm(Path()).environment["PATH"]) is None)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Run the daemons while the context lasts.

    Raises:
        RuntimeError: the daemons cannot be started here.
    """
    cluster, host = Slurm(folder), socket.gethostname().split(".")[0]
    _write_files(folder, host)
    munge = [f"--{name}-file={folder / name}" for name in ("key", "log", "pid", "seed")]
    with ExitStack() as stack:
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder / 'munge'}", *munge],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D", "-N", host],
        ):
            stack.enter_context(_running(command, cluster))
        try:
            wait_for(lambda: _is_idle(cluster), "the node", 60)
        except AssertionError as error:
            logs = "".join(path.read_text()[-1000:] for path in folder.glob("*d.log"))
            raise RuntimeError(f"{error}: {logs}") from error
        stack.callback(cluster.clear)
        yield cluster


@contextmanager
def _running(command: list[str], cluster: Slurm) -> Iterator[None]:
    """Run a daemon while the context lasts."""
    with (cluster.folder / f"{command[0]}.log").open("w") as log:
        daemon = subprocess.Popen(command, cwd=cluster.folder, env=cluster.environment, stdout=log, stderr=log)
    time.sleep(0.5)  # the next daemon connects to it
    try:
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _is_idle(cluster: Slurm) -> bool:
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=cluster.environment, capture_output=True, text=True)
    return done.stdout.strip() == "idle"


def _write_files(folder: Path, host: str) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    user = getpass.getuser()
    (folder / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder / "munge"}
CredType=cred/munge
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder / "spool"}
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder / "slurmd.pid"}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP
""")
