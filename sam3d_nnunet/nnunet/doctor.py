"""`sam3d doctor`: check what training needs, and say what to do about what is missing."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.nnunet import registration

NNUNET_MINOR = "2.8"  # setup.py pins the same minor version
DEFAULT_SAM_MODEL = "vit_b"


@dataclass(frozen=True)
class Finding:
    """One line of the report. The mark FAIL means that training would fail."""

    mark: str  # "ok", "note" or "FAIL"
    subject: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        return f"[{self.mark:^4}] {self.subject}: {self.found}" + (f" -> {self.todo}" if self.todo else "")


def examine() -> Iterator[Finding]:
    """All findings, one by one: the first can be shown while torch is still being imported."""
    yield check_python()
    yield check_torch()
    yield check_gpu()
    yield check_waiting_threads()
    yield check_nnunet()
    yield check_folder("nnUNet_raw", needed_to_train=False)
    yield check_folder("nnUNet_preprocessed", needed_to_train=True)
    yield check_folder("nnUNet_results", needed_to_train=True, made_by_training=True)
    yield check_registration()
    yield check_sam_weights()


def check_python() -> Finding:
    # pip does not install this package for a Python older than 3.10
    return Finding("ok", "Python", f"{platform.python_version()} ({sys.executable})")


def check_torch() -> Finding:
    try:
        import torch
    except Exception as error:  # a broken installation raises OSError and others
        return Finding(
            "FAIL", "torch", f"cannot be imported ({error})", "install it as described on https://pytorch.org"
        )
    return Finding("ok", "torch", torch.__version__)


def check_gpu() -> Finding:
    try:
        import torch
    except Exception:
        return Finding("note", "GPU", "not checked, because torch cannot be imported")
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Finding("ok", "GPU", ", ".join(f"{card.name} ({card.total_memory / 2**30:.0f} GiB)" for card in cards))
    if torch.backends.mps.is_available():
        return Finding("ok", "GPU", "Apple (mps); train with -device mps")
    todo = "train with -device cpu and a small preset, or install a torch that fits the GPU's driver"
    return Finding("note", "GPU", "none that torch can use", todo)


def check_waiting_threads() -> Finding:
    """OpenMP's threads spin while they wait for each other, for a time that becomes long when other jobs need cores."""
    policy = os.environ.get("OMP_WAIT_POLICY")
    if policy is not None and policy.strip().upper() == "PASSIVE":
        return Finding("ok", "OMP_WAIT_POLICY", policy)
    found = "not set" if policy is None else policy
    if check_gpu().mark == "ok":
        return Finding("ok", "OMP_WAIT_POLICY", f"{found}; it matters where networks train on a CPU")
    todo = "export OMP_WAIT_POLICY=PASSIVE, or training on a CPU is many times slower while other jobs run beside it"
    return Finding("note", "OMP_WAIT_POLICY", found, todo)


def check_nnunet() -> Finding:
    todo = f"pip install 'nnunetv2=={NNUNET_MINOR}.*'"
    try:
        folder = registration.nnunet_folder()
        version = importlib.metadata.version("nnunetv2")
    except SAM3DError as error:
        return Finding("FAIL", "nnunetv2", str(error))
    except importlib.metadata.PackageNotFoundError:
        return Finding("note", "nnunetv2", f"a copy of unknown version in {folder}", todo)
    if version.split(".")[:2] != NNUNET_MINOR.split("."):
        return Finding("FAIL", "nnunetv2", f"{version}, not {NNUNET_MINOR}", todo)
    return Finding("ok", "nnunetv2", version)


def check_folder(variable: str, needed_to_train: bool, made_by_training: bool = False) -> Finding:
    """Check one of nnU-Net's folders.

    Args:
        variable: that names the folder.
        needed_to_train: training reads or writes it. Raw data may be read-only or missing.
        made_by_training: nnU-Net makes the folder if it is missing.
    """
    wrong = "FAIL" if needed_to_train else "note"
    value = os.environ.get(variable)
    if not value:
        return Finding(wrong, variable, "not set", f"export {variable}=/your/folder")
    folder = Path(value)
    if folder.exists() and not folder.is_dir():
        return Finding(wrong, variable, f"{folder} is a file", f"set {variable} to a folder")
    if not folder.exists():
        if made_by_training and _can_be_made(folder):
            return Finding("note", variable, f"{folder} does not exist yet; nnU-Net makes it when training starts")
        return Finding(wrong, variable, f"{folder} does not exist", f"mkdir -p {folder}, or correct {variable}")
    if needed_to_train and not os.access(folder, os.W_OK):
        return Finding("FAIL", variable, f"{folder} cannot be written to", "change its permissions or choose another")
    return Finding("ok", variable, str(folder))


def _can_be_made(folder: Path) -> bool:
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    return above.is_dir() and os.access(above, os.W_OK)


def check_registration() -> Finding:
    external = [Path(path) for path in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if path.strip()]
    for path in external:
        if _breaks_pickling(path):
            found = f"nnUNet_extTrainer names {path}, with which training fails (PicklingError)"
            return Finding("FAIL", "registration", found, f"name {registration.EXT_FOLDER} instead")
    try:
        states = set(registration.status().values())
    except SAM3DError:
        return Finding("note", "registration", "not checked, because nnunetv2 is missing")
    if states == {"current"}:
        return Finding("ok", "registration", "registered in nnunetv2")
    if states <= set(registration.REGISTERED):
        return Finding("ok", "registration", "registered by another version of sam3d_nnunet", "run sam3d register")
    if any((path / registration.EXT_FILE.name).is_file() for path in external):
        return Finding("ok", "registration", "through nnUNet_extTrainer; plan with sam3d plan -d ID")
    found = "incomplete" if states & set(registration.REGISTERED) else "nnU-Net does not see our trainers"
    return Finding(
        "FAIL", "registration", found, f"run sam3d register, or export nnUNet_extTrainer={registration.EXT_FOLDER}"
    )


def _breaks_pickling(path: Path) -> bool:
    # nnU-Net imports each module below that folder under another name, and drops it from sys.modules after the search.
    package, path = registration.EXT_FOLDER.parent.resolve(), path.resolve()
    return path != registration.EXT_FOLDER.resolve() and (package.is_relative_to(path) or path.is_relative_to(package))


def check_sam_weights() -> Finding:
    try:
        from sam3d_nnunet.network import weights

        file = weights.find_sam_checkpoint(DEFAULT_SAM_MODEL)
    except SAM3DError as error:
        return Finding("FAIL", "SAM weights", str(error))
    except ImportError as error:
        return Finding("note", "SAM weights", f"not checked ({error})")
    if file is None:
        todo = (
            f"training downloads them into {weights.cache_folder()}; without internet, put the file there or set "
            "SAM3D_CHECKPOINT to it"
        )
        return Finding("note", "SAM weights", f"none for {DEFAULT_SAM_MODEL} yet", todo)
    return Finding("ok", "SAM weights", str(file))
