"""The two detectors: silicon layers, track resolutions, channels of the image."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .effects import EFFECTS, effects_without

__all__ = ["GEOMETRIES", "Geometry", "Layer"]


@dataclass(frozen=True)
class Layer:
    """A cylinder of silicon.

    Args:
        radius, half_length: In cm.
        strip_length: Length of a strip module [cm], 0 for pixels. A strip hit is placed at the middle of its module;
            each of the two sensors of a stereo module makes a hit.
        ladders: Rows of pixel modules around the beam, 0 for strips.
    """

    radius: float
    half_length: float
    strip_length: float = 0.0
    ladders: int = 0


@dataclass(frozen=True)
class Geometry:
    """One detector.

    Args:
        channel_names: Channels of the image, in order.
        layers: Channel name to silicon layer.
        d0_resolution, dz_resolution: a [cm] and b [cm GeV]: σ(d0) = a ⊕ b √cosh η / pT, σ(dz) = a ⊕ b cosh^1.5 η / pT.
        bunch_spacing: Time between crossings of the beams [ns].
        effects: Names of the effects that are simulated, see [`EFFECTS`].
    """

    channel_names: tuple[str, ...]
    layers: dict[str, Layer]
    d0_resolution: tuple[float, float]
    dz_resolution: tuple[float, float]
    bunch_spacing: float
    effects: frozenset[str] = frozenset(EFFECTS)

    def without(self, names: Iterable[str]) -> "Geometry":
        """The same detector without some effects, or without `all`."""
        return replace(self, effects=effects_without(names))


GEOMETRIES = {
    # radii and lengths: JINST 3 (2008) S08004 section 3; impact parameters of 100 GeV muons and of 1 GeV pions:
    # JINST 9 (2014) P10009 section 5
    "run1": Geometry(
        channel_names=("trk_pt", "trk_d0", "trk_dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3"),
        layers={
            "bpix1": Layer(4.4, 26.5, ladders=20),
            "bpix2": Layer(7.3, 26.5, ladders=32),
            "bpix3": Layer(10.2, 26.5, ladders=44),
        },
        d0_resolution=(1.0e-3, 9.0e-3),
        dz_resolution=(3.0e-3, 1.0e-2),
        bunch_spacing=50.0,
    ),
    # pixels of the phase-1 upgrade: JINST 16 (2021) P02027; resolutions as in the 20 real jets in tests/data
    "run3": Geometry(
        channel_names=(
            *("trk_pt", "trk_dz_sig", "trk_d0_sig", "ecal", "hcal"),
            *("bpix1", "bpix2", "bpix3", "bpix4", "tib1", "tib2", "tob1", "tob2"),
        ),
        layers={
            "bpix1": Layer(2.9, 27.0, ladders=12),
            "bpix2": Layer(6.8, 27.0, ladders=28),
            "bpix3": Layer(10.9, 27.0, ladders=44),
            "bpix4": Layer(16.0, 27.0, ladders=64),
            "tib1": Layer(25.5, 70.0, strip_length=11.7),
            "tib2": Layer(33.9, 70.0, strip_length=11.7),
            "tob1": Layer(60.8, 109.0, strip_length=18.3),
            "tob2": Layer(69.2, 109.0, strip_length=18.3),
        },
        d0_resolution=(1.2e-3, 7.0e-3),
        dz_resolution=(2.0e-3, 8.0e-3),
        bunch_spacing=25.0,
    ),
}
