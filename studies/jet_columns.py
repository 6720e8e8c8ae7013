"""Observables and candidates of simulated jets: numbers to results/simulation_columns.json.

    python studies/jet_columns.py && python studies/render.py

Masses are compared with the generated mass for jets that contain X -> qq; observables tell top and W jets from QCD's
at equal spectra in pT and eta. Hadronisations of one parton shower are compared.
"""

from dataclasses import dataclass, field, replace
from tempfile import NamedTemporaryFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score
from transformers import HfArgumentParser

from e2evit.data.columns import LISTS
from e2evit.data.sparse import COLUMN_ENCODINGS
from e2evit.metrics.bootstrap import resamples
from e2evit.metrics.mass import central_68, half_width_68
from e2evit.results.record import write_record
from e2evit.simulation import SimulationSettings
from e2evit.simulation.shards import make_acceptance, make_pool, make_shard, versions

MASSES = ("jet_mass", "soft_drop_mass", "reco_mass", "reco_soft_drop_mass")
OBSERVABLES = ("soft_drop_mass", "tau21", "tau32", "multiplicity")
HADRONIZATIONS = 4
ALIKE = ("jet_mass", "soft_drop_mass", "tau21", "multiplicity")
TYPES = {211: "charged hadrons", 11: "electrons", 13: "muons", 22: "photons", 130: "neutral hadrons"}


@dataclass
class ColumnsArguments:
    results: str = field(default="results/simulation_columns.json", metadata={"help": "JSON file to write."})
    num_jets: int = field(default=2500, metadata={"help": "Jets of each process."})
    pileup: float = field(default=21.0, metadata={"help": "Mean number of pile-up collisions."})


def main() -> None:
    (arguments,) = HfArgumentParser(ColumnsArguments).parse_args_into_dataclasses()
    contained = SimulationSettings(pileup=arguments.pileup, merged_only=True, candidates=True)
    matched, pool = replace(contained, match_pt=True), make_pool(contained)
    jets = make_shard("x_qq", 0, arguments.num_jets, contained, pool)
    record = {"num_jets": arguments.num_jets, "pileup": arguments.pileup}
    record["masses"] = {name: resolution(numbers(jets, name) / numbers(jets, "mass_labels")) for name in MASSES}
    samples = {
        process: make_shard(process, 0, arguments.num_jets, matched, pool, make_acceptance(process, matched))
        for process in ("qcd", "top", "w")
    }
    record["auc"] = {
        f"{prefix}{name}": {
            signal: separation(numbers(samples["qcd"], prefix + name), numbers(samples[signal], prefix + name))
            for signal in ("top", "w")
        }
        for prefix in ("", "reco_")
        for name in OBSERVABLES
    }
    record |= candidates(samples["qcd"]) | size("qcd", contained, pool)
    record |= {"hadronizations": HADRONIZATIONS, "alike": alike(arguments, pool)}
    write_record(arguments.results, record, packages=tuple(versions()))
    print(record)


def numbers(jets: pa.Table, name: str) -> np.ndarray:
    return jets[name].to_numpy().astype(float)


def resolution(response: np.ndarray) -> dict[str, float]:
    """Median and relative resolution, with its error, and the share of jets that lost half of the mass."""

    def relative(values):
        return half_width_68(values) / central_68(values)[1]

    draws = [relative(response[rows]) for rows in resamples(len(response), 300)]
    return {
        "response": central_68(response)[1],
        "resolution": relative(response),
        "error": float(np.std(draws)),
        "lost": float((response < 0.5).mean()),
    }


def separation(background: np.ndarray, signal: np.ndarray) -> float:
    """AUC of one observable in the direction in which it separates."""
    values = np.nan_to_num(np.concatenate([background, signal]))
    auc = float(roc_auc_score(np.repeat([0, 1], [len(background), len(signal)]), values))
    return max(auc, 1 - auc)


def candidates(jets: pa.Table) -> dict:
    """Numbers and shares of pT by type, and how well they add up to the jet."""
    columns = {name: jets[f"candidate_{name}"].combine_chunks().flatten() for name in ("id", "pt", "is_pileup")}
    code, pt, pileup = (column.to_numpy(zero_copy_only=False) for column in columns.values())
    response = numbers(jets, "reco_pt") / numbers(jets, "pt")
    types = {}
    for number, title in TYPES.items():
        chosen = np.abs(code) == number
        types[title] = {
            "number": float(chosen.sum() / jets.num_rows),
            "share": float(pt[chosen].sum() / pt.sum()),
            "pileup": float(pt[chosen & pileup].sum() / pt[chosen].sum()),
        }
    return {"types": types, "response": central_68(response)[1], "pt_resolution": half_width_68(response)}


def size(process: str, settings: SimulationSettings, pool) -> dict[str, float]:
    """Bytes a jet, with and without candidates."""
    found, number = {}, 500
    rows = make_shard(process, 1, number, settings, pool)
    for title, lacking in (("with", []), ("without", list(LISTS["candidates"]))):
        with NamedTemporaryFile(suffix=".parquet") as file:
            pq.write_table(rows.drop_columns(lacking), file.name, row_group_size=1000, **COLUMN_ENCODINGS)
            found[f"bytes_{title}"] = len(file.read()) / number
    return found


def alike(arguments: ColumnsArguments, pool) -> dict[str, dict[str, float]]:
    """Intraclass correlation of each observable between the hadronisations of one jet, by process."""
    settings = SimulationSettings(pileup=arguments.pileup, hadronizations=HADRONIZATIONS)
    found = {}
    for process in ("qcd", "top"):
        jets = make_shard(process, 2, arguments.num_jets, settings, pool)
        _, first, shower = np.unique(jets["event_id"].to_numpy(), return_index=True, return_inverse=True)
        phi = numbers(jets, "phi")
        opposite = np.cos(phi - phi[first][shower]) < 0  # two jets of a shower are not alike
        found[process] = {
            name: intraclass_correlation(numbers(jets, name), np.unique(2 * shower + opposite, return_inverse=True)[1])
            for name in ALIKE
        }
    return found


def intraclass_correlation(values: np.ndarray, group: np.ndarray) -> float:
    """Share of the variance that lies between groups, from a one-way analysis of variance with unequal groups.

    Args:
        values, group: A number, and its group as 0, 1, ..., `(n,)`.
    """
    size = np.bincount(group)
    mean = np.bincount(group, values) / size
    between = (size * (mean - values.mean()) ** 2).sum() / (len(size) - 1)
    within = ((values - mean[group]) ** 2).sum() / (len(values) - len(size))
    typical = (len(values) - (size**2).sum() / len(values)) / (len(size) - 1)
    return float((between - within) / (between + (typical - 1) * within))


if __name__ == "__main__":
    main()
