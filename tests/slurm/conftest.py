"""A cluster for the tests, and a profile for it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cluster
import pytest

PROFILE = """\
executor: slurm
jobs: 4
slurm-status-command: squeue                    # this cluster has no database of finished jobs
slurm-init-seconds-before-status-checks: 1
default-resources:
  slurm_partition: gpu
"""


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[dict[str, str]]:
    """In a process of its own, since it handles signals, and other tests fork."""
    if lacking := cluster.missing():
        pytest.skip(f"SLURM is not installed: {', '.join(lacking)}")
    with tempfile.TemporaryDirectory(prefix="slurm_") as folder:
        with subprocess.Popen([sys.executable, cluster.__file__, folder], stdout=subprocess.PIPE, text=True) as process:
            lines = [process.stdout.readline().strip() for _ in range(2)]
            yield dict(line.removeprefix("export ").split("=", 1) for line in lines)
            process.terminate()


@pytest.fixture
def profile(running_cluster, monkeypatch, tmp_path) -> Path:
    """Folder of a Snakemake profile for a cluster that commands find."""
    pytest.importorskip(
        "snakemake_executor_plugin_slurm", reason="Snakemake needs Python 3.11, and so does its executor for SLURM"
    )
    for name, value in running_cluster.items():
        monkeypatch.setenv(name, value)
    # a job inherits the variables, and would see those of the job that runs the tests
    for name in [name for name in os.environ if name.startswith(("SLURM_JOB", "SBATCH_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(PROFILE)
    return tmp_path / "profile"
