"""The demo in a real browser: it predicts, reads a good file, and explains what is wrong with a bad one.

Needs Debian's chromium (`apt-get install chromium`), which `.ci/run` installs; skipped without.
"""

import os
import shutil

import h5py
import httpx
import numpy as np
import pytest
import visitors
from playwright.sync_api import expect, sync_playwright
from samples import random_images

pytestmark = pytest.mark.browser
PATIENCE = 90_000  # ms; each upload is read in a process that imports torch
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("space")


@pytest.fixture(scope="module")
def address(folder):
    with visitors.serve(folder) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.goto(address, timeout=PATIENCE)
    yield page
    page.close()


def test_predicts_an_example(page):
    expect(page.get_by_role("heading", name="What made this jet")).to_be_visible(timeout=PATIENCE)
    page.locator("#predict").click()
    expect(page.locator("#summary")).to_contain_text("with probability", timeout=PATIENCE)
    expect(page.locator("#summary")).to_contain_text("GeV")
    expect(page.locator("#classes")).to_contain_text("%")
    expect(page.locator("#mass img")).to_be_visible(timeout=PATIENCE)
    if shown := os.environ.get("E2EVIT_SCREENSHOT"):  # how docs/space.png is made
        page.wait_for_timeout(1500)
        page.screenshot(path=shown, full_page=True)
    page.get_by_role("tab", name="Saliency").click()
    expect(page.get_by_role("tabpanel").locator("img:visible").first).to_be_visible(timeout=PATIENCE)


def upload(page, path):
    page.locator("#upload input[type=file]").set_input_files(path)
    expect(page.locator("#upload")).to_contain_text(path.stem, timeout=PATIENCE)
    page.locator("#predict_upload").click()


@pytest.mark.parametrize("ending", ["npy", "h5"])
def test_reads_an_upload(page, tmp_path, ending):
    images = random_images(2)
    path = tmp_path / f"mine.{ending}"
    if ending == "npy":
        np.save(path, images[0])
    else:
        with h5py.File(path, "w") as file:
            file["X_jets"] = np.moveaxis(images, 1, -1)
    upload(page, path)
    expect(page.locator("#summary")).to_contain_text("with probability", timeout=PATIENCE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.h5", b"\x89HDF\r\n\x1a\n" + b"0" * 100, "not a readable HDF5 file"),
        ("broken.parquet", b"PAR1PAR1", "not a readable Parquet file"),
        ("shapes.npy", None, "expected numbers of shape (8, 125, 125)"),
    ],
)
def test_explains_a_bad_file(page, tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        np.save(path, np.zeros((3, 32, 32)))
    else:
        path.write_bytes(content)
    upload(page, path)
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text(message, timeout=PATIENCE)
    assert str(tmp_path) not in toast.inner_text()
    assert "Traceback" not in page.content()


def test_without_a_file(page):
    page.locator("#predict_upload").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("Choose a file first", timeout=PATIENCE)


def test_uploads_are_deleted_after_use(address, folder, tmp_path):
    """Also if they cannot be read. Two visitors with the same file keep out of each other's way."""
    np.save(tmp_path / "good.npy", random_images(1)[0])
    np.save(tmp_path / "bad.npy", np.zeros(3))
    good, same, bad = (visitors.upload(address, tmp_path / f"{name}.npy") for name in ("good", "good", "bad"))
    assert sorted(visitors.stored(folder / "uploads")) == ["bad.npy", "good.npy", "good.npy"]
    assert visitors.predict(address, good)[0] == "served"
    assert httpx.get(f"{address}/gradio_api/file={good}").status_code == httpx.codes.FORBIDDEN
    assert visitors.predict(address, same)[0] == "served"
    outcome, said = visitors.predict(address, bad)
    assert outcome == "refused"
    assert "bad.npy: expected numbers of shape" in said
    outcome, said = visitors.predict(address, good)
    assert outcome == "refused"
    assert "no longer here: upload it again" in said
    assert visitors.stored(folder / "uploads") == []
