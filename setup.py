"""Metadata of the package. pyproject.toml holds the build backend and the settings of tools."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Command, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "sam3d_nnunet" / "__init__.py").read_text(), re.MULTILINE)[1]

BASELINES = ["segment-anything", "monai"]
BENCHMARK = ['snakemake>=9; python_version >= "3.11"', "filelock"]
RIVALS = ["nninteractive-client>=2.6,<3", "httpx"]  # no torch among their requirements
# the same minor version of the client as in serve/wire.py
SERVE = ["fastapi", "starlette", "uvicorn", "blosc2", "nninteractive-client>=2.6,<2.7"]
NOTEBOOK = ["ipyniivue>=2.4"]  # with ipywidgets
# segment-anything imports torchvision but does not require it. The packaging test builds a wheel with setuptools.
TEST = [*BASELINES, *BENCHMARK, *RIVALS, *SERVE, *NOTEBOOK, "pytest>=7.4", "pytest-xdist", "hypothesis", "torchvision"]
TEST += ["setuptools>=64", "psutil", 'snakemake-executor-plugin-slurm>=2.8; python_version >= "3.11"']
DOCS = ["mkdocs-material", "mkdocstrings[python]"]
DEV = [*TEST, *DOCS, "ruff", "import-linter>=2.9"]

PAGE = Path("sam3d_nnunet/serve/page_files")
BUILT = "built"  # what is made from packages of npm; not in the repository


class NoPage(Exception):
    """Why the viewer of the page can't be bundled, in a sentence."""


def bundle_viewer(folder: Path) -> None:
    """Bundle the image viewer of the page of `sam3d serve`, with the licences of all that is in it.

    Raises:
        NoPage: npm is missing or failed.
    """
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise NoPage("npm is not installed. Install Node.js 18 or later, which brings it.")
    with TemporaryDirectory() as temporary:
        copy = shutil.copytree(ROOT / PAGE, Path(temporary) / "page", ignore=shutil.ignore_patterns(BUILT))
        options = ["--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        for command in ([npm, "ci", *options], [node, "build.mjs", str(folder.resolve())]):
            done = subprocess.run(command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                raise NoPage(f"{' '.join(command[:2])} failed: {done.stdout.strip()[-500:]}")


class BuildPage(Command):
    """`python setup.py build_page`: the viewer for a source tree, as after `pip install -e .`."""

    description = "bundle the image viewer of the page of sam3d serve (needs npm)"
    user_options = []

    def initialize_options(self) -> None: ...

    def finalize_options(self) -> None: ...

    def run(self) -> None:
        try:
            bundle_viewer(ROOT / PAGE / BUILT)
        except NoPage as e:
            raise SystemExit(f"Error: {e}") from e
        print(f"The viewer is in {PAGE / BUILT}. Start sam3d serve again to see the page.")


class BuildPy(build_py):
    """Puts the viewer into wheels too. SAM3D_PAGE=skip leaves it out; with =require, a wheel without it is an error."""

    def run(self) -> None:
        super().run()
        wanted = os.environ.get("SAM3D_PAGE", "")
        if wanted == "skip" or getattr(self, "editable_mode", False):
            return
        try:
            bundle_viewer(Path(self.build_lib) / PAGE / BUILT)
        except NoPage as e:
            if wanted == "require":
                raise SystemExit(f"Error: {e}") from e
            print(f"Note: sam3d serve will have no page for browsers. {e}")


setup(
    name="sam3d_nnunet",
    cmdclass={"build_py": BuildPy, "build_page": BuildPage},
    version=VERSION,
    description="An nnU-Net v2 plug-in that trains a promptable 3-D segmentation network lifted from SAM",
    long_description=README.read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The sam3d_nnunet developers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # find_packages finds neither nnunet_ext/, which has no __init__.py, nor plans/, which lies beside the package.
    packages=[
        *find_packages(include=["sam3d_nnunet", "sam3d_nnunet.*"]),
        "sam3d_nnunet.nnunet_ext",
        "sam3d_nnunet.plans",
        # our part of a namespace package; editable installs are searched only if its root is named, too
        "nnInteractive",
        "nnInteractive.inference",
    ],
    package_dir={"sam3d_nnunet.plans": "plans", "nnInteractive": "namespace/nnInteractive"},
    package_data={
        "sam3d_nnunet": ["py.typed"],
        "sam3d_nnunet.workflow": ["Snakefile"],
        "sam3d_nnunet.report": ["*.jinja"],
        "sam3d_nnunet.plans": ["*.json"],
        "sam3d_nnunet.serve": [f"page_files/*.{kind}" for kind in ("html", "css", "js", "svg")],
    },
    include_package_data=False,
    install_requires=[
        # the same minor version as in nnunet/doctor.py
        "nnunetv2>=2.8,<2.9",
        "acvl-utils",
        "batchgenerators",
        "batchgeneratorsv2",
        "dynamic-network-architectures",
        "torch",
        "numpy",
        "scikit-image",
        "scipy",
        "typer>=0.14",
        "pooch",
        "pydantic>=2",
        "pydantic-core",
        "typing-extensions",
        "requests",
        "tqdm",
        "matplotlib",
        "connected-components-3d",
        "SimpleITK",
        "nibabel",
        "surface-distance",
        "pandas",
        "statsmodels",
        "jinja2",
    ],
    extras_require={
        "test": TEST,
        "baselines": BASELINES,
        "benchmark": BENCHMARK,
        "rivals": RIVALS,
        "serve": SERVE,
        "notebook": NOTEBOOK,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["sam3d = sam3d_nnunet.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
)
