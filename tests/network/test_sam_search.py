"""Where SAM's weights are looked for, and their download (from a server of our own on this machine)."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network import weights
from sam3d_nnunet.network.weights import (
    CHECKPOINT_VARIABLE,
    SAM_FILES,
    SamFile,
    cache_folder,
    download_sam_checkpoint,
    find_sam_checkpoint,
    sam_checkpoint,
)

CONTENT = bytes(range(256)) * 4000
NAME = SAM_FILES["vit_b"].name


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, no variable set."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(weights, "cache_folder", lambda: folder)
    monkeypatch.delenv(CHECKPOINT_VARIABLE, raising=False)
    return folder


# --- search ---


@pytest.fixture
def download(cache, monkeypatch) -> Path:
    """Stands in for the download: returns a path that isn't in the cache."""
    path = cache.parent / "downloaded.pth"
    monkeypatch.setattr(weights, "download_sam_checkpoint", lambda model: path.with_stem(f"downloaded_{model}"))
    return path


def test_search_order(cache, download, monkeypatch):
    planned, named, cached = cache.parent / "planned.pth", cache.parent / "named.pth", cache / NAME
    cache.mkdir()
    for path in (planned, named, cached):
        path.write_bytes(b"")
    monkeypatch.setenv(CHECKPOINT_VARIABLE, str(named))
    assert sam_checkpoint("vit_b", str(planned)) == planned
    assert sam_checkpoint("vit_b") == named
    monkeypatch.delenv(CHECKPOINT_VARIABLE)
    assert sam_checkpoint("vit_b") == find_sam_checkpoint("vit_b") == cached
    assert find_sam_checkpoint("vit_l") is None
    assert sam_checkpoint("vit_l") == download.with_stem("downloaded_vit_l")
    cached.unlink()
    assert sam_checkpoint("vit_b", "auto") == download.with_stem("downloaded_vit_b")


def test_training_from_scratch_looks_for_nothing(cache, monkeypatch):
    monkeypatch.setenv(CHECKPOINT_VARIABLE, "/nowhere.pth")
    monkeypatch.setattr(weights, "download_sam_checkpoint", lambda model: pytest.fail("downloads"))
    assert sam_checkpoint("vit_b", "none") is None
    assert not cache.exists()


@pytest.mark.parametrize("place", ["/nowhere/sam.pth", "FOLDER"])
def test_a_named_file_that_is_not_there_is_an_error(place, cache, download, monkeypatch, tmp_path):
    """Nothing else is taken in its place."""
    place = place.replace("FOLDER", str(tmp_path))
    with pytest.raises(SAM3DError, match="plan's sam_checkpoint") as e:
        sam_checkpoint("vit_b", place)
    assert place in str(e.value) and '"none"' in str(e.value)
    monkeypatch.setenv(CHECKPOINT_VARIABLE, place)
    with pytest.raises(SAM3DError, match=CHECKPOINT_VARIABLE) as e:
        sam_checkpoint("vit_b")
    assert place in str(e.value)


def test_cache_folder_is_the_users():
    assert cache_folder().is_absolute() and cache_folder().name == "sam3d_nnunet"


# --- download ---


class Handler(BaseHTTPRequestHandler):
    """/good, /wrong, /cut and /missing."""

    def do_GET(self) -> None:
        how = self.path.split("/")[1]
        content = CONTENT[::-1] if how == "wrong" else CONTENT
        self.send_response(404 if how == "missing" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if how == "cut" else content)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(cache, monkeypatch) -> Iterator[str]:
    """Address of a server that holds CONTENT, which the registry takes for SAM's vit_b."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(SAM_FILES, "vit_b", SamFile(NAME, hashlib.sha256(CONTENT).hexdigest()))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def content_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def test_good_file_is_kept_and_found(server, cache):
    path = download_sam_checkpoint("vit_b", f"{server}/good/")
    assert content_of(cache) == {NAME: CONTENT}
    assert path == cache / NAME == find_sam_checkpoint("vit_b")


def test_a_file_that_is_there_is_not_fetched_again(server, cache):
    download_sam_checkpoint("vit_b", f"{server}/good/")
    assert download_sam_checkpoint("vit_b", f"{server}/missing/") == cache / NAME


@pytest.mark.parametrize("before", [{}, {NAME: b"a complete file of another version", "sam_vit_l_0b3195.pth": b"l"}])
@pytest.mark.parametrize("how", ["wrong", "cut", "missing", "absent"])
def test_failed_download_leaves_nothing_behind(how, before, server, cache):
    for name, content in before.items():
        cache.mkdir(exist_ok=True)
        (cache / name).write_bytes(content)
    base = "http://127.0.0.1:9/" if how == "absent" else f"{server}/{how}/"  # nobody listens at port 9
    with pytest.raises(SAM3DError) as e:
        download_sam_checkpoint("vit_b", base)
    assert content_of(cache) == before
    message = str(e.value)
    assert "vit_b" in message and base + NAME in message
    for remedy in (str(cache), CHECKPOINT_VARIABLE, "sam_checkpoint", '"none"'):
        assert remedy in message


def test_interrupted_download_leaves_nothing_behind(server, cache, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pooch.core.hash_matches", interrupt)  # by then the file lies there under a temporary name
    with pytest.raises(KeyboardInterrupt):
        download_sam_checkpoint("vit_b", f"{server}/good/")
    assert content_of(cache) == {}


def test_unwritable_cache_is_our_error(server, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(SAM3DError, match=CHECKPOINT_VARIABLE):
        download_sam_checkpoint("vit_b", f"{server}/good/")


def test_registry_has_sams_public_files():
    assert weights.BASE_URL == "https://dl.fbaipublicfiles.com/segment_anything/"
    assert {model: f.name for model, f in SAM_FILES.items()} == {
        "vit_b": "sam_vit_b_01ec64.pth",
        "vit_l": "sam_vit_l_0b3195.pth",
        "vit_h": "sam_vit_h_4b8939.pth",
    }
    assert all(
        len(f.sha256) == 64 and f.sha256.startswith(h)
        for f, h in zip(SAM_FILES.values(), ("ec2d", "3adc", "a7bf"), strict=True)
    )
