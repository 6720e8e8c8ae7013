"""The linear-ViT task of Google Summer of Code: three models on five folds, from scratch, with pT, and pre-trained.

python studies/gsoc.py --labelled data/labelled --unlabelled data/unlabelled
python studies/gsoc.py --imitate    # without the public files: simulated jets in files of their layout

The plans are recipes/gsoc/study.yaml and imitation.yaml. What is finished is not repeated: the same command resumes.
Each result is in `output_dir/results`, for `e2evit compare`; `studies/render.py` writes the tables of docs/gsoc.md
from `results/gsoc.json`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from gsoc_tables import Training, summarise, trainings
from steps import RECIPES, Job, ParallelArguments, check_unchanged, digest, run_jobs, run_script
from transformers import HfArgumentParser

from e2evit.cli.errors import one_line_errors
from e2evit.cli.parser import as_flags
from e2evit.data import find_schema
from e2evit.data.builder import list_parts
from e2evit.data.files import read_rows
from e2evit.data.packaged import read_recipe
from e2evit.data.splits import SplitRule
from e2evit.results.record import write_record

PARTS = ("labelled", "unlabelled")  # names of data sets, and of their folders
FILES = {"labelled": "Dataset_Specific_labelled_full_only_for_2i.h5", "unlabelled": "Dataset_Specific_Unlabelled.h5"}
DOWNLOADS = {"labelled": "labelled_with_mass", "unlabelled": "unlabelled"}
FOLDER = RECIPES / "gsoc"


@dataclass
class GsocArguments:
    labelled: str | None = field(default=None, metadata={"help": "Folder of the labelled file with masses and pT."})
    unlabelled: str | None = field(default=None, metadata={"help": "Folder of the unlabelled file."})
    imitate: bool = field(default=False, metadata={"help": "Make files of the same layout from simulated jets."})
    study: str | None = field(default=None, metadata={"help": "Another plan."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Checkpoints and their results. Default: runs/gsoc, or runs/gsoc_imitation."}
    )
    results: str | None = field(
        default=None,
        metadata={
            "help": "Summary to write. Default: results/gsoc_public.json, or results/gsoc.json of the imitation."
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared Arrow files go."})
    max_runs: int | None = field(default=None, metadata={"help": "Train at most this many networks on labels."})
    num_proc: int = field(default=2, metadata={"help": "Processes of the simulation."})


def main() -> None:
    options, parallel = HfArgumentParser([GsocArguments, ParallelArguments]).parse_args_into_dataclasses()
    folder = Path(options.output_dir or ("runs/gsoc_imitation" if options.imitate else "runs/gsoc"))
    plan = read_recipe(options.study or FOLDER / ("imitation.yaml" if options.imitate else "study.yaml"))
    check(plan, options)
    results = options.results or f"results/{'gsoc' if options.imitate else 'gsoc_public'}.json"
    data = {part: Path(getattr(options, part) or folder / part) for part in PARTS}
    if options.imitate:
        imitate(plan["simulation"], folder, data, options)
    check_files(data)
    note_recipes(plan, folder)
    missing = [one for one in trainings(plan) if not (folder / f"results/{one.name}.json").exists()]
    chosen = missing[: options.max_runs]
    print(f"\n{len(missing)} trainings to do: {', '.join(one.name for one in missing) or 'none'}")
    words = {part: ("--data_dir", data[part], *as_flags({"cache_dir": options.cache_dir})) for part in PARTS}
    # one after the other: fine-tuning needs what pre-training has made
    run_jobs(pretrainings(plan, chosen, folder, words["unlabelled"]), parallel, folder / "logs")
    try:
        run_jobs([_training(one, plan, folder, words["labelled"]) for one in chosen], parallel, folder / "logs")
    finally:  # what was measured before a failure or a SIGTERM counts
        if summary := summarise(plan, folder):
            write_record(results, {"imitation": options.imitate, "plan": plan} | summary)


def check(plan: dict, options: GsocArguments) -> None:
    """Check that a plan is complete, and that there are files or the wish to imitate them.

    Raises:
        ValueError: saying what is missing.
    """
    given = [part for part in PARTS if getattr(options, part) is not None]
    if options.imitate and given:
        raise ValueError(f"`--imitate` makes the files itself: leave out {', '.join(given)}.")
    if not options.imitate and len(given) < len(PARTS):
        lacking = " and ".join(f"`--{part}`" for part in PARTS if part not in given)
        raise ValueError(f"Pass {lacking}, the folders of the public files (docs/gsoc.md), or `--imitate`.")
    if options.max_runs is not None and options.max_runs < 0:
        raise ValueError(f"`max_runs` must be 0 or more, got {options.max_runs}.")
    kinds = {"models": list, "starts": dict, "pretraining": dict} | ({"simulation": dict} if options.imitate else {})
    if missing := [name for name, kind in kinds.items() if not isinstance(plan.get(name), kind)]:
        raise ValueError(f"The plan lacks {', '.join(missing)}, or has another form: see recipes/gsoc.")
    names = [
        *(f"{model}.json" for model in plan["models"]),
        *(f"{objective}.yaml" for objective in plan["pretraining"]),
    ]
    if missing := [name for name in names if not (FOLDER / name).is_file()]:
        raise ValueError(f"There is no recipes/gsoc/{missing[0]}, which the plan names.")
    for start, how in plan["starts"].items():
        how = how if isinstance(how, dict) else {}
        folds = how.get("folds")
        known = isinstance(folds, list) and folds and {*folds} <= {*range(SplitRule.num_folds)}
        if not known or how.get("pretraining") not in (None, *plan["pretraining"]):
            raise ValueError(
                f"The start {start} of the plan needs `folds`, a list of numbers from 0 to {SplitRule.num_folds - 1}; "
                "its `pretraining`, if given, must be one of the plan's."
            )


def note_recipes(plan: dict, folder: Path) -> None:
    """Note the recipes of all trainings and pre-trainings before the first.

    Raises:
        ValueError: if one was begun with another recipe.
    """
    common = plan.get("settings", {})
    before = {
        (model, objective): digest(FOLDER / f"{objective}.yaml", FOLDER / f"{model}.json", common | (own or {}))
        for model in plan["models"]
        for objective, own in plan["pretraining"].items()
    }
    for (model, objective), recipe in before.items():
        check_unchanged(folder / f"recipes/{model}_{objective}", recipe)
    for one in trainings(plan):
        if one.pretraining is None:
            start = FOLDER / "train.yaml", FOLDER / f"{one.model}.json"
        else:
            start = FOLDER / "finetune.yaml", before[one.model, one.pretraining]
        settings = common | plan.get("training_settings", {}) | one.settings
        check_unchanged(folder / f"recipes/{one.name}", digest(*start, settings))


def check_files(data: dict[str, Path]) -> None:
    """Check that the files are those of the task.

    Raises:
        ValueError: for other files, or labelled ones without masses or pT.
        FileNotFoundError: if there are none.
    """
    for part, folder in data.items():
        if not folder.exists():
            raise FileNotFoundError(
                f"{folder} is neither a folder nor a file: `e2evit download {DOWNLOADS[part]} --output_dir {folder}`."
            )
        schema = find_schema(part, folder)
        pieces = list_parts(schema, folder, rows=1)["full"]
        if part == "labelled":
            row = next(read_rows(pieces[0], schema))
            if lacking := [name for name in ("mass_labels", "pt") if row[name].null_count]:
                raise ValueError(f"The jets in {folder} have no {' and no '.join(lacking)}: use {FILES[part]}.")


def imitate(simulation: dict, folder: Path, data: dict[str, Path], options: GsocArguments) -> None:
    """Simulate the jets of both files, and write them."""
    for part in PARTS:
        if (data[part] / FILES[part]).exists():
            continue
        jets = folder / "simulated" / part
        run_script(
            *("scripts/simulate.py", "--output_dir", jets, "--processes", "qcd", "top"),
            *("--num_jets", simulation["num_jets"], "--seed", simulation["seeds"][part]),
            *("--num_proc", options.num_proc, *simulation["arguments"].split()),
        )
        run_script(
            *("studies/gsoc_files.py", "--data_dir", jets, "--output", data[part] / FILES[part]),
            *as_flags({"cache_dir": options.cache_dir}),
            *(["--labelled"] if part == "labelled" else []),
        )


def pretrainings(plan: dict, chosen: list[Training], folder: Path, words: tuple) -> list[Job]:
    """Those that the chosen trainings start from, as far as they are not finished."""
    jobs = []
    for model in plan["models"]:
        for objective, own in plan["pretraining"].items():
            checkpoint = folder / f"{model}_{objective}"
            needed = any(one.pretraining == objective and one.model == model for one in chosen)
            if needed and not (checkpoint / "run_info.json").exists():
                step = (
                    *("scripts/pretrain.py", FOLDER / f"{objective}.yaml", *words),
                    *as_flags(plan.get("settings", {}) | own),
                    *("--model_config", FOLDER / f"{model}.json", "--output_dir", checkpoint),
                    *("--save_steps", 500, "--resume_from_checkpoint"),
                )
                jobs.append(Job(checkpoint.name, [step]))
    return jobs


def _training(one: Training, plan: dict, folder: Path, words: tuple) -> Job:
    """A training and its measurement."""
    settings = plan.get("settings", {}) | plan.get("training_settings", {}) | one.settings
    if one.pretraining is None:
        start = (FOLDER / "train.yaml", "--model_config", FOLDER / f"{one.model}.json")
    else:
        start = (FOLDER / "finetune.yaml", "--model_name_or_path", folder / f"{one.model}_{one.pretraining}")
    checkpoint = folder / one.name
    train = (
        *("scripts/train.py", *start, *words, "--test_fold", one.fold, *as_flags(settings)),
        *("--output_dir", checkpoint, "--save_steps", 500, "--resume_from_checkpoint"),
    )
    measure = (
        *("scripts/eval.py", checkpoint, "--dataset_name", "labelled", *words, "--test_fold", one.fold),
        *("--model_name", one.name, "--results", folder / f"results/{one.name}.json"),
        *("--mixed_precision", "no"),  # the same on any machine
    )
    return Job(one.name, [train, measure])


if __name__ == "__main__":
    with one_line_errors("gsoc.py"):
        main()
