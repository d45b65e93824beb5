import gzip
import hashlib
import json
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from typer.testing import CliRunner

from sam3d_nnunet.cli import datasets as commands
from sam3d_nnunet.cli import main as cli
from sam3d_nnunet.datasets import fetch, sources, sts_files
from sam3d_nnunet.datasets.fetch import fetch_sts
from sam3d_nnunet.errors import SAM3DError

CASES = ["STS_001", "STS_002", "STS_003"]
SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.fixture
def published(tmp_path, nnunet_folders, write_image, monkeypatch) -> Path:
    """Three patients, as if no more had been published."""
    folder, rng = tmp_path / "public/ibsi_validation/nifti", np.random.default_rng(0)
    for case in CASES:
        for prefix in ("PET", "MR_T1", "CT"):
            write_image(folder / case / f"{prefix}_image.nii.gz", rng.random((5, 6, 7)).astype(np.float32))
            write_image(folder / case / f"{prefix}_mask.nii.gz", rng.integers(0, 2, (5, 6, 7)).astype(np.uint8))
    monkeypatch.setattr(sources, "STS_CASES", CASES)
    files = [file for prefix in ("PET", "MR_T1") for file in sorted(folder.rglob(f"{prefix}_*"))]
    known = {f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    monkeypatch.setattr(sts_files, "SHA256", known)
    return folder


class Server(ThreadingHTTPServer):
    """Serves a folder. `how` says how it treats single files; `asked` lists the files that were asked for."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.how, self.asked = folder, {}, []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        how, content = self.server.how.get(name), (self.server.folder / name).read_bytes()
        self.send_response(404 if how == "missing" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        content = content[::-1] if how == "wrong" else content
        self.wfile.write(content[: len(content) // 2] if how == "cut" else content)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache/sts"
    monkeypatch.setattr(fetch, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def server(published, cache, monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(published) as httpd:
        monkeypatch.setattr(sts_files, "ADDRESS", f"http://127.0.0.1:{httpd.server_port}/")
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def same_bytes(folder: Path, published: Path, prefix: str, cases: list[str] = CASES) -> bool:
    return all(
        (folder / ours.format(case)).read_bytes() == (published / case / f"{prefix}_{theirs}.nii.gz").read_bytes()
        for case in cases
        for ours, theirs in (("imagesTr/{}_0000.nii.gz", "image"), ("labelsTr/{}.nii.gz", "mask"))
    )


def test_files_are_those_of_all_patients():
    assert len(set(sts_files.SHA256.values())) == 204
    assert set(sts_files.SHA256) == {
        f"STS_{number:03}/{prefix}_{part}.nii.gz"
        for number in range(1, 52)
        for prefix in ("PET", "MR_T1")
        for part in ("image", "mask")
    }
    assert all(len(known) == 64 and int(known, 16) for known in sts_files.SHA256.values())
    assert f"theibsi/data_sets/{sts_files.COMMIT}/ibsi_validation/nifti/" in sts_files.ADDRESS


@pytest.mark.parametrize(
    "modality, prefix, name, channel",
    [("pet", "PET", "Dataset911_STSPET", "PET"), ("mr", "MR_T1", "Dataset911_STSMRT1", "MR")],
)
def test_from_the_network(server, published, nnunet_folders, verify, modality, prefix, name, channel):
    done = fetch_sts("911", modality)
    assert done.complete and done.cases == 3 and not done.failed and not done.notes
    assert done.folder == nnunet_folders.raw / name
    assert [f.name for f in nnunet_folders.raw.iterdir()] == [name]
    assert same_bytes(done.folder, published, prefix)
    assert sorted(server.asked) == sorted(file for file in sts_files.SHA256 if f"/{prefix}_" in file)
    content = json.loads((done.folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": channel} and content["labels"] == {"background": 0, "tumour": 1}
    assert "CC BY 3.0" in content["licence"] and "10.7937/K9/TCIA.2015.7GO2GSKS" in content["reference"]
    assert "5 cm" in content["description"]
    verify(done.folder)


REASONS = {"wrong": "what arrived is not the published file", "missing": "the server answers 404", "cut": ""}


@pytest.mark.parametrize("how", list(REASONS))
def test_broken_download_and_another_attempt(server, cache, published, nnunet_folders, how):
    broken = "STS_002/PET_mask.nii.gz"
    server.how[broken] = how
    with pytest.raises(SAM3DError) as e:
        fetch_sts("911", "pet")
    message = str(e.value)
    assert sts_files.ADDRESS + broken in message and REASONS[how] in message
    assert "run the command again" in message and "--from" in message
    assert not list(nnunet_folders.raw.iterdir())
    whole = {str(file.relative_to(cache)) for file in cache.rglob("*") if file.is_file()}
    assert whole == {name for name in sts_files.SHA256 if "PET" in name and name < broken}

    server.how.clear()
    server.asked.clear()
    done = fetch_sts("911", "pet")
    assert done.complete and same_bytes(done.folder, published, "PET")
    assert not whole.intersection(server.asked) and broken in server.asked


def test_interrupted_download_goes_on(server, cache, published, monkeypatch):
    retrieve, files = requests.get, []

    def get(*args, **kwargs):
        files.append(args)
        if len(files) == 4:
            raise KeyboardInterrupt
        return retrieve(*args, **kwargs)

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(KeyboardInterrupt):
        fetch_sts("911", "pet")
    assert len(server.asked) == 3
    done = fetch_sts("911", "pet")
    assert done.complete and same_bytes(done.folder, published, "PET") and len(server.asked) == 6


def test_interrupted_conversion_goes_on(server, published, nnunet_folders):
    done = fetch_sts("911", "pet")
    unfinished = nnunet_folders.raw / ".Dataset911_STSPET.part"
    done.folder.rename(unfinished)
    (unfinished / "dataset.json").unlink()
    (unfinished / "conversion.json").write_text(
        json.dumps({"source": str(fetch.cache_folder().resolve()), "layout": "sts-pet"})
    )
    (unfinished / "labelsTr/STS_002.nii.gz").unlink()
    kept = unfinished / "imagesTr/STS_001_0000.nii.gz"
    time = kept.stat().st_mtime_ns
    done = fetch_sts("911", "pet")
    assert done.complete and same_bytes(done.folder, published, "PET") and len(server.asked) == 6
    assert (done.folder / "imagesTr/STS_001_0000.nii.gz").stat().st_mtime_ns == time


def test_damaged_file_in_the_cache_is_fetched_again(server, cache, published):
    fetch_sts("911", "pet")
    (cache / "STS_002/PET_image.nii.gz").write_bytes(b"half of it")
    server.asked.clear()
    done = fetch_sts("912", "pet")
    assert server.asked == ["STS_002/PET_image.nii.gz"] and same_bytes(done.folder, published, "PET")


def test_without_a_network(published, cache, nnunet_folders, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sts_files, "ADDRESS", "http://127.0.0.1:9/")  # nobody listens there
    with pytest.raises(SAM3DError, match=r"there is no connection\): run the command again .* --from\.$"):
        fetch_sts("911", "pet")
    assert not list(nnunet_folders.raw.iterdir())


def test_wrong_ids_are_refused_before_anything_is_fetched(server, nnunet_folders):
    (nnunet_folders.results / "Dataset911_Old").mkdir()
    for dataset, message in (("911", "911 is taken"), ("Dataset91_A", "1 to 999")):
        with pytest.raises(SAM3DError, match=message):
            fetch_sts(dataset, "pet")
    assert not server.asked


@pytest.mark.parametrize("place", ["ibsi_validation/nifti", "ibsi_validation", ""])
@pytest.mark.parametrize("modality, prefix", [("pet", "PET"), ("mr", "MR_T1")])
def test_from_a_copy(published, tmp_path, verify, place, modality, prefix):
    done = fetch_sts("Dataset911_Sarcoma", modality, tmp_path / "public" / place)
    assert done.complete and done.cases == 3 and not done.notes and done.folder.name == "Dataset911_Sarcoma"
    assert same_bytes(done.folder, published, prefix)
    verify(done.folder)


def test_from_a_copy_with_gaps_and_changes(published, write_image):
    (published / "STS_003/PET_image.nii.gz").unlink()
    write_image(published / "STS_002/PET_mask.nii.gz", np.ones((5, 6, 7), np.uint8))
    done = fetch_sts("911", "pet", published)
    assert not done.complete and list(done.failed) == ["STS_003"] and "There is no " in done.failed["STS_003"]
    done = fetch_sts("911", "pet", published, allow_missing=True)
    assert done.complete and done.cases == 2
    assert len(done.notes) == 1 and "1 file(s) differ" in done.notes[0] and "STS_002/PET_mask.nii.gz" in done.notes[0]


def test_from_a_data_set_of_nnunet(published, nnunet_folders, tmp_path, verify):
    first = fetch_sts("911", "mr", published)
    done = fetch_sts("912", "mr", first.folder)
    assert done.complete and done.folder.name == "Dataset912_STSMRT1" and same_bytes(done.folder, published, "MR_T1")
    verify(done.folder)
    with pytest.raises(SAM3DError, match="other channels or labels than PET"):
        fetch_sts("913", "pet", first.folder)


def test_from_elsewhere(published, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SAM3DError, match=r"empty holds no PET images .* STS_001/PET_image.nii.gz"):
        fetch_sts("911", "pet", tmp_path / "empty")
    with pytest.raises(SAM3DError, match="There is no folder"):
        fetch_sts("911", "pet", tmp_path / "nowhere")
    for file in published.glob("*/MR*"):
        file.unlink()
    with pytest.raises(SAM3DError, match="holds no MR images"):
        fetch_sts("911", "mr", published)


def run(*arguments: str, **more):
    return CliRunner().invoke(cli.app, ["dataset", "fetch", "sts", "-d", "911", *arguments], **more)


@pytest.mark.parametrize(
    "terminal, answer, message", [(False, "y\n", "no terminal.*--accept-licence"), (True, "n\n", "was not accepted")]
)
def test_nothing_is_fetched_without_the_licence(
    server, nnunet_folders, published, monkeypatch, terminal, answer, message
):
    monkeypatch.setattr(commands, "_at_terminal", lambda: terminal)
    for more in ([], ["--from", str(published)]):
        done = run(*more, input=answer)
        assert done.exit_code == 1 and isinstance(done.exception, SAM3DError)
        assert done.exception.args[0].startswith("Nothing was fetched") and not server.asked
        with pytest.raises(SAM3DError, match=message):
            raise done.exception
        for words in ("CC BY 3.0", "Vallières", "10.7937/K9/TCIA.2015.7GO2GSKS", "identify patients", "17 MB"):
            assert words in done.output
    assert not list(nnunet_folders.raw.iterdir())


def test_command(server, published, nnunet_folders, monkeypatch):
    done = run("--accept-licence", "--modality", "mr")
    assert done.exit_code == 0 and "3 training cases: " in done.output and "97 MB" in done.output
    shutil.rmtree(nnunet_folders.raw / "Dataset911_STSMRT1")
    monkeypatch.setattr(commands, "_at_terminal", lambda: True)
    done = run(input="y\n")
    assert done.exit_code == 0 and same_bytes(nnunet_folders.raw / "Dataset911_STSPET", published, "PET")


def test_command_with_a_gap_in_the_copy(published):
    (published / "STS_003/PET_mask.nii.gz").unlink()
    done = run("--accept-licence", "--from", str(published))
    assert done.exit_code == 1 and "Error: 1 case(s) failed. 2 are in " in done.output
    done = run("--accept-licence", "--from", str(published), "--allow-missing")
    assert done.exit_code == 0 and "2 training cases: " in done.output


def as_published(file: Path) -> bytes:
    """A copy as the published files were written: by ITK 4 on Windows, with other fields of the header and zlib's 6."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into("<2h", content, 252, 1, 0)  # only qform
    content[280:328] = bytes(48)  # sform
    content[123] = 2  # mm, and no unit of time
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    packed = compressor.compress(content) + compressor.flush()
    return packed[:9] + b"\x0a" + packed[10:]  # the system


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
@pytest.mark.skipif(hasattr(zlib, "ZLIBNG_VERSION"), reason="zlib-ng compresses otherwise")
def test_real_files(tmp_path, nnunet_folders, verify):
    """Copies that were made independently of us have the voxels of the published files, and these the known hashes."""
    copy, public = SHARED / "Dataset911_STSPET", tmp_path / "nifti"
    for case in sources.STS_CASES:
        (public / case).mkdir(parents=True)
        (public / case / "PET_image.nii.gz").write_bytes(as_published(copy / f"imagesTr/{case}_0000.nii.gz"))
        (public / case / "PET_mask.nii.gz").write_bytes(as_published(copy / f"labelsTr/{case}.nii.gz"))
    done = fetch_sts("911", "pet", public)
    assert done.complete and done.cases == 51 and not done.notes  # a note would name files with other hashes
    for part, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
        for case in sources.STS_CASES:
            ours, theirs = (
                sitk.ReadImage(str(folder / part / f"{case}{ending}.nii.gz")) for folder in (done.folder, copy)
            )
            assert ours.GetSpacing() == theirs.GetSpacing() and np.allclose(ours.GetOrigin(), theirs.GetOrigin())
            assert np.array_equal(sitk.GetArrayViewFromImage(ours), sitk.GetArrayViewFromImage(theirs))


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_real_copy_in_nnunets_layout(nnunet_folders):
    done = fetch_sts("912", "mr", SHARED / "Dataset912_STSMRT1", allow_missing=True)
    assert done.complete and done.cases == 49 and list(done.failed) == ["STS_009", "STS_020"]


def test_help_has_what_a_user_must_know():
    text = " ".join(CliRunner().invoke(cli.app, ["dataset", "fetch", "--help"]).output.split())
    for words in ("CC BY 3.0", "51 patients", "5 cm around the tumour", "--accept-licence", "--from", "SHA-256"):
        assert words in text
    assert "Example: sam3d dataset fetch sts -d 911 --modality pet" in text
