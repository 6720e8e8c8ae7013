"""The effects of the detector that can be switched off by name, to measure what each of them does."""

from collections.abc import Iterable

__all__ = ["EFFECTS", "effects_without"]

# what each one is; its constants and their sources are where it is simulated
EFFECTS: dict[str, str] = {
    "conversions": "photons become pairs of electrons in the material of the tracker",
    "bremsstrahlung": "electrons radiate photons there",
    "nuclear": "hadrons end there, and others go on from the place",
    "showers": "showers with a depth, width and clusters of their own, where the particle has turned to by then",
    "out_of_time": "what is left in the calorimeters of collisions in other bunch crossings",
    "channels": "dead and noisy channels of the calorimeters, the same in every event",
    "calibration": "calibration constants of crystals and towers that are not exact",
    "decays": "tracks of late decays, found less often and measured less well",
    "tails": "impact parameters that are off by more than their uncertainties say",
    "dense_cores": "tracks lost because they run side by side",
    "fakes": "tracks that no particle made, and tracks found twice",
    "clusters": "pixel clusters that touch and become one",
    "modules": "pixel modules that give no hits, the same in every event",
    "lost_hits": "pixel hits lost in full buffers, the more the more collisions there are",
    "vertex": "a primary vertex that is off, merged with another, or of another collision",
}


def effects_without(names: Iterable[str]) -> frozenset[str]:
    """All effects but those in `names`; `all` leaves none.

    Raises:
        ValueError: for a name that is not in [`EFFECTS`].
    """
    names = set(names)
    if unknown := names - {*EFFECTS, "all"}:
        raise ValueError(f"Unknown effect {', '.join(sorted(unknown))}; known ones: all, {', '.join(EFFECTS)}.")
    return frozenset() if "all" in names else frozenset(EFFECTS) - names
