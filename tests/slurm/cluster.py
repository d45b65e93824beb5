"""A SLURM cluster of one node in a folder of its own: without systemd, root, or anything in /etc.

    python tests/slurm/cluster.py FOLDER     # prints variables that let sbatch, squeue and Snakemake find it

It runs until Ctrl-C. Debian's packages slurm-wlm and munge have all that is needed. The node claims more CPUs, memory
and GPUs than there are, so that steps of the usual size fit.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sam3d_nnunet.processes import Stopped, guarded

DAEMONS = ("munged", "slurmctld", "slurmd")
FILES = ("/dev/null", "/dev/zero", "/dev/full")
"""Each GPU is a file, which must exist."""
SECONDS = 30.0  # for the cluster to come up, or to end
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))  # where daemons are, off the PATH of users
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
# processes are found by their parents; cgroups belong to systemd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
# a killed job has as many seconds to end
KillWait=5
# and stays in the list of the queue for as many
MinJobAge=300
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus}
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that the cluster needs and this machine lacks."""
    return [name for name in (*DAEMONS, "sbatch", "squeue", "scancel", "srun") if shutil.which(name, path=PATH) is None]


@contextmanager
def cluster(folder: Path, cpus: int = 24, memory_mb: int = 64000, gpus: int = 2) -> Iterator[dict[str, str]]:
    """Start a cluster, and stop it with all its jobs.

    Args:
        folder: new or empty, for its files; with a short path, since that of a socket has at most 107 letters.
        cpus: that its node claims to have.
        memory_mb: that its node claims to have.
        gpus: that its node claims to have, at most three. Jobs get their numbers in CUDA_VISIBLE_DEVICES.

    Yields:
        variables with which commands find it.

    Raises:
        TimeoutError: it does not come up, with the end of the daemons' output.
    """
    folder = folder.absolute()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # as munged wants it
    key, host = folder / "munge.key", socket.gethostname().split(".")[0]
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    controller, node = _free_ports(2)
    given = {"host": host, "user": getpass.getuser(), "folder": folder, "controller": controller, "node": node}
    given |= {"cpus": cpus, "memory": memory_mb, "gpus": gpus}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**given))
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in FILES[:gpus]))
    variables = {"SLURM_CONF": str(configuration), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    # Snakemake's executor starts srun without our variable
    (folder / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    (folder / "srun").chmod(0o755)
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    with ExitStack() as running:
        running.enter_context(_daemon(folder, "munged", "-F", f"--socket={folder}/munge.socket", *files))
        _wait_for(folder, lambda: (folder / "munge.socket").exists())
        running.enter_context(_daemon(folder, "slurmctld", "-D", "-f", str(configuration)))
        running.enter_context(_daemon(folder, "slurmd", "-D", "-N", host, "-f", str(configuration)))
        _wait_for(folder, lambda: _ask(variables, "sinfo", "-h", "-o", "%T").startswith("idle"))
        try:
            yield variables
        finally:
            _ask(variables, "scancel", "--user", getpass.getuser())
            with suppress(TimeoutError):
                _wait_for(folder, lambda: not _ask(variables, "squeue", "-h"))


@contextmanager
def _daemon(folder: Path, name: str, *arguments: str) -> Iterator[None]:
    """Run a daemon that ends with us, even if we are killed."""
    with (folder / f"{name}.txt").open("wb") as output:
        with guarded([shutil.which(name, path=PATH), *arguments], SECONDS, stdout=output, stderr=output):
            yield


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _ask(variables: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True).stdout.strip()


def _wait_for(folder: Path, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            ends = [f"{file.name}: {file.read_text()[-1000:]}" for file in sorted(folder.glob("*.txt"))]
            raise TimeoutError("\n".join(("The cluster does not come up.", *ends)))
        time.sleep(0.1)


def main() -> None:
    if lacking := missing():
        sys.exit(f"This machine lacks {', '.join(lacking)}. On Debian: apt-get install slurm-wlm munge")
    with ExitStack() as stack:
        given = sys.argv[1:2] or [stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm_"))]
        with suppress(KeyboardInterrupt, Stopped), cluster(Path(given[0])) as variables:
            print(*(f"export {name}={value}" for name, value in variables.items()), sep="\n", flush=True)
            signal.pause()


if __name__ == "__main__":
    main()
