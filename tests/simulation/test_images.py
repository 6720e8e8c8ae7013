"""Windows, whole detectors and real jets through the image producer."""

from pathlib import Path

import numpy as np
import pytest

from e2evit.data.grid import eta_centres
from e2evit.simulation.candidates import candidate_images
from e2evit.simulation.cells import IMPACT, Frames, structured
from e2evit.simulation.detector import Response
from e2evit.simulation.geometry import GEOMETRIES
from e2evit.simulation.images import jet_windows, render, whole_detector
from e2evit.simulation.silicon import SILICON
from e2evit.simulation.tracker import TRACK

RUN1 = GEOMETRIES["run1"].without(["all"])
DATA = Path(__file__).parents[1] / "data"


class Silent:
    """Random numbers without noise."""

    def standard_normal(self, shape, dtype):
        return np.zeros(shape, dtype)


def dense(columns, frames, geometry=RUN1):
    images = np.zeros((len(frames), len(geometry.channel_names), frames.height, frames.width), np.float32)
    for image, index, value in zip(images, columns[0].to_pylist(), columns[1].to_pylist()):
        assert (np.diff(index) > 0).all()
        image.reshape(-1)[index] = value
    return images


def response_of(tracks=(), silicon=(), num_events=2):
    def table(dtype, entries):
        array = np.zeros(len(entries), dtype)
        for number, entry in enumerate(entries):
            for name, value in entry.items():
                array[name][number] = value
        return array

    impacts = np.zeros(0, IMPACT)
    return Response(np.zeros(num_events), table(TRACK, tracks), impacts, impacts, table(SILICON, silicon))


def test_windows_wrap_in_phi_and_spread_towers():
    """Tower (20, 71) of the second event is the seed; its neighbour across phi = 0 is in the window."""
    tracks = [
        {"event": 0, "row": 102, "column": 357, "pt": 99.0},
        {"event": 1, "row": 102, "column": 357, "pt": 7.0, "d0": -0.5},
        {"event": 1, "row": 102, "column": 59, "pt": 3.0},
        {"event": 1, "row": 102, "column": 60, "pt": 4.0},
        {"event": 1, "row": 40, "column": 357, "pt": 5.0},
        {"event": 1, "row": 39, "column": 357, "pt": 6.0},
    ]
    towers = np.zeros((2, 56, 72), np.float32)
    towers[0, 20, 71], towers[1, 20, 71], towers[1, 20, 0], towers[1, 40, 71] = 100, 50, 25, 99
    frames = jet_windows(np.array([1]), np.array([20]), np.array([71]))
    image = dense(render(frames, response_of(tracks), towers, RUN1, Silent()), frames)[0]
    assert image[0, 62, 62] == 7.0  # the middle crystal of the seed tower
    assert image[1, 62, 62] == -0.5
    assert image[0, 62, 124] == 3.0  # 62 columns further, across the seam
    assert image[0, 0, 62] == 5.0  # 62 rows earlier
    assert image[0].sum() == 15.0  # column 60 and row 39 lie just outside the window
    np.testing.assert_allclose(image[4, 60:65, 60:65], 2.0)
    np.testing.assert_allclose(image[4, 60:65, 65:70], 1.0)
    assert image[4].sum() == pytest.approx(75.0)
    assert not image[3].any()
    assert not image[5:].any()
    with pytest.raises(ValueError, match="Seed rows"):
        jet_windows(np.array([1]), np.array([11]), np.array([71]))


def test_hits_are_counted_per_layer():
    silicon = [{"event": 0, "layer": 1, "z": 0.01, "phi": 0.001}, {"event": 0, "layer": 1, "z": 0.02, "phi": 0.002}]
    frames = whole_detector(np.array([0]))
    image = dense(render(frames, response_of(silicon=silicon), np.zeros((2, 56, 72)), RUN1, Silent()), frames)[0]
    assert image[6, 140, 10] == 2.0
    assert image.sum() == 2.0


def test_real_jets_look_like_the_real_image():
    """The 20 CMS full-simulation jets against the one image of the CMS Open Data boosted-top sample."""
    arrays = np.load(DATA / "pfnano/pfnano_ak8_window_pfcands.npz")
    jets = arrays["jets"]
    table = candidate_images(jets, arrays["cands"])
    frames = jet_windows(np.arange(len(jets)), np.array(table["ieta"]), np.array(table["iphi"]))
    images = dense((table["pixel_index"].combine_chunks(), table["pixel_value"].combine_chunks()), frames)
    # towers are 5 x 5 equal pixels, the seed in the middle, as in the real image
    blocks = images[:, 4].reshape(len(jets), 25, 5, 25, 5)
    assert np.array_equal(blocks, np.broadcast_to(blocks[:, :, :1, :, :1], blocks.shape))
    real = np.load(DATA / "boostedtop/boostedtop_image_uint8.npz")["X"]
    real_blocks = real[4].reshape(25, 5, 25, 5)
    assert np.array_equal(real_blocks, np.broadcast_to(real_blocks[:, :1, :, :1], real_blocks.shape))
    assert blocks[:, 12, 0, 12, 0].min() > 0
    # occupancy within a factor of two of the one real image: other jets, other years, other pile-up
    found, wanted = np.median((images != 0).sum(axis=(2, 3)), axis=0), (real != 0).sum(axis=(1, 2))
    for channel in (0, 3, 4, 5, 6, 7):
        assert 0.5 < found[channel] / wanted[channel] < 2, (RUN1.channel_names[channel], found, wanted)
    assert 0.97 < (images == 0).mean() < 0.99
    # energy goes where the jet is: calorimeter E_T over pT of the jet
    radius_row = (np.arange(125) - 62) * np.pi / 180
    near = np.hypot(radius_row[:, None], radius_row) < 0.8
    eta = eta_centres(np.clip(frames.row[:, None] + np.arange(125), 0, 279))
    # endcap energies are a quarter; these jets lie in the barrel
    seen = ((images[:, 3] + images[:, 4]) / np.cosh(eta)[:, :, None] * near).sum(axis=(1, 2)) / jets["pt"]
    assert 0.7 < np.median(seen) < 1.1


def test_frames_locate_with_a_margin():
    frames = Frames(np.array([0, 1]), np.array([10, 0]), np.array([355, 0]), 5, 10)
    hits = structured(
        np.dtype([("event", "i4"), ("row", "i4"), ("column", "i4")]),
        event=np.array([0, 0, 1, 1]),
        row=np.array([12, 9, 4, 5]),
        column=np.array([2, 354, 9, 0]),
    )
    frame, row, column, hit = frames.locate(hits["event"], hits["row"], hits["column"], 360)
    assert list(zip(frame, row, column, hit)) == [(0, 2, 7, 0), (1, 4, 9, 2)]
    frame, row, column, hit = frames.locate(hits["event"], hits["row"], hits["column"], 360, margin=1)
    assert list(zip(frame, row, column, hit))[:2] == [(0, 2, 7, 0), (0, -1, -1, 1)]
