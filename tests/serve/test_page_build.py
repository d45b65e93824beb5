"""The viewer of the page is bundled from packages of npm when a wheel is built, and nothing of it is kept here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = Path("sam3d_nnunet/serve/page_files")


def test_packages_are_pinned_without_addresses():
    lock = json.loads((ROOT / PAGE / "package-lock.json").read_text())
    wanted = json.loads((ROOT / PAGE / "package.json").read_text())
    for name, version in (wanted["dependencies"] | wanted["devDependencies"]).items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    for name, package in lock["packages"].items():
        assert "resolved" not in package  # an address would bind the build to one registry
        assert not name or package["integrity"].startswith("sha512-")


def test_nothing_of_the_packages_is_in_the_repository():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        files = [str(file.relative_to(ROOT)) for file in (ROOT / PAGE).iterdir() if file.name != "built"]
    else:
        files = subprocess.run(["git", "ls-files", PAGE], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert files
    assert not [name for name in files if "built" in name or "node_modules" in name or name.endswith("niivue.js")]


def build(folder: Path, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | variables)


def test_without_npm_there_is_a_wheel_without_the_viewer(tmp_path):
    done = build(tmp_path, PATH="/nowhere")
    assert done.returncode == 0, done.stderr
    assert "no page for browsers" in done.stdout and "Install Node.js" in done.stdout
    assert (tmp_path / PAGE / "no_page.html").is_file() and not (tmp_path / PAGE / "built").exists()
    refused = build(tmp_path, PATH="/nowhere", SAM3D_PAGE="require")
    assert refused.returncode == 1 and "npm is not installed" in refused.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_wheel_holds_the_viewer_with_its_licences(tmp_path):
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    built = tmp_path / PAGE / "built"
    if not built.exists():
        pytest.skip(f"npm is not installed, or reaches no registry: {done.stdout[-300:]}")
    assert sorted(file.name for file in built.iterdir()) == ["LICENCES.txt", "niivue.js"]
    licences = (built / "LICENCES.txt").read_text()
    assert "@niivue/niivue" in licences and "Redistribution and use in source and binary forms" in licences
    assert not (tmp_path / PAGE / "node_modules").exists()
