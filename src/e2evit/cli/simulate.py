"""Simulate jets as E2E images with Pythia 8 and a parametrised detector (needs the `sim` extra).

examples:
  e2evit simulate --output_dir data/jets --processes qcd top w z h --num_jets 4000 --num_proc 2 --match_pt
  e2evit simulate --output_dir data/events --processes qcd top --num_jets 200 --whole_detector --format ntuple

Run the same command again to resume an interrupted simulation; finished shards are kept.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from e2evit.data import find_schema
from e2evit.data.extras import import_extra
from e2evit.simulation import SimulationSettings, simulate
from e2evit.simulation.ntuples import write_ntuples
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


@dataclass
class FormatArguments:
    format: str = HfArg(
        default="rows",
        help="rows, or ntuple: also write ROOT files as RecHitAnalyzer does, with --whole_detector (needs uproot).",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    kinds = SampleArguments, FormatArguments, SimulationSettings
    sample, written, settings = parse("e2evit simulate", __doc__, arguments, *kinds)
    if written.format not in ("rows", "ntuple"):
        raise ValueError(f"`format` is rows or ntuple, got {written.format!r}.")
    if written.format == "ntuple":
        if not settings.whole_detector:
            raise ValueError("An ntuple holds whole events: add --whole_detector to --format ntuple.")
        import_extra("uproot", "An ntuple", "root")
    folder = simulate(settings=settings, **vars(sample))
    what = "events" if settings.whole_detector else "jets"
    print(f"Simulated {sample.num_jets} {what} each of {', '.join(sample.processes)} in {folder}")
    if written.format == "ntuple":
        ntuples = write_ntuples(folder)
        name = "ntuple_8" if len(find_schema("simulated", folder).channel_names) == 8 else "ntuple_resampled"
        output = shlex.quote(f"{folder}_jets")
        print(f"ROOT files: {ntuples}; their jets as rows of a data set:")
        print(f"  e2evit prepare {name} --data_dir {shlex.quote(str(ntuples))} --output_dir {output}")
    print(f"Next: {next_step(folder, settings)}")


def next_step(folder: Path, settings: SimulationSettings) -> str:
    """What to do with the sample: a command that trains on all that the folder holds by now."""
    held = {path.name.rsplit("-", 2)[0] for path in folder.glob("*-*-*.parquet")}
    guns = [name for name in PROCESSES if name in held and PROCESSES[name].gun]
    classes = [name for name in PROCESSES if name in held and not PROCESSES[name].gun]
    if settings.whole_detector:  # which have jets of QCD beside those of their process
        if held == {"qcd"}:
            return "simulate a second process into the same folder, for classes to tell apart."
        return (
            f"e2evit train recipes/events/queries.yaml --data_dir {folder} --output_dir runs/events (docs/events.md)"
        )
    if len(classes) == 1 and not guns:
        return f"simulate a second process into the same folder: {classes[0]} alone has no classes to tell apart."
    targets = []
    if guns and len(classes) != 1:  # their masses are spread; with one other class they are its signal
        targets = ["--mass_column", "mass_labels", "--mass_classes", *guns]
        targets += ["--classes", *classes] if classes else []
    fresh = ["--fresh"] if settings.keep == "particles" else []
    words = ["e2evit train quickstart/xcit_nano.yaml --data_dir", shlex.quote(str(folder)), *fresh, *targets]
    return " ".join([*words, "--output_dir runs/xcit"])
