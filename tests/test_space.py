"""The demo in a real browser: it predicts, reads a good file, and explains what is wrong with a bad one.

Needs Debian's chromium (`apt-get install chromium`), which `.ci/run` installs; skipped without.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect, sync_playwright
from samples import random_images, row_table

from e2evit.cli import uploads
from e2evit.data import find_schema
from e2evit.data.sparse import sparse_to_dense
from e2evit.transforms.transverse import transverse_schema, transverse_table

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
SHAPE = (8, 125, 125)
CHANNELS = find_schema("simulated").channel_names
PATIENCE = 90_000  # ms; each upload is read in a process that imports torch
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    settings |= {"GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("uploads"))}
    log = (tmp_path_factory.mktemp("space") / "log.txt").open("w+")
    server = subprocess.Popen(
        [sys.executable, ROOT / "space/app.py"], env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                log.seek(0)
                assert server.poll() is None, log.read()[-3000:]
                assert time.monotonic() < end, "the demo does not answer"
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(10)
        log.close()


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


def test_uploads_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "jet.npy"
    np.save(path, random_images(1)[0])
    assert uploads.read_upload(str(path), CHANNELS, SHAPE[1:]).shape == (8, 125, 125)
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "READ_SECONDS", 0.05)
        with pytest.raises(ValueError, match=r"^jet\.npy could not be read within 0\.05 seconds"):
            uploads.read_upload(str(path), CHANNELS, SHAPE[1:])
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "READ_BYTES", 300 * 2**20)  # less memory than the libraries need
        with pytest.raises(ValueError, match=r"\w"):
            uploads.read_upload(str(path), CHANNELS, SHAPE[1:])
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "MAX_UPLOAD", "0.1mb")
        with pytest.raises(ValueError, match=r"at most 0\.1mb are read"):
            uploads.read_upload(str(path), CHANNELS, SHAPE[1:])


def test_uploads_of_plain_energies_become_transverse(simulated_jets):
    """A Parquet file of `load_e2e` names its channels, and its rows know their place."""
    path = next(simulated_jets.glob("top-*.parquet"))
    table, schema = pq.read_table(path), find_schema("simulated", simulated_jets)
    row = transverse_table(table.slice(0, 1), schema).to_pylist()[0]
    expected = sparse_to_dense(row["pixel_index"], row["pixel_value"], SHAPE)
    names = transverse_schema(schema).channel_names
    np.testing.assert_allclose(uploads.read_upload(str(path), names, SHAPE[1:]), expected, rtol=1e-6)


def test_hostile_uploads(tmp_path):
    """A disguised pickle, indices outside the image, a shape larger than its data."""
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    pq.write_table(row_table(1, pixel_index=[[9_999_999]], pixel_value=[[1.0]]), tmp_path / "outside.parquet")
    whole = (tmp_path / "whole.npy", random_images(1)[0])
    np.save(*whole)
    (tmp_path / "short.npy").write_bytes(whole[0].read_bytes()[:5000])
    pq.write_table(row_table(1).slice(0, 0), tmp_path / "empty.parquet")
    for name, message in {
        "pickle.npy": "not a readable array",
        "outside.parquet": "pixel_index reaches 9999999",
        "short.npy": "not a readable array",
        "empty.parquet": "it holds no image",
    }.items():
        with pytest.raises(ValueError, match=message):
            uploads.read_upload(str(tmp_path / name), CHANNELS, SHAPE[1:])
