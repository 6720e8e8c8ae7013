"""Benchmarks of the Hub: a data set of test jets with `eval.yaml`, and the scores of models in `.eval_results`.

Both formats are those of https://huggingface.co/docs/hub/eval-results.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, HfApi, eval_result_entries_to_yaml

from e2evit.data.jobs import write_whole_text
from e2evit.data.storage import absolute
from e2evit.data.texts import read_mapping
from e2evit.metrics import METRICS
from e2evit.results.record import Result

from .card import listed_metrics
from .connection import open_requests

__all__ = ["BENCHMARK_FILE", "SPLIT", "Benchmark", "describe_jets", "read_jets", "write_benchmark"]

BENCHMARK_FILE, EVAL_FILE, SPLIT = "benchmark.json", "eval.yaml", "test"
TARGETS = ("mass_column", "mass_classes", "contained_classes", "label_names")
SHARED = ("dataset", "pileup", "without", "weights", *TARGETS)  # what a result must have in common with it
HEADING = "\n## Benchmark\n"
CARD = """
{description}

These jets are for measuring. Never train on them, and not on other rows of their events: `e2evit benchmark` and
`e2evit push --benchmark` refuse a training folder that holds one of their `event_id`s.

```sh
hf download ORG/NAME --repo-type dataset --local-dir benchmark
e2evit eval CHECKPOINT --data_dir benchmark --split all --results results.json
e2evit push CHECKPOINT --results results.json --repo_id ORG/MODEL --benchmark ORG/NAME
e2evit score predictions.parquet --benchmark benchmark --model_name NAME --results results.json
```

The last command scores any other model, from a file with one row for each jet, in their order, and the columns
`event_id`{columns}.

Scores: {tasks}.
"""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on the Hub, as one of its commits has it.

    Attributes:
        tasks: The metrics that it ranks models by.
        jets: See [`describe_jets`].
    """

    repo_id: str
    revision: str
    tasks: tuple[str, ...]
    jets: dict[str, Any]

    @classmethod
    def of_hub(cls, repo_id: str, token: str | None = None) -> "Benchmark":
        """The newest commit of a data set that `e2evit benchmark` made.

        Raises:
            ValueError: if it is not such a data set.
            OSError: if the Hub cannot be reached, or there is none.
        """
        api = HfApi(token=token)

        def download(name: str) -> str:
            return api.hf_hub_download(repo_id, name, repo_type="dataset", revision=revision)

        with open_requests(token) as requests:
            try:
                revision = requests(lambda: api.dataset_info(repo_id).sha)
                files = [requests(lambda name=name: download(name)) for name in (BENCHMARK_FILE, EVAL_FILE)]
            except OSError as error:
                raise OSError(f"The benchmark {repo_id} cannot be read: {error}") from None
        tasks = read_mapping(files[1]).get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) and "id" in task for task in tasks):
            raise ValueError(f"{repo_id}: {EVAL_FILE} lists no tasks with an `id`.")
        return cls(repo_id, revision, tuple(str(task["id"]) for task in tasks), _read_jets(files[0], repo_id))

    def check(self, result: Result, path: str | Path) -> None:
        """Refuse a result that was not measured on these jets with these targets.

        Raises:
            ValueError: naming what differs.
        """
        measured = {name: getattr(result, name) for name in SHARED} | result.data[result.split]
        if different := [name for name in measured if measured[name] != self.jets.get(name)]:
            told = "; ".join(f"{name} {measured[name]}, not {self.jets.get(name)}" for name in different)
            raise ValueError(
                f"{path} was not measured on the benchmark {self.repo_id}: {told}. Download it, and measure the model "
                "with `e2evit eval --split all` and its targets."
            )

    def eval_results(self, result: Result) -> str:
        """The YAML file for `.eval_results` of the model's repository: its score in each task.

        Raises:
            ValueError: if it has none.
        """
        scores = {task: value for task, value in listed_metrics(result).items() if task in self.tasks}
        if not scores:
            raise ValueError(f"The benchmark {self.repo_id} ranks {', '.join(self.tasks)}, which the result lacks.")
        entries = [
            EvalResultEntry(self.repo_id, task, value, dataset_revision=self.revision, date=result.date)
            for task, value in scores.items()
        ]
        return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def describe_jets(result: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two measurements comparable: data set, targets, number of jets and the hash of their events.

    Args:
        result: Fields of a [`Result`].
    """
    return {name: result.get(name) for name in SHARED} | result["data"][result["split"]]


def read_jets(folder: str | Path) -> dict[str, Any]:
    """What [`describe_jets`] said when the benchmark in this folder was made.

    Raises:
        FileNotFoundError: if it is not a benchmark.
        ValueError: if its description is damaged.
    """
    path = Path(absolute(folder), BENCHMARK_FILE)
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {BENCHMARK_FILE}: it is not a benchmark of `e2evit benchmark`.")
    return _read_jets(path, folder)


def _read_jets(path: str | Path, where: str | Path) -> dict[str, Any]:
    jets = read_mapping(path, "JSON")
    if lacking := [name for name in (*SHARED, "rows", "event_ids") if name not in jets]:
        raise ValueError(f"{where}: {BENCHMARK_FILE} does not say {', '.join(lacking)}: download it again.")
    return jets


def write_benchmark(
    folder: str | Path, name: str, description: str, jets: Mapping[str, Any], tasks: Sequence[str]
) -> None:
    """Make a prepared folder of test jets a benchmark: `eval.yaml`, `benchmark.json` and a section of the card.

    `evaluation_framework` is left out of `eval.yaml`: it is one of a list that Hugging Face keeps.

    Args:
        name, description: For people.
        jets: See [`describe_jets`].
        tasks: Keys of [`METRICS`] to rank models by, each on a leaderboard of its own.
    """
    folder = Path(absolute(folder))
    listed = [{"id": task, "config": "default", "split": SPLIT} for task in tasks]
    content = {"name": name, "description": description, "tasks": listed}
    columns = ", ".join(f"`p_{name}`" for name in jets["label_names"])
    columns = f", {columns} (probabilities of the classes)" * bool(columns) + ", `mass` [GeV]"
    told = ", ".join(f"`{task}` ({METRICS[task].heading})" for task in tasks)
    card = (folder / "README.md").read_text(encoding="utf-8").partition(HEADING)[0]
    section = CARD.format(description=description, columns=columns, tasks=told)
    write_whole_text(folder / "README.md", card + HEADING + section)
    write_whole_text(folder / BENCHMARK_FILE, json.dumps(dict(jets), indent=2) + "\n")
    write_whole_text(folder / EVAL_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
