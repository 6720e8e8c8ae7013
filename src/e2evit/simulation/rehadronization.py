"""Several hadronisations of one parton shower, which takes .6 to .7 of Pythia's time."""

from collections.abc import Sequence

import numpy as np
import pythia8mc

from .early_veto import IMPOSSIBLE, EarlyVeto

__all__ = ["Rehadronization"]

# it only hands over events that are finished and checked: particles that left the ECAL must not decay after all
_READER = (
    "Print:quiet = on",
    "ProcessLevel:all = off",
    "PartonLevel:all = off",
    "HadronLevel:Hadronize = off",
    "HadronLevel:Decay = off",
    "Check:event = off",
)


_TRIES = 1000  # for one event


class Rehadronization(pythia8mc.UserHooks):
    """Hadronises each event of a generator several times, and returns all of them in batches.

    `nextBatch` is the fast way to read events, but reads only what its generator makes: a second generator makes
    nothing, and this hook puts an event into it whenever it starts one.

    Args:
        pythia: Initialised with `HadronLevel:all = off`.
        veto: A part of it.
        times: Hadronisations of each parton shower.
        settings: Of the process, which may define particles.
    """

    def __init__(self, pythia: pythia8mc.Pythia, veto: EarlyVeto, times: int, settings: Sequence[str] = ()):
        super().__init__()
        self._pythia, self._veto, self._times, self._left = pythia, veto, times, 0
        self._weight, self._showers = 1.0, 0
        self._handed_over: list[tuple[float, float, int]] = []
        self._shower = pythia8mc.Event()
        self._reader = pythia8mc.Pythia("", False)
        for setting in (*settings, *_READER):
            self._reader.readString(setting)
        self._reader.addUserHooksPtr(self)
        self._reader.init()

    def nextBatch(self, number: int, error_mode: str):
        """Record of `number` events."""
        self._handed_over.clear()
        return self._reader.nextBatch(number, error_mode)

    def handed_over(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pythia's weight, the probability of having been kept, and the number of the parton shower, of each event of
        the latest batch."""
        weight, kept, shower = (np.array(values) for values in zip(*self._handed_over))
        return weight, kept, shower

    def onBeginEvent(self) -> None:
        event = self._pythia.event
        for _ in range(_TRIES):
            if self._left:
                event.assign(self._shower)
            elif self._pythia.next():
                self._shower.assign(event)
                self._left, self._showers = self._times, self._showers + 1
                self._weight = self._pythia.infoPython().weight()
            else:
                continue
            self._left -= 1
            if self._pythia.forceHadronLevel(False):
                break
            self._left = 0  # another shower
        else:
            raise RuntimeError(f"Pythia made no event in {_TRIES} tries: {IMPOSSIBLE}.")
        self._reader.event.assign(event)
        self._handed_over.append((self._weight, self._veto.kept, self._showers - 1))
