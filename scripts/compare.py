"""Compare models that were measured on the same jets: a table, ROC curves and the mass response.

python scripts/compare.py --results results/linearvit.json results/xcit.json --figures figures
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from e2evit.plots import comparison_figures, save_figure
from e2evit.report import read_predictions, read_results, results_table


@dataclass
class CompareArguments:
    results: list[str] = field(metadata={"help": "Files that scripts/evaluate.py wrote."})
    figures: str | None = field(default=None, metadata={"help": "Folder for PNG and PDF figures."})


def main() -> None:
    (arguments,) = HfArgumentParser(CompareArguments).parse_args_into_dataclasses()
    records = read_results(arguments.results)
    print(results_table(records))
    if arguments.figures:
        for name, figure in comparison_figures(read_predictions(arguments.results)).items():
            print(f"Wrote {save_figure(figure, Path(arguments.figures) / name)}")


if __name__ == "__main__":
    main()
