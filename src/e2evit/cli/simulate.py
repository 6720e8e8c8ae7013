"""Simulate jets as E2E images with Pythia 8 and a parametrised detector (needs the `sim` extra).

python scripts/simulate.py --output_dir data/jets --processes qcd top w z h --num_jets 4000 --num_proc 2 --match_pt
"""

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from e2evit.simulation import SimulationSettings, simulate


@dataclass
class SimulateArguments:
    output_dir: str = field(metadata={"help": "Folder of the data set; an interrupted call goes on where it stopped."})
    processes: list[str] = field(default_factory=lambda: ["qcd", "top"], metadata={"help": "Names of the README."})
    num_jets: int = field(default=4000, metadata={"help": "Jets of each process."})
    num_proc: int = field(default=1, metadata={"help": "Local worker processes."})
    scheduler: str | None = field(default=None, metadata={"help": "Dask scheduler, tcp://..., instead."})


def main() -> None:
    arguments, settings = HfArgumentParser((SimulateArguments, SimulationSettings)).parse_args_into_dataclasses()
    try:
        folder = simulate(settings=settings, **vars(arguments))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"simulate.py: {error}")
    print(f"Simulated {arguments.num_jets} jets each of {', '.join(arguments.processes)} in {folder}")


if __name__ == "__main__":
    main()
