"""The processes by name: hard processes of Pythia 8 and mass guns, each with the full event around it."""

from dataclasses import dataclass

__all__ = ["PROCESSES", "Gun", "Process"]


@dataclass(frozen=True)
class Gun:
    """Two scalars, or a top-like pair, flat in mass and pT.

    Args:
        mass: Default range [GeV], the one of the public data sets.
        coloured: Whether the pair is a colour triplet and antitriplet, as top quarks are.
        threshold: Smallest mass [GeV] that decays in all the ways it should.
    """

    mass: tuple[float, float]
    coloured: bool = False
    threshold: float = 0.0


@dataclass(frozen=True)
class Process:
    """What Pythia generates.

    Args:
        title: For figures.
        settings: Settings for Pythia.
        heavy: PDG code of the heavy particle, whose mass is the target; 0 if there is none.
        gun: The kinematics of a mass gun, None for a hard process.
        bias: Power of pT-hat that enhances hard processes, so that the jets' spectrum is nearly flat between 400 and
            1000 GeV at 8 TeV; each row's `weight` undoes it.
    """

    title: str
    settings: tuple[str, ...]
    heavy: int = 0
    gun: Gun | None = None
    bias: float = 0.0


_MASSES = {1: 0.33, 2: 0.33, 3: 0.5, 5: 4.8, 15: 1.777, 21: 0.0, 22: 0.0}  # GeV, as in Pythia
# a new code: Pythia's own Higgs bosons have widths that depend on the mass, and refuse some masses
_X = 9000025


def _scalar(title: str, *daughters: tuple[int, int], mass: tuple[float, float] = (50.0, 300.0)) -> Process:
    settings = (f"{_X}:new = X void 1 0 0 125. 0.01 0. 0. 0.", f"{_X}:isResonance = on", f"{_X}:doForceWidth = on")
    threshold = 2 * max(_MASSES[one] for one, _ in daughters)
    channels = (f"{_X}:addChannel = 1 {1 / len(daughters):.6f} 101 {one} {other}" for one, other in daughters)
    return Process(title, (*settings, *channels), heavy=_X, gun=Gun(mass, threshold=threshold))


_HADRONIC_W = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")

PROCESSES = {
    "qcd": Process("QCD", ("HardQCD:all = on",), bias=7.0),
    "top": Process("top", ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *_HADRONIC_W), heavy=6, bias=7.0),
    "w": Process(
        "W", ("WeakBosonAndParton:qqbar2Wg = on", "WeakBosonAndParton:qg2Wq = on", *_HADRONIC_W), heavy=24, bias=6.0
    ),
    "z": Process(
        "Z",
        (
            "WeakBosonAndParton:qqbar2gmZg = on",
            "WeakBosonAndParton:qg2gmZq = on",
            "WeakZ0:gmZmode = 2",  # without the photon
            "23:onMode = off",
            "23:onIfAny = 1 2 3 4 5",
        ),
        heavy=23,
        bias=6.0,
    ),
    "h": Process(
        r"H$\to$bb",
        (
            "HiggsSM:gg2Hg(l:t) = on",
            "HiggsSM:qg2Hq(l:t) = on",
            "HiggsSM:qqbar2Hg(l:t) = on",
            "25:onMode = off",
            "25:onIfMatch = 5 -5",
        ),
        heavy=25,
        bias=6.0,
    ),
    "x_bb": _scalar(r"X$\to$bb", (5, -5)),
    "x_qq": _scalar(r"X$\to$qq", (1, -1), (2, -2), (3, -3)),
    "x_gg": _scalar(r"X$\to$gg", (21, 21)),
    "x_tautau": _scalar(r"X$\to\tau\tau$", (15, -15), mass=(10.0, 60.0)),
    "x_gammagamma": _scalar(r"X$\to\gamma\gamma$", (22, 22), mass=(10.0, 60.0)),
    "x_top": Process("top-like X", _HADRONIC_W, heavy=6, gun=Gun((85.0, 500.0), coloured=True, threshold=85.0)),
}
