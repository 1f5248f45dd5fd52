"""A SLURM of one node on this machine for the length of a test; it writes into one folder and nowhere else."""

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

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
UNDER_WAY = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")  # states of a job


class Slurm:
    """Asks the daemons that were started.

    Attributes:
        folder: of the daemons' files, and where jobs run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        outside = {name: value for name, value in clean_environment().items() if not name.startswith("SLURM_")}
        here = {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(Path(__file__).parents[2])}
        self.environment = {**outside, **here}
        self.environment["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"  # where an ordinary user does not look

    def ask(self, *words: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """The number of a job that runs a script; it appends what it prints to `NUMBER.log`."""
        path = self.folder / "job.sh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        also = ("--requeue", "--open-mode=append", "--output=%j.log", "--nodes=1")
        return self.ask("sbatch", "--parsable", *also, *options, str(path))

    def facts(self, job: str) -> dict[str, str]:
        """What the controller knows of a job."""
        return dict(word.split("=", 1) for word in self.ask("scontrol", "show", "job", job).split() if "=" in word)

    def start_again(self, job: str) -> None:
        """Let a job that was given back begin now, not in two minutes as SLURM would."""
        wait_for(lambda: self.facts(job)["JobState"] == "PENDING", f"job {job} in the queue")
        time.sleep(3)  # in the second in which it was ended, its node would not take it
        self.ask("scontrol", "update", f"jobid={job}", "starttime=now")

    def log(self, job: str) -> str:
        """What a job has printed so far."""
        path = self.folder / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def end(self, job: str) -> str:
        """The state that a job ends with."""
        wait_for(lambda: self.facts(job)["JobState"] not in UNDER_WAY, f"the end of job {job}")
        return self.facts(job)["JobState"]

    def clear(self) -> None:
        """End the jobs that a failed test has left."""
        for job in self.ask("squeue", "--noheader", "--format=%i").split():
            self.ask("scancel", job)
        wait_for(lambda: not self.ask("squeue", "--noheader"), "the end of all jobs")


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Return as soon as a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def missing() -> str:
    """Commands that are not installed."""
    return ", ".join(name for name in NEEDED if shutil.which(name, path=Slurm(Path()).environment["PATH"]) is None)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """The daemons, as long as the context lasts.

    Raises:
        RuntimeError: they cannot be started here.
    """
    found, host = Slurm(folder), socket.gethostname().split(".")[0]
    _write_files(folder, host)
    munge = [f"--{name}-file={folder / name}" for name in ("key", "log", "pid", "seed")]
    with ExitStack() as stack:
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder / 'munge'}", *munge],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D", "-N", host],
        ):
            stack.enter_context(_running(command, found))
        try:
            wait_for(lambda: _is_idle(found), "the node", 60)
        except AssertionError as error:
            logs = "".join(path.read_text()[-1000:] for path in folder.glob("*d.log"))
            raise RuntimeError(f"{error}: {logs}") from error
        stack.callback(found.clear)
        yield found


@contextmanager
def _running(command: list[str], of: Slurm) -> Iterator[None]:
    """A daemon that is ended by its own number."""
    with (of.folder / f"{command[0]}.log").open("w") as log:
        daemon = subprocess.Popen(command, cwd=of.folder, env=of.environment, stdout=log, stderr=log)
    time.sleep(0.5)  # the next one asks for it
    try:
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _is_idle(found: Slurm) -> bool:
    asked = subprocess.run(["sinfo", "-h", "-o", "%T"], env=found.environment, capture_output=True, text=True)
    return asked.stdout.strip() == "idle"


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
