"""Energies to transverse energies: where the rows of a detector image lie in pseudorapidity.

A copy of what `e2evit.transforms.transverse` and `e2evit.data.grid` compute, which a checkpoint's code cannot import;
a test compares the two.
"""

import numpy as np

__all__ = ["DETECTOR_ROWS", "TRANSVERSE", "transverse_factor", "window_rows"]

TRANSVERSE = {"ecal": "ecal_et", "hcal": "hcal_et"}  # channels of energies and their transverse counterparts
DETECTOR_ROWS, _TOWER = 280, 5  # rows of the whole detector; crystals on a side of an HCAL tower
# rows beyond the barrel on each side; CMS's converter divides the endcap's ECAL energies by four
_ENDCAP_ROWS, _ENDCAP_FACTOR = 55, 4.0
_ENDCAP_EDGES = [
    *(1.479, 1.4964, 1.5138, 1.5312, 1.5486, 1.566, 1.5834, 1.6008, 1.6182, 1.6356, 1.653, 1.6704, 1.6878, 1.7052),
    *(1.7226, 1.74, 1.758, 1.776, 1.794, 1.812, 1.83, 1.85, 1.87, 1.89, 1.91, 1.93, 1.9526, 1.9752, 1.9978, 2.0204),
    *(2.043, 2.0688, 2.0946, 2.1204, 2.1462, 2.172, 2.202, 2.232, 2.262, 2.292, 2.322, 2.3576, 2.3932, 2.4288),
    *(2.4644, 2.5, 2.53, 2.56, 2.59, 2.62, 2.65, 2.72, 2.79, 2.86, 2.93, 3.0),
]
_ETA_EDGES = np.concatenate(
    [-np.array(_ENDCAP_EDGES[:0:-1]), np.linspace(-1.479, 1.479, 171), np.array(_ENDCAP_EDGES[1:])]
)


def window_rows(rows: np.ndarray, height: int, ieta: np.ndarray) -> np.ndarray:
    """Rows of an image of `height` rows to rows of the whole detector.

    Args:
        rows: Rows in the image.
        ieta: Tower row of the seed at the window's centre; unused if the image is the whole detector.
    """
    return rows if height == DETECTOR_ROWS else rows - height // 2 + ieta * _TOWER + _TOWER // 2


def transverse_factor(rows: np.ndarray, is_ecal: np.ndarray) -> np.ndarray:
    """The factor that makes energies in `rows` of the whole detector transverse: 1 / cosh(eta)."""
    eta = 0.5 * (_ETA_EDGES[rows] + _ETA_EDGES[rows + 1])
    is_endcap = (rows < _ENDCAP_ROWS) | (rows >= DETECTOR_ROWS - _ENDCAP_ROWS)
    return np.where(is_endcap & is_ecal, _ENDCAP_FACTOR, 1.0) / np.cosh(eta)
