import copyreg
import os
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3d_nnunet.datasets.paper_folds import LARGEST_FILE, PlainUnpickler, read_plain_pickle
from sam3d_nnunet.errors import SAM3DError

COMMAND = b"touch it_ran"


class Called:
    """Its pickle calls os.system."""

    def __reduce__(self):
        return os.system, (COMMAND.decode(),)


def short(text: bytes) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text


SYSTEM = short(b"os") + short(b"system") + b"\x93"
ATTACKS = {
    **{f"reduce, protocol {p}": pickle.dumps([Called()], p) for p in range(pickle.HIGHEST_PROTOCOL + 1)},
    "global": b"\x80\x04cos\nsystem\n" + short(COMMAND) + b"\x85R.",
    "global alone": b"\x80\x04cos\nsystem\n.",
    "inst": b"(S'" + COMMAND + b"'\nios\nsystem\n.",
    "obj": b"\x80\x04(" + SYSTEM + short(COMMAND) + b"o.",
    "newobj": b"\x80\x04" + SYSTEM + short(COMMAND) + b"\x85\x81.",
    "newobj_ex": b"\x80\x04" + SYSTEM + short(COMMAND) + b"\x85}\x92.",
    "build": b"\x80\x04" + SYSTEM + b"}" + short(b"a") + short(b"b") + b"sb.",
    "in a dictionary": b"\x80\x04}" + short(b"train") + SYSTEM + short(COMMAND) + b"\x85Rs.",
}


@pytest.fixture
def nothing_runs(tmp_path, monkeypatch):
    """Fails if anything that a pickle calls has run."""
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    yield
    assert ran == []
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attack_is_refused_by_name(attack, tmp_path, nothing_runs):
    file = tmp_path / "folds.pkl"
    file.write_bytes(attack)
    with pytest.raises(SAM3DError, match=r"folds\.pkl is refused: it asks for (os|posix)\.system\. .*Nothing was run"):
        read_plain_pickle(file)


def test_the_attack_would_work(tmp_path, monkeypatch):
    """Else the test above shows nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(ATTACKS["newobj"].replace(b"\x81.", b"R."))
    assert (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "collections.OrderedDict", "numpy.ndarray", "builtins.set"])
def test_harmless_names_are_refused_too(name, tmp_path):
    file = tmp_path / "folds.pkl"
    module, attribute = name.rsplit(".", 1)
    file.write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(SAM3DError, match=name):
        read_plain_pickle(file)


def test_objects_from_outside_are_refused(tmp_path):
    file = tmp_path / "folds.pkl"
    for data in (b"Pname\n.", b"\x80\x04" + short(b"name") + b"Q."):
        file.write_bytes(data)
        with pytest.raises(SAM3DError, match="outside the file"):
            read_plain_pickle(file)


def test_cached_extension_is_refused(tmp_path, nothing_runs):
    """Python's unpicklers give out an extension that was used before without asking `find_class`."""
    copyreg.add_extension("os", "system", 240)
    try:
        assert pickle.loads(b"\x80\x02\x82\xf0.") is os.system
        file = tmp_path / "folds.pkl"
        file.write_bytes(b"\x80\x02\x82\xf0U" + bytes([len(COMMAND)]) + COMMAND + b"\x85R.")
        with pytest.raises(SAM3DError, match="extension 240"):
            read_plain_pickle(file)
    finally:
        copyreg.remove_extension("os", "system", 240)
        copyreg.clear_extension_cache()


def test_memo_can_not_fill_the_memory(tmp_path):
    file = tmp_path / "folds.pkl"
    file.write_bytes(b"\x80\x04]r" + struct.pack("<I", 2**32 - 1) + b".")
    with pytest.raises(SAM3DError, match="numbers its objects up to 4294967295"):
        read_plain_pickle(file)


def test_large_missing_and_wrong_files(tmp_path):
    file = tmp_path / "folds.pkl"
    with open(file, "wb") as opened:
        opened.truncate(LARGEST_FILE + 1)
    with pytest.raises(SAM3DError, match="more than 16 MiB"):
        read_plain_pickle(file)
    for path in (tmp_path, tmp_path / "none.pkl"):
        with pytest.raises(SAM3DError, match="can't be read"):
            read_plain_pickle(path)
    file.write_text('[{"train": []}]')
    with pytest.raises(SAM3DError, match="folds.pkl is no complete pickle"):
        read_plain_pickle(file)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("pickles") / "folds.pkl"


PLAIN = st.recursive(
    st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner)
)


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL), st.data())
def test_plain_content_and_its_beginnings(scratch, content, protocol, data):
    pickled = pickle.dumps(content, protocol)
    scratch.write_bytes(pickled)
    assert read_plain_pickle(scratch) == content
    scratch.write_bytes(pickled[: data.draw(st.integers(0, len(pickled) - 1))])
    with pytest.raises(SAM3DError, match="folds.pkl is no complete pickle"):
        read_plain_pickle(scratch)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_sentence_or_something_plain(scratch, noise):
    scratch.write_bytes(noise + b".")
    try:
        content = read_plain_pickle(scratch)
    except SAM3DError:
        return
    assert type(content).__module__ == "builtins" and not callable(content)


def test_no_class_is_ever_found():
    with pytest.raises(SAM3DError, match="builtins.dict"):
        PlainUnpickler(open(os.devnull, "rb")).find_class("builtins", "dict")
