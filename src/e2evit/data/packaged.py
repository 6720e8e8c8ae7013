"""Files that travel with the package: recipes, the template of model cards, the demo's jets."""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import e2evit

from .texts import read_mapping

__all__ = ["find_recipe", "packaged_folder", "read_recipe"]


def packaged_folder(name: str) -> Path:
    """`recipes`, `model_cards` or `space`: inside the installed package, or at the top of a clone."""
    package = Path(e2evit.__file__).parent
    return package / name if (package / name).is_dir() else package.parents[1] / name


def find_recipe(name: str | Path) -> Path:
    """A file named by its path, or by its name among the packaged recipes, such as `models/xcit_nano.json`.

    Raises:
        ValueError: if there is neither.
    """
    name = Path(name).expanduser()
    if name.is_file():
        return name
    folder = packaged_folder("recipes")
    parts = name.parts
    candidate = folder.joinpath(*parts[parts[:1] == ("recipes",) :])
    if not name.is_absolute() and candidate.is_file():
        return candidate
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".json", ".yaml"))
    close = get_close_matches(str(Path(*parts)), names, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"packaged ones are in {folder}."
    raise ValueError(f"There is no file {name}, and no packaged recipe of that name; {hint}")


def read_recipe(name: str | Path, kind: Literal["YAML", "JSON"] = "YAML") -> dict:
    """The `key: value` pairs of a file as [`find_recipe`] finds it.

    Raises:
        ValueError: if the file is missing, and as [`read_mapping`].
    """
    return read_mapping(find_recipe(name), kind)
