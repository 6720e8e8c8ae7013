"""Download the files of a public E2E data set; without arguments, list what there is.

examples:
  e2evit download
  e2evit download unlabelled --output_dir downloads/unlabelled
  e2evit download top_mass --output_dir downloads/top_mass --files top_gun_opendata_0.parquet
  e2evit download labelled --output_dir downloads/labelled --url_base https://portal.nersc.gov/cfs/m4392/G25

Run the same command again to resume after an interruption, or to check the files that are there. A file that cannot
be downloaded is never replaced by another.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from e2evit.data.archives import ARCHIVE
from e2evit.data.download import download, find_download, known_downloads

from .parser import parse

NAME = ("name", f"One of {', '.join(known_downloads())}, or a name in your `--schema`.")


@dataclass
class DownloadArguments:
    output_dir: str = HfArg(help="Folder of the files, which `load_e2e` then reads.")
    files: list[str] | None = HfArg(default=None, help="Only these files.")
    url_base: str | None = HfArg(
        default=None, help="Folder on a server, or share of CERNBox, with the files: a mirror, or a renewed link."
    )
    schema: str | None = HfArg(default=None, help="YAML schema of a custom data set with `downloads`.")


def main(arguments: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("e2evit.data.download").setLevel(logging.INFO)
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print("\n\n".join(map(describe, known_downloads())))
        return
    name, options = parse("e2evit download", __doc__, arguments, DownloadArguments, first=NAME)
    paths = download(name, **vars(options))
    schema, _ = find_download(name, options.schema)
    folder, own = paths[0].parent, options.schema
    print(f"{len(paths)} {'file' if len(paths) == 1 else 'files'} of {name} in {folder}")
    if archives := [path for path in paths if path.name.endswith(ARCHIVE)]:
        print("\n".join(f"Unpack it: tar -xzf {path} -C {folder}" for path in archives))
        return
    print(f"Next: e2evit inspect {paths[0]}" + (f" --schema {own}" if own else ""))
    print(f'From Python: load_e2e("{schema.name}", "{folder}"' + (f', schema="{own}")' if own else ")"))


def describe(name: str) -> str:
    """A paragraph on one of the downloads."""
    schema, shares = find_download(name)
    lines = [f"{name} (data set {schema.name}): {schema.description}"]
    for share in shares:
        lines.append(f"  from {' or '.join(share.urls)}")
        for file, size in share.files.items():
            lines.append(f"    {file} ({f'{size / 1e9:.3g} GB' if size else 'size unknown'})")
        lines.append(f"    unverified: {'; '.join(share.unverified)}")
    return "\n".join(lines)
