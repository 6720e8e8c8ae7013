"""The settings of a simulated data set."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from e2evit.data.arguments import settle

from .effects import effects_without
from .geometry import GEOMETRIES, Geometry
from .processes import PROCESSES

__all__ = ["MAX_PILEUP", "SimulationSettings", "mean_range"]

MAX_PILEUP = 1000  # collisions; the HL-LHC will have 200
_MIN_ENERGY, _MAX_ENERGY = 1000.0, 1e5  # GeV; below and above, Pythia's multiparton interactions were never tuned
_RANGES = {
    "seed": (0, 2**63),
    "pileup": (0, MAX_PILEUP),
    "pool_size": (10, 10**6),
    "shard_size": (1, 10**7),
    "hadronizations": (1, 1000),
}
# settings of Pythia that the simulation needs for itself, by how their names begin, and what to set instead
_OWN = {
    "Random:": "seed",
    "Beams:": "energy",
    "PhaseSpace:pTHat": "min_pt and max_pt",
    "PhaseSpace:bias2": "",
    "SoftQCD:inelastic": "",
    "HadronLevel:all": "",
    "ParticleDecays:limitCylinder": "",
    "ParticleDecays:xyMax": "",
    "ParticleDecays:zMax": "",
    "Check:abortIfVeto": "",
    "Main:": "",
    "Next:": "",
    "Print:": "",
}


@dataclass(frozen=True)
class SimulationSettings:
    """Settings of a simulation; they determine a shard, together with its process, its number and the versions.

    Args:
        seed: Any non-negative integer; another seed gives other events.
        energy: Centre-of-mass energy of the proton beams [GeV].
        geometry: `run1` (3 pixel layers, 8 channels) or `run3` (4 pixel and 4 strip layers, 13 channels).
        without: Effects of the detector that are not simulated, see [`EFFECTS`]; `all` leaves none.
        pileup: Mean number of collisions besides the hard one.
        min_pt, max_pt: Range of the jets' pT [GeV].
        min_mass, max_mass: Range of the mass guns' masses [GeV] instead of each gun's own.
        match_pt: Give every process the same spectrum in pT and eta.
        match_mass: With `match_pt` and `merged_only`: make the jets of mass guns flat in mass and pT.
        merged_only: Keep only jets that contain all decay products of their heavy particle.
        keep: `images`, or `particles`: those that a jet's window can see, from which [`ParticleImages`] makes an image
            with a new response of the detector, noise and pile-up whenever it is asked.
        whole_detector: One image of 280 x 360 per event instead of one of 125 x 125 per jet.
        candidates: Add the particle-flow-like candidates of each jet, and observables made of them, to its image.
        pool_size: Number of minimum-bias collisions pile-up is drawn from.
        hadronizations: Events made of each parton shower; they have one `event_id`, and so are in one split. They give
            more images a second but hardly any new jets, so their number overstates what a test can tell.
        pythia: Extra settings for Pythia in every process, e.g. `Tune:pp = 18`.
        shard_size: Jets per shard.
    """

    seed: int = field(default=0, metadata={"help": "Seed of all random numbers; another one gives other events."})
    energy: float = field(default=8000.0, metadata={"help": "Centre-of-mass energy of the proton beams [GeV]."})
    geometry: str = field(default="run1", metadata={"help": "run1 (8 channels) or run3 (13 channels)."})
    without: list[str] = field(
        default_factory=list,
        metadata={"help": "Effects of the detector to leave out, e.g. fakes; all: every one (docs/simulation.md)."},
    )
    pileup: float = field(default=21.0, metadata={"help": "Mean number of pile-up collisions per event."})
    min_pt: float = field(default=400.0, metadata={"help": "Minimum pT of the jets [GeV]."})
    max_pt: float = field(default=1000.0, metadata={"help": "Maximum pT of the jets [GeV]."})
    min_mass: float | None = field(
        default=None, metadata={"help": "Minimum mass of the mass guns [GeV]; default: each gun's own."}
    )
    max_mass: float | None = field(
        default=None, metadata={"help": "Maximum mass of the mass guns [GeV]; default: each gun's own."}
    )
    match_pt: bool = field(default=False, metadata={"help": "Match the pT and eta spectra of all processes."})
    match_mass: bool = field(
        default=False,
        metadata={"help": "With --match_pt and --merged_only: jets of mass guns flat in mass and pT."},
    )
    merged_only: bool = field(
        default=False, metadata={"help": "Keep only jets that contain all decay products of their heavy particle."}
    )
    keep: str = field(
        default="images",
        metadata={"help": "images, or particles, from which training can make a new image in every epoch."},
    )
    whole_detector: bool = field(
        default=False, metadata={"help": "Write one 280 x 360 image per event instead of one 125 x 125 image per jet."}
    )
    candidates: bool = field(
        default=False, metadata={"help": "Add each jet's particle-flow-like candidates, and observables made of them."}
    )
    pool_size: int = field(default=2000, metadata={"help": "Minimum-bias collisions to draw pile-up from."})
    hadronizations: int = field(
        default=1,
        metadata={
            "help": "Events made of each parton shower, with one event_id: more images a second, hardly any new jets."
        },
    )
    pythia: list[str] = field(default_factory=list, metadata={"help": 'Extra Pythia settings, e.g. "Tune:pp = 18".'})
    shard_size: int = field(default=2000, metadata={"help": "Jets per shard."})

    def __post_init__(self):
        settle(self)

    @property
    def detector(self) -> Geometry:
        """The detector that is simulated."""
        return GEOMETRIES[self.geometry].without(self.without)

    @property
    def mass_range(self) -> tuple[float, float] | None:
        """Masses of the guns [GeV], if set."""
        return None if self.min_mass is None or self.max_mass is None else (self.min_mass, self.max_mass)

    def validate(self, processes) -> None:
        """Raise a ValueError for the first setting that does not fit, or does not fit `processes`."""
        if isinstance(processes, str):
            raise ValueError(f"`processes` is a list, got the text {processes!r}: write [{processes!r}].")
        unknown = [process for process in processes if process not in PROCESSES]
        if unknown or not processes:
            raise ValueError(f"Unknown process {', '.join(unknown)}; known ones: {', '.join(PROCESSES)}.")
        if len(set(processes)) < len(processes):
            raise ValueError(f"A process is named twice: {', '.join(processes)}.")
        if self.geometry not in GEOMETRIES:
            raise ValueError(f"Unknown geometry {self.geometry!r}; known ones: {', '.join(GEOMETRIES)}.")
        effects_without(self.without)
        if self.keep not in ("images", "particles"):
            raise ValueError(f"`keep` is images or particles, got {self.keep!r}.")
        if self.keep == "particles" and self.whole_detector:
            raise ValueError(
                "Particles are kept around jets: `keep particles` and `whole_detector` exclude each other."
            )
        if self.candidates and (self.keep == "particles" or self.whole_detector):
            raise ValueError(
                "`candidates` go with images of jets, not with `whole_detector`; kept particles get them when their "
                "images are made: `ParticleImages.of(..., candidates=True)`."
            )
        for name, (smallest, largest) in _RANGES.items():
            if not smallest <= getattr(self, name) <= largest:
                raise ValueError(f"Need {name} >= {smallest} and <= {largest}, got {getattr(self, name)}.")
        for name in ("energy", "min_pt", "max_pt", "min_mass", "max_mass"):
            if (value := getattr(self, name)) is not None and not math.isfinite(value):
                raise ValueError(f"`{name}` is a number of GeV, got {value}.")
        if not _MIN_ENERGY <= self.energy <= _MAX_ENERGY or not 0 < self.min_pt < self.max_pt < self.energy / 2:
            raise ValueError(
                f"Need an energy of {_MIN_ENERGY:g} to {_MAX_ENERGY:g} and 0 < min_pt < max_pt < energy / 2 [GeV], "
                f"got min_pt {self.min_pt:g}, max_pt {self.max_pt:g} and energy {self.energy:g}."
            )
        if self.match_mass and not (self.match_pt and self.merged_only):
            raise ValueError("match_mass makes the jets of match_pt and merged_only flat in mass: set all three.")
        if (self.min_mass is None) != (self.max_mass is None):
            raise ValueError("Set both min_mass and max_mass [GeV], or neither.")
        if self.mass_range and not 0 < self.min_mass < self.max_mass:
            raise ValueError(f"Need 0 < min_mass < max_mass [GeV], got {self.min_mass:g} and {self.max_mass:g}.")
        if self.mass_range and not any(PROCESSES[process].gun for process in processes):
            raise ValueError(f"min_mass and max_mass apply to mass guns (x_...), not to {', '.join(processes)}.")
        for process in processes:
            if PROCESSES[process].gun:
                self._check_masses(process)
        for setting in self.pythia:
            self._check_pythia(setting)

    def _check_masses(self, process: str) -> None:
        """Raise a ValueError for masses of a gun that the beams cannot make, or no jet can hold."""
        gun = PROCESSES[process].gun
        low, high = self.mass_range or gun.mass
        if low < gun.threshold:
            raise ValueError(f"{process}: need min_mass >= {gun.threshold:g} GeV, the mass of a decay, got {low:g}.")
        if (needed := 2 * math.hypot(high, self.min_pt)) >= self.energy:
            raise ValueError(
                f"Pairs of {process} with masses up to {high:g} GeV and pT from {self.min_pt:g} GeV need beams of "
                f"more than {needed:.0f} GeV, got {self.energy:g}: lower max_mass or min_pt."
            )
        if self.merged_only and low >= self.max_pt:
            raise ValueError(
                f"merged_only: no jet with a pT up to {self.max_pt:g} GeV holds all of the decay of {process} with a "
                f"mass from {low:g} GeV: lower min_mass or raise max_pt."
            )

    @staticmethod
    def _check_pythia(setting: str) -> None:
        """Raise a ValueError for a setting of Pythia that the simulation sets itself."""
        # Pythia reads `random::seed=7` as `Random:seed = 7`
        name = re.split(r"[\s=]", setting.strip())[0].replace("::", ":")
        if not name:
            raise ValueError(f"`pythia` holds settings such as 'Tune:pp = 18', got {setting!r}.")
        for own, instead in _OWN.items():
            if name.lower().startswith(own.lower()):
                told = f"use {instead} instead" if instead else "leave it out"
                raise ValueError(f"`pythia`: {name} is set by the simulation itself; {told}.")


def mean_range(pileup: float | Sequence[float]) -> tuple[float, float]:
    """Smallest and largest mean number of collisions.

    Raises:
        ValueError: for more than two numbers, or numbers that are no means.
    """
    try:
        means = [float(mean) for mean in np.ravel(pileup)]
    except (TypeError, ValueError):
        means = []
    if len(means) not in (1, 2) or not 0 <= means[0] <= means[-1] <= MAX_PILEUP:
        raise ValueError(
            f"`pileup` is a mean number of collisions, or the smallest and the largest, of 0 to {MAX_PILEUP}, "
            f"got {pileup}."
        )
    return means[0], means[-1]
