"""Simulate jets as E2E images with Pythia 8 and a parametrised detector (needs the `sim` extra).

examples:
  e2evit simulate --output_dir data/jets --processes qcd top w z h --num_jets 4000 --num_proc 2 --match_pt

Run the same command again to resume an interrupted simulation; finished shards are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from e2evit.simulation import SimulationSettings, simulate
from e2evit.simulation.processes import PROCESSES

from .parser import parse


@dataclass
class SampleArguments:
    output_dir: str = HfArg(help="Folder of the data set.")
    processes: list[str] = HfArg(
        default_factory=lambda: ["qcd", "top"],
        help=f"One class each, of {', '.join(PROCESSES)}.",
    )
    num_jets: int = HfArg(default=4000, help="Jets per process.")
    num_proc: int = HfArg(default=1, help="Local worker processes.")
    scheduler: str | None = HfArg(
        default=None, help="Address of a Dask scheduler, tcp://..., whose workers simulate instead."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    sample, settings = parse("e2evit simulate", __doc__, arguments, SampleArguments, SimulationSettings)
    folder = simulate(settings=settings, **vars(sample))
    print(f"Simulated {sample.num_jets} jets each of {', '.join(sample.processes)} in {folder}")
    print(f"Next: e2evit train quickstart/xcit_nano.yaml --data_dir {folder} --output_dir runs/xcit")
