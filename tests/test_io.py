import errno
import os
import subprocess
import sys
import time
import unicodedata
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import (
    PART,
    UNLOCKED,
    _remove_left_once,
    find_file,
    listing,
    read_json,
    read_json_object,
    read_text,
    reserve,
    same_name,
    whole_file,
    whole_files,
    whole_folder,
    write_json,
    write_text,
)

HINT = "Ask again."


def fail() -> None:
    raise ZeroDivisionError


def names(folder) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


@pytest.mark.parametrize("read", [read_text, read_json, read_json_object])
def test_files_that_cannot_be_read(tmp_path, read):
    (tmp_path / "latin").write_bytes("Müller".encode("latin-1"))
    for name in ("none", "latin", ""):
        with pytest.raises(SAM3DError) as error:
            read(tmp_path / name, hint=HINT)
        assert str(tmp_path / name) in str(error.value) and str(error.value).endswith(f". {HINT}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{\n"a": 1,\n}', "line 3"),
        ("", "line 1"),
        ("[" * 100_000, "recursion"),
        ("1" * 10_000, "digits"),
        (f"[-{'1' * 309}]", "digits"),
        ('{"a": ["\\ud83d"]}', "ud83d"),
        ('{"\\uDE00": 1}', "ude00"),
    ],
)
def test_what_is_not_json(tmp_path, text, value):
    file = tmp_path / "content.json"
    file.write_text(text)
    with pytest.raises(SAM3DError, match=f"{file}.*{value}.*{HINT}"):
        read_json(file, HINT)


def test_json_of_two_halves_of_a_character(tmp_path):
    (tmp_path / "content.json").write_text('["\\ud83d\\ude00"]')
    assert read_json(tmp_path / "content.json") == ["\U0001f600"]


def test_json_of_another_kind(tmp_path):
    file = tmp_path / "content.json"
    write_json(file, {"a": 1, "b": 2})
    assert read_json_object(file, ("b", "a")) == {"a": 1, "b": 2}
    with pytest.raises(SAM3DError, match=f"{file} lacks c, d. {HINT}"):
        read_json_object(file, ("c", "a", "d"), HINT)
    write_json(file, ["a"])
    with pytest.raises(SAM3DError, match=f"{file} .*object.*{HINT}"):
        read_json_object(file, hint=HINT)


def test_what_is_written(tmp_path):
    file = tmp_path / "content"
    write_text(file, "a\r\nb\nä")
    assert file.read_bytes() == b"a\r\nb\n\xc3\xa4" and read_text(file) == "a\r\nb\nä"
    file.write_bytes(b"\xef\xbb\xbfa")
    assert read_text(file) == "a"
    write_json(file, {"ä": [1]}, indent=1)
    assert file.read_text() == '{\n "\\u00e4": [\n  1\n ]\n}\n'
    write_json(file, "ä", ensure_ascii=False)
    assert file.read_bytes() == b'"\xc3\xa4"\n'
    assert names(tmp_path) == ["content"]


def test_a_file_stays_until_the_next_is_complete(tmp_path):
    file = tmp_path / "a.nii.gz"
    with whole_file(file) as part:
        part.write_text("first")
        assert part.name == file.name and part.parent.parent == tmp_path and part.parent.name.startswith(".")
        assert not file.exists()
    with pytest.raises(ZeroDivisionError), whole_file(file) as part:
        part.write_text("half")
        fail()
    assert file.read_text() == "first" and names(tmp_path) == ["a.nii.gz"]


def test_several_may_write_the_same_file(tmp_path):
    file = tmp_path / "a"
    with whole_file(file) as one, whole_file(file) as other:
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one" and names(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from sam3d_nnunet.io import whole_file, whole_files, whole_folder
folder, kind = Path(sys.argv[1]), sys.argv[2]
make = {"file": whole_file, "files": whole_files, "folder": whole_folder}[kind]
left = make(folder if kind == "files" else folder / "a")
part = left.__enter__()
(part if kind == "file" else part / "a").write_text("half")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="folders can't be locked on Windows, so that what is left stays there")
@pytest.mark.parametrize("kind", ["file", "files", "folder"])
def test_the_next_process_removes_what_a_killed_one_left(tmp_path, kind):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), kind])
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(PART) and list(left.iterdir())
    write_text(tmp_path / "too soon", "")  # it might be about to lock the folder
    assert left.is_dir()
    _age(left)
    with whole_files(tmp_path / "..") as other:  # of another folder: stays
        _remove_left_once.cache_clear()
        _age(other)
        write_text(tmp_path / "next", "")
        write_text(other.parent / "next", "")
        assert other.is_dir()
    assert names(tmp_path) == ["next", "too soon"]


def _age(folder: Path) -> None:
    os.utime(folder, (time.time() - 2 * UNLOCKED,) * 2)


@pytest.mark.skipif(os.name == "nt", reason="creating links takes rights on Windows")
def test_links_are_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    output = tmp_path / "output"
    output.mkdir()
    link = output / f"{PART}a"
    link.symlink_to(precious)
    os.utime(link, (0, 0), follow_symlinks=False)
    write_text(output / "next", "")
    assert (precious / "file").exists() and link.is_symlink()


def test_room_is_reserved(tmp_path):
    file = tmp_path / "map.npy"
    with file.open("wb") as stream:
        stream.truncate(2**20)
    reserve(file)
    assert file.stat().st_size == 2**20
    if hasattr(os, "posix_fallocate"):
        assert file.stat().st_blocks * 512 >= 2**20


def test_a_full_disk_is_named(tmp_path):
    def fill() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError) as error, whole_file(tmp_path / "a"):
        fill()
    assert error.value.filename == str(tmp_path / "a")
    with pytest.raises(OSError) as error, whole_files(tmp_path):
        fill()
    assert error.value.filename == str(tmp_path)
    assert names(tmp_path) == []


def test_all_or_none_of_two_files(tmp_path):
    files = [tmp_path / "a", tmp_path / "none" / "b"]
    with pytest.raises(FileNotFoundError) as error, ExitStack() as stack:
        for part in [stack.enter_context(whole_file(file)) for file in files]:
            part.write_text("content")
    assert names(tmp_path) == [] and error.value.filename == str(files[1])


@pytest.mark.parametrize(("code", "written"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.ENOSPC, False)])
def test_only_file_systems_that_cannot_flush_may_refuse_it(tmp_path, monkeypatch, code, written):
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with nullcontext() if written else pytest.raises(OSError):
        write_text(tmp_path / "file", "text")
    assert names(tmp_path) == (["file"] if written else [])


@pytest.mark.parametrize("name", ["a file/content", "none/content"])
def test_errors_name_the_file_and_not_its_temporary_one(tmp_path, name):
    (tmp_path / "a file").write_text("")
    with pytest.raises(OSError) as error:
        write_text(tmp_path / name, "content")
    assert error.value.filename == str(tmp_path / name)


def test_results_can_be_read_by_others(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "text", "content")
        with whole_files(tmp_path) as part:
            (part / "instances").mkdir()
            (part / "instances" / "map").write_text("content")
        with whole_folder(tmp_path / "new") as part:
            (part / "a").write_text("content")
    finally:
        os.umask(before)
    assert {name: (tmp_path / name).stat().st_mode & 0o777 for name in names(tmp_path)} == {
        "text": 0o640,
        "instances": 0o750,
        "instances/map": 0o640,
        "new": 0o750,
        "new/a": 0o640,
    }


def test_nothing_appears_without_the_last_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.nii"), whole_files(tmp_path, last="a.nii") as part:
        (part / "a.json").write_text("content")
    assert names(tmp_path) == []


def test_files_of_a_case(tmp_path, monkeypatch):
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: moved.append(str(b)) or replace(a, b))
    with whole_files(tmp_path, last="a.nii") as part:
        for name in ("b.json", "a.nii", "a.csv"):
            (part / name).write_text(name)
        (part / "instances").mkdir()
        (part / "instances" / "a.nii").write_text("map")
        assert part.parent == tmp_path and part.name.startswith(".")
    assert names(tmp_path) == ["a.csv", "a.nii", "b.json", "instances", "instances/a.nii"]
    assert moved[-1] == str(tmp_path / "a.nii") and len(moved) == 4
    with pytest.raises(ZeroDivisionError), whole_files(tmp_path) as part:
        (part / "a.nii").write_text("half")
        fail()
    assert (tmp_path / "a.nii").read_text() == "a.nii" and len(names(tmp_path)) == 5


def test_a_new_folder(tmp_path):
    with whole_folder(tmp_path / "new") as part:
        (part / "a").write_text("content")
        assert not (tmp_path / "new").exists() and part.parent.name.startswith(".")
    assert names(tmp_path) == ["new", "new/a"]
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "other") as part:
        fail()
    assert names(tmp_path) == ["new", "new/a"]


def test_a_name_as_long_as_file_systems_take(tmp_path):
    file = tmp_path / ("病" * 83 + ".json")  # 254 bytes
    write_text(file, "text")
    with whole_file(file) as part:
        part.write_text("more")
    assert [f.name for f in tmp_path.iterdir()] == [file.name] and file.read_text() == "more"


def test_files_are_found_by_the_look_of_their_names(tmp_path):
    composed, taken_apart = (unicodedata.normalize(form, "Ångström") for form in ("NFC", "NFD"))
    assert composed != taken_apart and same_name(composed, taken_apart) and not same_name("a", "A")
    assert find_file(tmp_path / "missing", composed) == tmp_path / "missing" / composed
    assert find_file(tmp_path, composed) == tmp_path / composed
    (tmp_path / taken_apart).touch()
    assert find_file(tmp_path, composed) == tmp_path / taken_apart
    (tmp_path / composed).touch()
    assert find_file(tmp_path, composed) == tmp_path / composed


def test_listing():
    assert listing(["b", "a"]) == "a, b"
    assert listing({f"case_{n:02}" for n in range(22)}).endswith("case_19 and 2 more")
    assert listing("edcba", 2) == "a, b and 3 more"
    assert len(listing(["a" * 10**5])) < 250
