"""How much of the energy of collisions in other bunch crossings is left in the calorimeters' signals.

Trains are taken to be longer than the signals. Silicon is read out within one crossing.
"""

from functools import cache

import numpy as np

__all__ = ["LEAST", "WIDTH", "fractions"]

SAMPLE = 25.0  # ns between samples of the pulses, and crossings at the design of the LHC
# Of the ECAL, pulses (1 + t / ab)^a exp(-t / b) with a peak in the sixth of ten samples; a, b in samples as in CMSSW's
# fixedAlphaBetaFit. Amplitudes of run 1 are weighted sums that subtract the pedestal of three early samples (EPJ C 46
# S1 (2006) 23), which is why earlier collisions take energy away; templates of all crossings are fitted in run 2 and 3
# (JINST 15 (2020) P10002), and the rest that they leave on both sides is chosen
ALPHA, BETA, PEAK = 1.138, 1.655, 5
PEDESTAL_SAMPLES, SIGNAL_SAMPLES = (0, 1, 2), (4, 5, 6, 7)
TEMPLATES_LEAVE = 0.05
# Of the HCAL: share of a pulse in the first slices of 25 ns (chosen, about as in JINST 5 (2010) T03013); energies are
# the sum of two slices, and a fit again leaves a chosen rest where crossings are 25 ns apart
HCAL_SLICES = (0.68, 0.22, 0.07, 0.03)
MOST_CROSSINGS, IGNORED = 5, 0.05  # before and after; crossings of which less than this share is left
LEAST = 0.05  # GeV; what is left of a shower is not followed below it
WIDTH = -1.0  # instead of the width of a shower: it lies in one cell, and is out of time


@cache
def fractions(spacing: float) -> np.ndarray:
    """Share of the energy that is left of each crossing which matters, in ECAL and HCAL `(n, 2)`.

    Args:
        spacing: Time between crossings [ns].
    """
    crossings = [number for number in range(-MOST_CROSSINGS, MOST_CROSSINGS + 1) if number]
    if spacing <= SAMPLE:
        return np.array([(TEMPLATES_LEAVE, TEMPLATES_LEAVE)] * 2)
    left = np.array([(_ecal(number * spacing), _hcal(number * spacing)) for number in crossings])
    return left[np.abs(left).max(axis=1) > IGNORED]


def _ecal(late: float) -> float:
    """Amplitude of a pulse that is `late` [ns] over that of the same pulse in time."""
    samples = np.array([*PEDESTAL_SAMPLES, *SIGNAL_SAMPLES])
    # the weights with the least noise that give a pulse 1 and a pedestal 0
    weights = np.linalg.pinv(np.stack([_pulse(samples), np.ones(len(samples))], axis=1))[0]
    return float(weights @ _pulse(samples - late / SAMPLE))


def _pulse(sample):
    time = sample - PEAK
    rise = np.maximum(1 + time / (ALPHA * BETA), 0)
    return rise**ALPHA * np.exp(-np.maximum(time, -ALPHA * BETA) / BETA)


def _hcal(late: float) -> float:
    """The same in the HCAL."""
    first = int(-late // SAMPLE)  # slice of the pulse that falls into the first of the two
    inside = [HCAL_SLICES[number] for number in (first, first + 1) if 0 <= number < len(HCAL_SLICES)]
    return sum(inside) / sum(HCAL_SLICES[:2])
