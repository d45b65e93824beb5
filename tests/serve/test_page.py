"""What the page asks the server for. No browser is needed here; test_page_browser.py has one."""

import gc
import json
import os
import shutil
import time
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
import SimpleITK as sitk
from fastapi.testclient import TestClient

from sam3d_nnunet.prediction.model_folder import load_model_folder
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.serve import page
from sam3d_nnunet.serve.app import ServerOptions, create_app
from sam3d_nnunet.serve.limits import Door
from sam3d_nnunet.serve.page_image import ImageFolders, changes, open_image, runs
from sam3d_nnunet.serve.pool import PoolOptions, SessionPool

MODEL = Path(__file__).parents[1] / "data" / "before" / "model"
OBLIQUE = np.array([[0.9, -0.436, 0], [0.436, 0.9, 0], [0, 0, 1.0]])
OBLIQUE = OBLIQUE / np.linalg.norm(OBLIQUE, axis=0)


@pytest.fixture(scope="module")
def model():
    return load_model_folder(MODEL)


@pytest.fixture
def make_session(model):
    def make() -> SAM3DSession:
        session = SAM3DSession("cpu", torch_n_threads=1)
        session.use_model(model)
        return session

    return make


def write_image(file: Path, direction: np.ndarray = OBLIQUE, kind: type = np.int16) -> Path:
    """A bright ball in noise, with anisotropic voxels."""
    shape = (18, 22, 26)
    distance = np.linalg.norm((np.stack(np.indices(shape), -1) - (8, 12, 10)), axis=-1)
    array = np.random.default_rng(0).normal(100, 10, shape) + 60 * (distance < 5)
    image = sitk.GetImageFromArray(array.astype(kind))
    image.SetSpacing((0.9, 1.0, 1.4))
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((-30.5, 12.25, 100.125))
    sitk.WriteImage(image, str(file))
    return file


class Page:
    """What the page in the browser sends."""

    def __init__(self, client: TestClient) -> None:
        self.client, self.token = client, "new"
        answer = self.ask("POST", "session")
        assert answer.status_code == 200, answer.text
        self.token, self.model = answer.json()["token"], answer.json()["model"]

    def ask(self, method: str, path: str, content=None, **more):
        headers = {page.HEADER: self.token, **more.pop("headers", {})}
        return self.client.request(method, f"/page/{path}", json=content, headers=headers, **more)

    def get(self, method: str, path: str, content=None, **more):
        answer = self.ask(method, path, content, **more)
        assert answer.status_code == 200, answer.text
        return answer

    def upload(self, *files: Path):
        for channel, file in enumerate(files):
            self.get("PUT", f"upload/{channel}", params={"name": file.name}, content=None, data=file.read_bytes())
        return self.ask("POST", "open-upload")

    def click(self, image: sitk.Image, voxel: tuple, include: bool = True, label: int = 1):
        """At a voxel (i, j, k), in RAS millimetres as the browser has them."""
        x, y, z = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in voxel])
        drawn = {"kind": "click", "points": [[-x, -y, z]], "label": label, "include": include}
        return self.get("POST", "interaction", drawn).json()


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    write_image(place / "ball_0000.nii.gz")
    return place


@pytest.fixture
def client(make_session, folder):
    pool = SessionPool(make_session, PoolOptions(sessions=2))
    with TestClient(create_app(pool, ServerOptions(images=[folder])), base_url="http://localhost") as client:
        client.pool = pool
        yield client


def test_nobody_but_the_page_may_ask(client):
    for method, path in (("POST", "session"), ("GET", "images"), ("GET", "segmentation"), ("POST", "undo")):
        answer = client.request(method, f"/page/{path}")
        assert (answer.status_code, page.HEADER in answer.json()["detail"]) == (403, True)
    assert client.pool.taken == 0
    headers = {page.HEADER: "new", "Sec-Fetch-Site": "cross-site"}
    assert client.post("/page/session", headers=headers).status_code == 403
    headers = {page.HEADER: "new", "Origin": "http://evil.example"}
    assert client.post("/page/session", headers=headers).status_code == 403
    # a browser asks before it sends such a header for another site, and is refused
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.options("/page/session", headers=asked | {"Access-Control-Request-Headers": page.HEADER})
    assert answer.status_code >= 400 and "access-control-allow-origin" not in answer.headers


def test_what_only_a_session_may_ask(client):
    answer = client.get("/page/images", headers={page.HEADER: "some token"})
    assert answer.status_code == 410
    opened = Page(client)
    answer = opened.ask("POST", "undo")
    assert answer.status_code == 400 and answer.json()["detail"] == "No image is open. Open one first."


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", [np.int16, np.float64])
def test_saved_files_have_the_geometry_of_the_image(client, make_session, tmp_path, ending, kind):
    file = write_image(tmp_path / f"knee scan{ending}", kind=kind)
    image, opened = sitk.ReadImage(str(file)), Page(client)
    info = opened.upload(file).json()
    assert (info["name"], info["size"]) == ("knee scan", list(image.GetSize()))

    first = opened.click(image, (10, 12, 8))
    second = opened.click(image, (10.25, 12, 3.5), include=False)
    assert first["seconds"] > 0 and len(second["clicks"]) == 2

    saved = tmp_path / "saved.nii.gz"
    saved.write_bytes(opened.get("GET", "segmentation").content)
    segmentation = sitk.ReadImage(str(saved))
    for of in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(segmentation, of)(), getattr(image, of)(), atol=1e-5)

    (tmp_path / "clicks.json").write_bytes(opened.get("GET", "clicks").content)
    prompt = read_prompt(tmp_path / "clicks.json")
    assert (prompt.image, prompt.labels.tolist()) == ("knee scan", [1, 0])
    voxels = [image.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in prompt.points]
    np.testing.assert_allclose(voxels, [(10, 12, 8), (10.25, 12, 3.5)], atol=1e-3)

    # the mask is that of a session which gets the same clicks, to the bit
    read = open_image([file], "knee scan", client.pool.example.model, page.LARGEST)
    session, mask = make_session(), np.zeros(read.shape, np.uint8)
    session.set_image(read.array, read.for_session)
    session.set_target_buffer(mask)
    for point, label in zip(prompt.points, prompt.labels.tolist()):
        session.add_point_interaction(read.geometry.to_voxels(point[None])[0].tolist(), label > 0, class_label=1)
    in_file, _ = read.geometry.in_file_order(mask)  # the reader of this model turns images
    np.testing.assert_array_equal(sitk.GetArrayFromImage(segmentation), in_file)
    assert mask.any()


def test_the_image_for_the_browser_lies_where_the_file_lies(client, tmp_path):
    file = write_image(tmp_path / "a.nrrd", kind=np.float64)
    opened = Page(client)
    opened.upload(file)
    (tmp_path / "shown.nii").write_bytes(opened.get("GET", "image").content)
    shown, image = sitk.ReadImage(str(tmp_path / "shown.nii")), sitk.ReadImage(str(file))
    for voxel in ((0, 0, 0), (25, 21, 17), (3, 20, 11)):  # the reader of this model turns images
        there = image.TransformIndexToPhysicalPoint(voxel)
        index = shown.TransformPhysicalPointToContinuousIndex(there)
        np.testing.assert_allclose(index, np.rint(index), atol=1e-4)
        assert shown[tuple(np.rint(index).astype(int).tolist())] == pytest.approx(image[voxel], rel=1e-6)


class Picture:
    """What the browser does with changes."""

    def __init__(self, size: list[int]) -> None:
        self.array = np.zeros(size[::-1], np.uint8)

    def apply(self, changed: dict | None) -> None:
        if changed is not None:
            (x0, x1), (y0, y1), (z0, z1) = changed["box"]
            values = np.repeat(changed["runs"][::2], changed["runs"][1::2])
            self.array[z0:z1, y0:y1, x0:x1] = values.reshape(z1 - z0, y1 - y0, x1 - x0)


def test_undo_and_next_object(client, folder):
    image, opened = sitk.ReadImage(str(folder / "ball_0000.nii.gz")), Page(client)
    assert opened.get("GET", "images").json() == [{"folder": 0, "title": "images", "names": ["ball_0000.nii.gz"]}]
    info = opened.get("POST", "open", {"folder": 0, "name": "ball_0000.nii.gz"}).json()
    assert info["name"] == "ball"
    picture, seen = Picture(info["size"]), []

    def do(answer: dict) -> dict:
        picture.apply(answer["changes"])
        whole = Picture(info["size"])
        whole.apply(opened.get("GET", "state").json()["changes"])
        np.testing.assert_array_equal(picture.array, whole.array)
        seen.append(picture.array.copy())
        return answer

    do(opened.click(image, (10, 12, 8)))
    do(opened.click(image, (12, 12, 8), label=2))
    undone = do(opened.get("POST", "undo").json())
    np.testing.assert_array_equal(seen[2], seen[0])
    assert undone["prompts"] == 1 and len(undone["clicks"]) == 1

    voxel_ml = 0.9 * 1.0 * 1.4 / 1000
    assert sum(undone["ml"].values()) == pytest.approx((seen[0] > 0).sum() * voxel_ml)
    kept = do(opened.get("POST", "next").json())
    assert len(kept["objects"]) == 1 and kept["prompts"] == 0 and kept["ml"] == {}
    np.testing.assert_array_equal(seen[3] > 0, seen[0] > 0)
    assert (seen[3][seen[3] > 0] > 128).all()
    answer = opened.ask("POST", "next")
    assert answer.status_code == 400 and "no object yet" in answer.json()["detail"]

    line = [image.TransformIndexToPhysicalPoint(voxel) for voxel in ((4, 5, 8), (9, 5, 8))]
    drawn = {"kind": "scribble", "points": [[-x, -y, z] for x, y, z in line], "plane": "axial"}
    assert do(opened.get("POST", "interaction", drawn).json())["clicks"] == []
    clicks = json.loads(opened.get("GET", "clicks").content)
    assert len(clicks["points"]) == 1
    assert do(opened.get("POST", "clear").json())["prompts"] == 0
    assert do(opened.get("DELETE", "objects/0").json())["objects"] == []
    assert not picture.array.any()
    assert opened.ask("DELETE", "objects/0").status_code == 400
    assert opened.ask("POST", "undo").json()["detail"] == "There is nothing to undo in this object."


def test_mistakes_change_nothing(client, folder, tmp_path):
    image, opened = sitk.ReadImage(str(folder / "ball_0000.nii.gz")), Page(client)
    opened.get("POST", "open", {"folder": 0, "name": "ball_0000.nii.gz"})
    opened.click(image, (10, 12, 8))
    before = opened.get("GET", "segmentation").content
    mistakes = [
        {"kind": "click", "points": [[9999, 0, 0]]},
        {"kind": "click", "points": [[0, 0, 0], [1, 1, 1]]},
        {"kind": "click", "points": [[-30, -20, 110]], "label": 7},
        {"kind": "box", "points": [[9000, 9000, 9000], [9001, 9001, 9001]]},
        {"kind": "scribble", "points": [[9000, 9000, 9000]]},
        {"kind": "click", "points": []},
        {"kind": "click", "points": [[1, 2, "x"]]},
        {"kind": "draw", "points": [[1, 2, 3]]},
        {"kind": "click", "points": [[1, 2, 3]], "more": 1},
    ]
    for drawn in mistakes:
        answer = opened.ask("POST", "interaction", drawn)
        assert 400 <= answer.status_code < 500 and isinstance(answer.json()["detail"], str), (drawn, answer.text)
    answer = opened.ask("POST", "interaction", headers={"Content-Type": "application/json"}, data='{"points": [[NaN')
    assert answer.status_code in (400, 422)
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    answer = opened.upload(tmp_path / "broken.nii.gz")
    assert answer.status_code == 400 and str(tmp_path)[:5] not in answer.json()["detail"]
    assert "broken.nii.gz" in answer.json()["detail"] and "sam3d_page_" not in answer.json()["detail"]
    assert opened.get("GET", "segmentation").content == before


@pytest.mark.parametrize(
    "name", ["../secret.nii.gz", "/etc/passwd", "link.nii.gz", "..", "ball_0000.nii.gz/", "below/secret.nii.gz", "x\0"]
)
def test_nothing_outside_the_folders_can_be_opened(client, folder, tmp_path, name):
    write_image(tmp_path / "secret.nii.gz")
    (folder / "below").mkdir()
    write_image(folder / "below" / "secret.nii.gz")
    os.symlink(tmp_path / "secret.nii.gz", folder / "link.nii.gz")
    opened = Page(client)
    assert opened.get("GET", "images").json()[0]["names"] == ["ball_0000.nii.gz"]
    for number in (0, 1, -1):
        answer = opened.ask("POST", "open", {"folder": number, "name": name})
        assert answer.status_code == 400, answer.text
        assert answer.json()["detail"] == "There is no such image in the folders of this server."


def test_a_channel_cannot_lie_outside_the_folder(folder, tmp_path):
    class TwoChannels:
        channels, file_ending = 2, ".nii.gz"

    os.symlink(write_image(tmp_path / "secret.nii.gz"), folder / "ball_0001.nii.gz")

    class Plans:
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO as image_reader_writer_class

    TwoChannels.plans = Plans
    with pytest.raises(page.SAM3DError, match=r"no file ball_0001.nii.gz in the folder"):
        ImageFolders([folder]).files(0, "ball_0000.nii.gz", TwoChannels)


@pytest.mark.parametrize("path", ["../page.py", "..%2fpage.py", "%2e%2e/page.py", "built", "niivue.js/..", "x.css"])
def test_only_files_of_the_page_are_served(client, path):
    assert client.get(f"/page/assets/{path}").status_code == 404


@pytest.mark.parametrize("name", ["../../evil.nii.gz", "/abs/evil.nii.gz", "..\\evil.nii.gz", ".evil.nii.gz"])
def test_names_of_uploads_are_only_names(client, tmp_path, name):
    file, opened = write_image(tmp_path / "a.nii.gz"), Page(client)
    opened.get("PUT", "upload/0", params={"name": name}, data=file.read_bytes())
    assert opened.get("POST", "open-upload").json()["name"] == "evil"
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", ["evil.py", "evil.mhd", "evil.nhdr", "evil.h5", "evil", "", "x" * 500, "\n.nii.gz"])
def test_other_files_are_refused(client, name):
    answer = Page(client).ask("PUT", "upload/0", params={"name": name}, data=b"x")
    assert answer.status_code == 400 and ".nrrd" in answer.json()["detail"]


def test_headers_cannot_name_files_of_the_server(client, tmp_path):
    (tmp_path / "secret.raw").write_bytes(bytes(1000))
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 10 10 10\nElementType = MET_UCHAR\nElementDataFile = {}\n"
    nrrd = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 10 10 10\nencoding: raw\n{}: {}\n\n"
    contents = [("a.mha", meta.format(tmp_path / "secret.raw")), ("a.mha", meta.format("LIST"))]
    contents += [("a.mha", meta.replace("ElementDataFile =", "ElementDataFile:").format(tmp_path / "secret.raw"))]
    contents += [("a.mha", "NRRD = 1\n\n" + meta.format(tmp_path / "secret.raw"))]
    contents += [("a.mha", meta.format("LOCAL") + meta.format(tmp_path / "secret.raw"))]
    contents += [
        ("a.nrrd", nrrd.format(key, tmp_path / "secret.raw")) for key in ("data file", "datafile", "DATA FILE")
    ]
    contents += [("a.nrrd", nrrd.format("#" * 1_100_000 + "\ndata file", tmp_path / "secret.raw"))]
    contents += [("a.nrrd", nrrd.format("#\rdata file", tmp_path / "secret.raw"))]
    contents += [("a.nrrd", nrrd.format("content: a\n\r\ndata file", tmp_path / "secret.raw"))]
    for name, content in contents:
        (tmp_path / name).write_bytes(content.encode())
        answer = Page(client).upload(tmp_path / name)
        assert answer.status_code == 400 and "name other files" in answer.json()["detail"], answer.text
        client.pool.release(next(iter(client.pool._leases)))


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_files_that_hold_their_voxels_are_opened(client, tmp_path, line_end):
    file = write_image(tmp_path / "a.nrrd")
    header, voxels = file.read_bytes().split(b"\n\n", 1)
    header += b"\n# from the data file: a\nmetadata file:=b\n#" + b"-" * 70_000
    file.write_bytes(header.replace(b"\n", line_end.encode()) + 2 * line_end.encode() + voxels)
    assert Page(client).upload(file).status_code == 200
    client.pool.release(next(iter(client.pool._leases)))
    assert Page(client).upload(write_image(tmp_path / "a.mha")).status_code == 200


def test_a_folder_that_is_gone_hides_no_other(client, folder):
    shutil.rmtree(folder)
    assert Page(client).ask("GET", "images").json()[0]["names"] == []


def test_huge_declared_sizes_are_refused(client, tmp_path):
    file = write_image(tmp_path / "a.nii")
    content = bytearray(file.read_bytes())
    content[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
    file.write_bytes(content)
    answer = Page(client).upload(file)
    assert answer.status_code == 400 and "GB of voxels; this server takes up to 4.29 GB" in answer.json()["detail"]


def test_large_bodies_are_refused(client, make_session):
    opened = Page(client)
    answer = opened.ask("POST", "interaction", {"kind": "click", "points": [[0.0] * 3] * 200_000})
    assert answer.status_code == 413
    routes = page.router(client.pool, [], largest=100)
    small = TestClient(client.app.__class__(), base_url="http://localhost")
    small.app.include_router(routes)
    answer = Page(small).ask("PUT", "upload/0", params={"name": "a.nii"}, data=bytes(101))
    assert answer.status_code == 413


def test_a_session_that_ends_leaves_nothing(client, tmp_path):
    opened = Page(client)
    opened.upload(write_image(tmp_path / "a.nii.gz"))
    opened.get("POST", "heartbeat")
    assert client.pool.taken == 1
    gc.collect()  # what other tests have left
    folders = set(Path(gettempdir()).glob("sam3d_page_*"))
    opened.get("DELETE", "session")
    assert client.pool.taken == 0
    deadline = time.monotonic() + 10
    while folders <= set(Path(gettempdir()).glob("sam3d_page_*")):  # the device may be embedding ahead
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.05)
    assert opened.ask("GET", "segmentation").status_code == 410
    taken = [Page(client), Page(client)]
    answer = client.post("/page/session", headers={page.HEADER: "new"})
    assert answer.status_code == 503 and "taken" in answer.json()["detail"]
    client.pool.release(taken[0].token)  # as if it had expired
    assert "Begin a new one" in taken[0].ask("GET", "images").json()["detail"]


def test_one_class_alone_is_saved_with_its_label_of_the_model(model, folder, tmp_path):
    def make() -> SAM3DSession:
        session = SAM3DSession("cpu", torch_n_threads=1)
        session.use_model(model, foreground=2)
        return session

    with TestClient(
        create_app(SessionPool(make), ServerOptions(images=[folder])), base_url="http://localhost"
    ) as client:
        opened = Page(client)
        assert opened.model["classes"] == [{"number": 1, "name": "rim"}]
        opened.get("POST", "open", {"folder": 0, "name": "ball_0000.nii.gz"})
        answer = opened.click(sitk.ReadImage(str(folder / "ball_0000.nii.gz")), (10, 12, 8))
        assert list(answer["ml"]) == ["1"] and answer["clicks"][0]["label"] == 1
        (tmp_path / "a.nii.gz").write_bytes(opened.get("GET", "segmentation").content)
        assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))))) == {0, 2}
        assert opened.get("GET", "clicks").json()["points"][0]["label"] == 2


def test_without_the_key_only_the_empty_page_is_there(make_session, folder):
    options = ServerOptions(door=Door(key="sesame"), images=[folder])
    with TestClient(create_app(SessionPool(make_session), options), base_url="http://localhost") as client:
        assert client.get("/").status_code == 200 and client.get("/page/assets/main.js").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = client.post("/page/session", headers={page.HEADER: "new", **headers})
            assert answer.status_code == 401, answer.text
        headers = {page.HEADER: "new", "Authorization": "Bearer sesame"}
        assert client.post("/page/session", headers=headers).status_code == 200


def test_the_page_asks_for_nothing_from_elsewhere(client):
    answer = client.get("/")
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert "http://" not in answer.text.replace("http://www.w3.org", "") and "https://" not in answer.text


def test_without_the_viewer_the_page_says_how_to_get_it(client, monkeypatch):
    monkeypatch.setattr(page, "has_viewer", lambda: False)
    assert "python setup.py build_page" in client.get("/").text


def test_runs_and_changes():
    array = np.zeros((2, 3, 4), np.uint8)
    assert changes(array, array) is None
    after = array.copy()
    after[1, 1, 1:3] = 5
    assert changes(array, after) == {"box": [[1, 3], [1, 2], [1, 2]], "runs": [5, 2]}
    assert runs(after) == [0, 17, 5, 2, 0, 5]
    assert changes(None, array)["runs"] == [0, 24]


@pytest.mark.parametrize("across", range(3))
def test_the_slice_is_where_the_corners_are(client, tmp_path, across):
    """Whatever a viewer calls the planes of an oblique image."""
    image = open_image([write_image(tmp_path / "a.nii.gz")], "a", client.pool.example.model, page.LARGEST)
    corners = np.array([[4.0, 5, 6], [9, 11, 13]])
    corners[1, across] = corners[0, across] + 1e-3
    world = image.geometry.to_world(corners) * (-1, -1, 1)
    for plane in ("axial", "coronal", "sagittal"):
        extent = np.diff(image.box(world, plane), axis=1)[:, 0]
        expected = np.rint(np.ptp(corners, axis=0)) + 1
        assert (extent == expected).all()


@pytest.mark.parametrize(("plane", "across"), [("axial", 2), ("coronal", 1), ("sagittal", 0)])
def test_lines_and_boxes_lie_on_one_slice(client, tmp_path, plane, across):
    turned = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])  # i runs to y, j to z, k to x
    image = open_image([write_image(tmp_path / "a.nii.gz", turned)], "a", client.pool.example.model, page.LARGEST)
    start = image.geometry.to_world(np.full((1, 3), 8))[0]
    end = start + np.where(np.arange(3) == across, 0, 4.2)
    corners = np.stack([start, end]) * (-1, -1, 1)
    box, drawn = image.stroke(corners, plane)
    (low, high) = np.transpose(image.box(corners, plane))
    for voxels in (np.argwhere(drawn) + box.start, np.array([low, high - 1])):
        world = image.geometry.to_world(voxels)
        np.testing.assert_allclose(world[:, across], start[across], atol=1e-6)
        assert (np.ptp(np.delete(world, across, axis=1), axis=0) > 2.5).all()
