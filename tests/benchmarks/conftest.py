"""A repository with one folder of kept results, and a small folder of results to keep."""

import shutil
from pathlib import Path

import keep_results
import pytest
from results_fixtures import ADAPTER, STEPS, UNET

COMMIT = "0" * 40


def without(results: Path, *protocols: str) -> Path:
    """The folder without these protocols: what has to be computed takes long."""
    for protocol in protocols:
        shutil.rmtree(results / ADAPTER / protocol)
        shutil.rmtree(results / "prompts" / protocol)
    return results


def without_fold_1(results: Path) -> Path:
    """The folder without the second fold."""
    for folder in results.glob("*/*/fold_1"):
        shutil.rmtree(folder)
    return results


@pytest.fixture(scope="session")
def repository(made_results, tmp_path_factory) -> Path:
    """Holds results/tiny, kept from a part of `made_results`. Not to be changed."""
    root = tmp_path_factory.mktemp("repository")
    results = without(Path(shutil.copytree(made_results, root / "measured")), "volume_3", "volume_10")
    keep_results.main([str(results), str(root / "results/tiny"), "--commit", COMMIT, "--baseline", UNET])
    return root


@pytest.fixture
def few_results(results_folder) -> Path:
    """Of two protocols and one fold, to be changed."""
    return without_fold_1(without(results_folder, "volume_3", "volume_10", f"iterated_{STEPS}"))


@pytest.fixture
def corrected_results(results_folder) -> Path:
    """Of automatic prediction and of one that is corrected, in one fold, to be changed."""
    return without_fold_1(without(results_folder, "volume_1", "volume_3", "volume_10"))
