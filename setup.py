"""Metadata of the package. pyproject.toml holds the build backend and the settings of tools."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "sam3d_nnunet" / "__init__.py").read_text(), re.MULTILINE)[1]

BASELINES = ["segment-anything", "monai"]
BENCHMARK = ['snakemake>=9; python_version >= "3.11"', "filelock"]
RIVALS = ["nninteractive-client>=2.6,<3", "httpx"]  # no torch among their requirements
SERVE = ["fastapi", "uvicorn", "nninteractive-client>=2.6,<2.7"]  # the same minor version as in serve/wire.py
# segment-anything imports torchvision but does not require it. The packaging test builds a wheel with setuptools.
TEST = [*BASELINES, *BENCHMARK, *RIVALS, *SERVE, "pytest>=7.4", "pytest-xdist", "hypothesis", "torchvision"]
TEST += ["setuptools>=64"]
DOCS = ["mkdocs-material", "mkdocstrings[python]"]
DEV = [*TEST, *DOCS, "ruff", "import-linter>=2.9"]

setup(
    name="sam3d_nnunet",
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
    },
    include_package_data=False,
    install_requires=[
        # the same minor version as in nnunet/doctor.py
        "nnunetv2>=2.8,<2.9",
        "acvl-utils",
        "batchgenerators",
        "batchgeneratorsv2",
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
