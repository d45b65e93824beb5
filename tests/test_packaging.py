import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from sam3d_nnunet import __version__
from sam3d_nnunet.nnunet.doctor import NNUNET_MINOR

ROOT = Path(__file__).parents[1]
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "site", "tests", "*venv")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built by way of the sdist, from a copy, since building leaves folders behind."""
    copy = tmp_path_factory.mktemp("packaging") / "repository"
    shutil.copytree(ROOT, copy, ignore=IGNORED)
    commands = [
        [sys.executable, "setup.py", "-q", "sdist"],
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "wheels"],
    ]
    subprocess.run(commands[0], cwd=copy, check=True, capture_output=True)
    sdist = next((copy / "dist").iterdir())
    subprocess.run([*commands[1], str(sdist)], cwd=copy, check=True, capture_output=True)
    return zipfile.ZipFile(next((copy / "wheels").glob("*.whl")))


def test_wheel_holds_the_package_and_its_data(wheel):
    packaged = set(wheel.namelist())
    files = (file for name in ("*.py", "*.jinja", "Snakefile") for file in (ROOT / "sam3d_nnunet").rglob(name))
    modules = {str(file.relative_to(ROOT)) for file in files}
    recipes = {f"sam3d_nnunet/plans/{file.name}" for file in (ROOT / "plans").glob("*.json")}
    assert recipes and modules | recipes | {"sam3d_nnunet/py.typed"} <= packaged
    ours = {name for name in packaged if not name.startswith("nnInteractive/")}
    assert {name.split("/")[0] for name in ours} == {"sam3d_nnunet", f"sam3d_nnunet-{__version__}.dist-info"}
    # nothing that nnInteractive's own wheels hold, above all no __init__.py
    assert packaged - ours == {"nnInteractive/inference/sam3d_session.py"}


def test_metadata(wheel):
    metadata = wheel.read(f"sam3d_nnunet-{__version__}.dist-info/METADATA").decode()
    major, minor = NNUNET_MINOR.split(".")
    assert f"Requires-Dist: nnunetv2<{major}.{int(minor) + 1},>={NNUNET_MINOR}" in metadata
    extras = ("test", "baselines", "benchmark", "rivals", "docs", "dev")
    assert all(f"Provides-Extra: {extra}" in metadata for extra in extras)
    scripts = wheel.read(f"sam3d_nnunet-{__version__}.dist-info/entry_points.txt").decode()
    assert "sam3d = sam3d_nnunet.cli.main:main" in scripts


def test_citation_names_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_all_imports_are_declared(wheel):
    """Also those that nnU-Net happens to install today."""
    modules = {
        name.split(".")[0]
        for file in (ROOT / "sam3d_nnunet").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    } - {"sam3d_nnunet", *sys.stdlib_module_names}
    content = wheel.read(f"sam3d_nnunet-{__version__}.dist-info/METADATA").decode()
    declared = re.findall(r"^Requires-Dist: ([\w.-]+)(?!.*extra == .(?:test|docs|dev))", content, re.MULTILINE)
    known, installed = set(map(normal, declared)), metadata.packages_distributions()
    assert "numpy" in known and "pytest" not in known
    missing = {module for module in modules if not known & set(map(normal, installed[module]))}
    assert not missing


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()
