"""`sam3d dataset fetch`: a public data set, from the network or from a copy, into nnUNet_raw.

The files are downloaded into a cache with pooch, which checks their SHA-256, and converted from there like any other
published data set.
"""

import logging
import textwrap
from functools import partial
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from sam3d_nnunet.datasets import sts_files
from sam3d_nnunet.datasets.convert import Conversion, convert
from sam3d_nnunet.datasets.sources import LAYOUTS, STS, STS_ABOUT, STS_REFERENCES, Source
from sam3d_nnunet.errors import SAM3DError, last_line
from sam3d_nnunet.io import listing
from sam3d_nnunet.nnunet.folders import new_dataset_name, raw_root

TIMEOUT = 30
"""Seconds without an answer after which a download fails."""
SIZES = {"pet": 17, "mr": 97}
"""Of all published files of a modality, in MB."""


def sts_terms(modality: str) -> str:
    """What a user must have read before the soft-tissue sarcomas are fetched: origin, licence and whom to name.

    Args:
        modality: a key of `STS`.
    """
    fill = partial(textwrap.fill, width=100, break_on_hyphens=False)
    return "\n".join(
        [
            f"{STS[modality].channel} images and tumour masks, {SIZES[modality]} MB.",
            fill(STS_ABOUT["description"]),
            f"Licence: {STS_ABOUT['licence']}",
            "You may use, change and share the data if you name its authors and say what you changed:",
            *(fill(f"- {reference}", subsequent_indent="  ") for reference in STS_REFERENCES),
            "The Cancer Imaging Archive also asks everybody not to try to identify patients.",
        ]
    )


def fetch_sts(dataset: str, modality: str, copy: Path | None = None, allow_missing: bool = False) -> Conversion:
    """Make a data set of the soft-tissue sarcomas. Whoever calls this has asked for the licence.

    An attempt that was interrupted goes on: whole files in the cache and finished cases are kept.

    Args:
        dataset: id or full name of the new data set.
        modality: a key of `STS`.
        copy: a folder that `find_sts` reads, instead of the network.
        allow_missing: finish without cases that the copy lacks or that are damaged there.

    Raises:
        SAM3DError: the id is taken, a file can't be downloaded, or the copy holds something else.
    """
    raw_root()
    new_dataset_name(dataset, STS[modality].title)  # wrong names are refused before anything is downloaded
    layout = f"sts-{modality}"
    if copy is None:
        return convert(_download(STS[modality].prefix), dataset, layout, allow_missing)
    done = convert(copy, dataset, layout, allow_missing)
    if changed := _changed(LAYOUTS[layout](copy.resolve())):
        done.notes.append(f"{len(changed)} file(s) differ from those published (SHA-256): {listing(changed)}.")
    return done


def cache_folder() -> Path:
    """The folder for downloaded files, laid out as they are published."""
    return Path(pooch.os_cache("sam3d_nnunet")) / "sts"


def _download(prefix: str) -> Path:
    """The cache, with all files whose names begin like this. Whole files that are there are not downloaded again."""
    registry = {name: known for name, known in sts_files.SHA256.items() if Path(name).name.startswith(prefix)}
    shelf = pooch.create(cache_folder(), sts_files.ADDRESS, registry=registry)
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
    pooch.get_logger().setLevel(logging.WARNING)  # a line for each file would break the progress bar
    for name in tqdm(registry, desc="Downloads", unit="file"):
        try:
            shelf.fetch(name, downloader=downloader)
        except (OSError, ValueError) as e:
            raise SAM3DError(
                f"{shelf.get_url(name)} could not be downloaded ({_reason(e)}): run the command again to go on, or get "
                f"the folder ibsi_validation of {sts_files.REPOSITORY} in another way and name it with --from."
            ) from e
    return cache_folder()


def _reason(error: Exception) -> str:
    """Why a download failed, in a few words: those of requests hold the names of its classes."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT} seconds"
    if isinstance(error, requests.ConnectionError):
        return "there is no connection"
    if isinstance(error, requests.RequestException):
        return "the connection broke"
    if isinstance(error, ValueError):
        return "what arrived is not the published file (SHA-256)"
    return last_line(error)


def _changed(source: Source) -> list[str]:
    """Files with other bytes than those published under their names. A data set of nnU-Net has other names."""
    files = [file for case in source.training.values() for file in (case.image, case.label) if file.is_file()]
    known = {file: sts_files.SHA256.get(f"{file.parent.name}/{file.name}") for file in files}
    comparable = [file for file in files if known[file]]
    progress = tqdm(comparable, desc="Checksums", unit="file", disable=not comparable)
    return [f"{file.parent.name}/{file.name}" for file in progress if pooch.file_hash(str(file)) != known[file]]
