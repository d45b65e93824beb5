"""The page in a real browser: Chromium with WebGL in software. Skipped where these are missing, as in CI.

apt install chromium npm && pip install playwright && python setup.py build_page
"""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import uvicorn

from sam3d_nnunet.prediction.model_folder import load_model_folder
from sam3d_nnunet.prediction.session import SAM3DSession
from sam3d_nnunet.prompts.files import read_prompt
from sam3d_nnunet.serve import page
from sam3d_nnunet.serve.app import ServerOptions, create_app
from sam3d_nnunet.serve.limits import Door
from sam3d_nnunet.serve.page_image import open_image
from sam3d_nnunet.serve.pool import SessionPool

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
try:
    from playwright.sync_api import Page, sync_playwright
except ImportError:
    sync_playwright = None

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None or sync_playwright is None, reason="Chromium or playwright is not installed"),
    pytest.mark.skipif(not page.has_viewer(), reason="the page's viewer is not built (python setup.py build_page)"),
    pytest.mark.slow,
]

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "data" / "before" / "model"
HIPPOCAMPUS = ROOT / "tests" / "data" / "Dataset004_Hippocampus" / "imagesTr" / "hippocampus_087_0000.nii.gz"
PET = ROOT.parent / "shared" / "data" / "Dataset911_STSPET" / "imagesTr" / "STS_009_0000.nii.gz"
IMAGES = [file for file in (HIPPOCAMPUS, PET) if file.exists()]
WEBGL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
DESK, TABLET = {"width": 1280, "height": 800}, {"width": 820, "height": 1180}
READY = "body[data-state=ready]:not([aria-busy])"

SHOW = """([mm, plane]) => {
  const { viewer } = window.sam3d;
  viewer.lookAt({ frac: viewer.nv.mm2frac(mm, 0, true) });
  const type = ["axial", "coronal", "sagittal"].indexOf(plane);
  const tile = viewer.nv.screenSlices.findIndex((slice) => slice.axCorSag === type);
  const { left, top } = viewer.picture.getBoundingClientRect();
  const [x, y] = viewer.onScreen(tile, viewer.nv.scene.crosshairPos);
  return [left + x / viewer.nv.uiData.dpr, top + y / viewer.nv.uiData.dpr];
}"""
"""Looks at a place in RAS millimetres, and tells where it is on the screen."""
MASK = "() => { const s = []; for (const v of window.sam3d.viewer.mask.img) s.push(v); return s; }"


@pytest.fixture(scope="module")
def model():
    return load_model_folder(MODEL)


@contextmanager
def serving(model, **door) -> Iterator[str]:
    """A server in a thread; its address."""

    def make() -> SAM3DSession:
        session = SAM3DSession("cpu", torch_n_threads=1)
        session.use_model(model)
        return session

    options = ServerOptions(door=Door(**door), images=[file.parent for file in IMAGES])
    server = uvicorn.Server(uvicorn.Config(create_app(SessionPool(make), options), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.1)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def url(model):
    with serving(model) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=WEBGL)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, url):
    """Opens the page; at the end, nothing has been asked elsewhere and nothing has gone wrong in the browser."""
    contexts, strange = [], []

    def open_page(address: str = url, **options) -> "Page":
        context = browser.new_context(**{"viewport": DESK, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(120_000)
        known = (address, "data:", "blob:")
        tab.on("request", lambda request: request.url.startswith(known) or strange.append(request.url))
        tab.on("pageerror", lambda error: strange.append(str(error)))
        tab.on(
            "console", lambda line: line.type == "error" and "status of" not in line.text and strange.append(line.text)
        )
        tab.goto(f"{address}/")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not strange


def ras(image: sitk.Image, voxel: tuple) -> list[float]:
    x, y, z = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in voxel])
    return [-x, -y, z]


def click(tab: "Page", place: list[float], plane: str = "axial", **options) -> None:
    """Click with the mouse where a place is on the screen, and wait for the prediction."""
    x, y = tab.evaluate(SHOW, [place, plane])
    before = tab.evaluate("() => document.querySelector('#clicks').textContent")
    with tab.expect_response("**/page/interaction"):
        for key in options.get("keys", ()):
            tab.keyboard.down(key)
        (tab.touchscreen.tap if options.get("tap") else tab.mouse.click)(x, y)
        for key in options.get("keys", ()):
            tab.keyboard.up(key)
    tab.wait_for_selector(READY)
    assert tab.locator("#clicks").inner_text() == str(int(before) + 1), tab.locator("#message").inner_text()


def shown_mask(tab: "Page", image: sitk.Image) -> np.ndarray:
    """(z, y, x) places of classes, as the browser has them, in the order of the image that was sent to it."""
    return np.array(tab.evaluate(MASK), np.uint8)


def save(tab: "Page", button: str, file: Path) -> Path:
    with tab.expect_download() as download:
        tab.get_by_role("button", name=button, exact=True).click()
    download.value.save_as(file)
    tab.wait_for_selector(READY)
    return file


def own_masks(model, file: Path, prompt) -> tuple[list[np.ndarray], np.ndarray]:
    """Masks of a session in this process after each click, in its reader's order, and the last one as in the file."""
    read = open_image([file], "", model, page.LARGEST)
    session, mask = SAM3DSession("cpu", torch_n_threads=1), np.zeros(read.shape, np.uint8)
    session.use_model(model)
    session.set_image(read.array, read.for_session)
    session.set_target_buffer(mask)
    masks = []
    for point, label in zip(prompt.points, prompt.labels.tolist()):
        voxel = read.geometry.to_voxels(point[None])[0].tolist()
        session.add_point_interaction(voxel, label > 0, class_label=max(label, 1))
        masks.append(mask.copy())
    return masks, read.geometry.in_file_order(mask)[0]


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.name[:3])
def test_clicks_become_the_masks_of_a_session(visit, model, tmp_path, file):
    image, tab = sitk.ReadImage(str(file)), visit(accept_downloads=True)
    if file == HIPPOCAMPUS:
        tab.wait_for_selector("body[data-state=empty]")
        tab.locator("#file").set_input_files(file)
    else:
        tab.get_by_role("button", name=file.name).click()
    tab.wait_for_selector(READY)
    size = image.GetSize()
    places = [ras(image, [n // 2 + shift for n in size]) for shift in (0, 3)]

    click(tab, places[0])
    first = shown_mask(tab, image)
    click(tab, places[1], "coronal", keys=["Shift"])
    second = shown_mask(tab, image)
    save(tab, "Clicks", tmp_path / "clicks.json")
    save(tab, "Segmentation", tmp_path / "both.nii.gz")
    prompt = read_prompt(tmp_path / "clicks.json")
    assert prompt.labels.tolist() == [1, 0]
    found = [image.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in prompt.points]
    expected = [[n // 2 + shift for n in size] for shift in (0, 3)]
    np.testing.assert_allclose(found, expected, atol=0.75)  # a pixel of the screen may be off the voxel's centre

    masks, in_file = own_masks(model, file, prompt)
    for shown, own in ((first, masks[0]), (second, masks[1])):
        np.testing.assert_array_equal(shown, own.ravel())
    assert first.any()
    saved = sitk.ReadImage(str(tmp_path / "both.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(saved), in_file)
    for of in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(saved, of)(), getattr(image, of)(), atol=1e-5)

    tab.get_by_role("button", name="Undo").click()
    tab.wait_for_selector(READY)
    np.testing.assert_array_equal(shown_mask(tab, image), first)
    assert tab.locator("#clicks").inner_text() == "1"
    assert tab.locator("#volume").inner_text().split()[1] == "ml"
    tab.keyboard.press("n")
    tab.wait_for_selector("#objects li")
    np.testing.assert_array_equal(shown_mask(tab, image), np.where(first > 0, first + 128, 0))


def open_first(tab: "Page") -> None:
    tab.get_by_role("button", name=HIPPOCAMPUS.name).click()
    tab.wait_for_selector(READY)


def test_on_a_tablet(visit):
    tab = visit(viewport=TABLET, has_touch=True, is_mobile=True)
    open_first(tab)
    image = sitk.ReadImage(str(HIPPOCAMPUS))
    middle = ras(image, [n // 2 for n in image.GetSize()])
    click(tab, middle, tap=True)
    tab.get_by_text("Remove", exact=False).first.tap()
    click(tab, middle, "sagittal", tap=True)
    labels = tab.evaluate("() => window.sam3d.viewer.clicks.map((click) => click.place)")
    assert labels == [0, -1]
    wide = tab.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def test_lines_boxes_and_keys(visit):
    tab = visit()
    open_first(tab)
    image = sitk.ReadImage(str(HIPPOCAMPUS))
    size = image.GetSize()
    for key, shift in (("s", 3), ("b", 5)):
        tab.keyboard.press(key)
        x, y = tab.evaluate(SHOW, [ras(image, [n // 2 for n in size]), "axial"])
        tab.mouse.move(x, y)
        with tab.expect_response("**/page/interaction") as answer:
            tab.mouse.down()
            tab.mouse.move(x + 10 * shift, y + 8 * shift, steps=5)
            tab.mouse.up()
        assert answer.value.status == 200, answer.value.text()
        tab.wait_for_selector(READY)
    assert tab.locator("#clicks").inner_text() == "0"
    tab.keyboard.press("2")
    tab.keyboard.press("c")
    drawing = tab.locator("#drawing")
    where = "() => Array.from(window.sam3d.viewer.nv.frac2vox(window.sam3d.viewer.nv.scene.crosshairPos))"
    before = tab.evaluate(where)
    drawing.press("PageUp")
    drawing.press("ArrowUp")
    assert (np.array(tab.evaluate(where)) - before).tolist() == [0, 1, 1]
    with tab.expect_response("**/page/interaction") as answer:
        drawing.press("Enter")
    assert [one["label"] for one in answer.value.json()["clicks"]] == [2]
    tab.wait_for_selector(READY)
    with tab.expect_response("**/page/undo") as answer:
        tab.keyboard.press("Control+z")
    assert answer.value.json()["prompts"] == 2


def test_a_key_is_asked_for(model, visit):
    with serving(model, key="open sesame") as address:
        tab = visit(address)
        for key in ("wrong", "open sesame"):
            tab.get_by_label("Key, as given to").fill(key)
            tab.get_by_role("button", name="Continue").click()
            tab.get_by_role("button", name="Try again").click()
        tab.wait_for_selector("body[data-state=empty]")


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """axe-core, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(ROOT / "sam3d_nnunet" / "serve" / "page_files" / name, folder)
    done = subprocess.run(["npm", "ci", "--fetch-retries=1"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm can't install axe-core: {done.stderr[-300:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.parametrize("viewport", [DESK, TABLET], ids=["desk", "tablet"])
def test_accessibility(visit, axe, viewport, monkeypatch):
    tab = visit(viewport=viewport, bypass_csp=True)
    tab.add_script_tag(content=axe)
    tab.wait_for_selector("body[data-state=empty]")
    faults = {"empty": violations(tab)}
    open_first(tab)
    faults["ready"] = violations(tab)
    tab.keyboard.press("?")
    faults["help"] = violations(tab)
    tab.get_by_role("button", name="Close").click()
    tab.get_by_role("button", name="Open image").click()
    faults["open"] = violations(tab)
    monkeypatch.setattr(page, "has_viewer", lambda: False)
    tab.goto(tab.url)
    tab.add_script_tag(content=axe)
    faults["no page"] = violations(tab)
    assert not any(faults.values()), json.dumps(faults, indent=1)


def violations(tab: "Page") -> list[str]:
    """What axe finds, also what it only calls minor."""
    found = tab.evaluate("async () => (await window.axe.run()).violations")
    return [f"{one['impact']}: {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]
