"""Assemble the kernels of `modeling/kernels` as a project of Hugging Face's kernel-builder, and build them here.

    python deploy/kernels/make.py build/kernels           # the project
    python deploy/kernels/make.py build/kernels --build   # and a build for this PyTorch

    from kernels import get_local_kernel
    amx = get_local_kernel(Path("build/kernels"))

The build is for this machine: only kernel-builder makes libraries old enough for the Hub. It needs a C++ compiler that
knows AMX (GCC 11) and Python's headers.
"""

import argparse
import base64
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "modeling/kernels"
NAME = "e2evit_amx"
MARK = ".made_by_e2evit"  # of folders that may be written again
# what kernel-builder generates, too
REGISTRATION = """#pragma once
#include <Python.h>
#define E2EVIT_JOINED(a, b) a##b
#define E2EVIT_JOIN(a, b) E2EVIT_JOINED(a, b)
#define E2EVIT_TEXT_OF(a) #a
#define E2EVIT_TEXT(a) E2EVIT_TEXT_OF(a)
#define REGISTER_EXTENSION(NAME)                                                                     \\
  PyMODINIT_FUNC E2EVIT_JOIN(PyInit_, NAME)() {                                                      \\
    static PyModuleDef module{PyModuleDef_HEAD_INIT, E2EVIT_TEXT(NAME), nullptr, 0, nullptr};        \\
    return PyModule_Create(&module);                                                                 \\
  }
"""
OPERATORS = """import torch
from . import {id}

ops = torch.ops.{id}


def add_op_namespace_prefix(name):
    return f"{id}::{{name}}"
"""


def assemble(folder: Path) -> Path:
    """The project in a folder: its own files and the kernels.

    Raises:
        ValueError: for a folder that holds anything else.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).is_file() or not any(folder.iterdir()))):
        raise ValueError(f"{folder} holds other files: choose a new folder, or one that this script has made.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    for name in ("build.toml", "flake.nix", "README.md"):
        shutil.copyfile(HERE / name, folder / name)
    for source, target in ((HERE / "torch-ext", "torch-ext"), (SOURCES, "kernels")):
        shutil.rmtree(folder / target, ignore_errors=True)
        shutil.copytree(source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def variant_name() -> str:
    """The folder of a build for this PyTorch, as `kernels` looks for it."""
    import torch

    major, minor = torch.__version__.split(".")[:2]
    return f"torch{major}{minor}-cxx11-cpu-{platform.machine()}-{platform.system().lower()}"


def build(folder: Path) -> Path:
    """Compile the project's kernels for this PyTorch; the build appears whole or not at all.

    Raises:
        subprocess.CalledProcessError: with the compiler's messages in `stderr`.
    """
    import torch
    from torch.utils import cpp_extension

    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".h", ".cpp", ".py", ".toml")]
    sources = [path for path in files if "build" not in path.relative_to(folder).parts]
    digest = sha256(b"".join([torch.__version__.encode(), *(path.read_bytes() for path in sources)])).hexdigest()[:8]
    name = f"_{NAME}_cpu_{digest}"  # of the module and of its operators
    flags = ["-std=c++20", "-fPIC", f"-DTORCH_EXTENSION_NAME={name}", "-DPy_LIMITED_API=0x03090000"]
    paths = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
    flags += [f"-isystem{path}" for path in paths]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-lc10", "-ltorch_cpu"]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work, variant = Path(temporary), Path(temporary, "variant")
        shutil.copytree(folder / "torch-ext" / NAME, variant)
        (work / "registration.h").write_text(REGISTRATION, encoding="utf-8")
        (variant / "_ops.py").write_text(OPERATORS.format(id=name), encoding="utf-8")
        compiler = cpp_extension.get_cxx_compiler()
        for source, own in (("torch-ext/torch_binding.cpp", []), ("kernels/kernels.cpp", _cxx_flags(folder))):
            target = work / f"{Path(source).stem}.o"
            _run([compiler, *flags, *own, "-I", work, "-c", folder / source, "-o", target])
        # linking with OpenMP would add a second runtime, with its own threads
        objects = [work / "torch_binding.o", work / "kernels.o"]
        _run([compiler, "-shared", *objects, *libraries, "-o", variant / f"{name}.abi3.so"])
        (variant / "metadata.json").write_text(json.dumps(_metadata(name, variant), indent=2) + "\n", encoding="utf-8")
        target = folder / "build" / variant_name()
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        return variant.rename(target)


def _cxx_flags(folder: Path) -> list[str]:
    """Those of `build.toml`; Python 3.10 cannot read TOML."""
    (listed,) = re.findall(r"cxx-flags = \[(.*?)\]", (folder / "build.toml").read_text(encoding="utf-8"), re.DOTALL)
    return re.findall(r'"(.*?)"', listed)


def _metadata(name: str, variant: Path) -> dict:
    """What `kernels` reads; see https://huggingface.co/docs/kernels/kernel-requirements."""
    hashes = {
        str(path.relative_to(variant)): base64.b64encode(sha256(path.read_bytes()).digest()).decode()
        for path in sorted(variant.rglob("*"))
        if path.is_file()
    }
    return {
        "id": name,
        "name": NAME.replace("_", "-"),
        "version": 0,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": "cpu"},
        "digest": {"algorithm": "sha256", "files": hashes},
    }


def _run(command: list) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the project")
    parser.add_argument("--build", action="store_true", help="compile it for this PyTorch, which takes half a minute")
    arguments = parser.parse_args()
    try:
        folder = assemble(arguments.folder)
    except (OSError, ValueError) as error:
        sys.exit(f"make.py: {error}")
    print(f"Wrote {folder}, a project for kernel-builder")
    if arguments.build:
        try:
            print(f"Wrote {build(folder)}, which kernels.get_local_kernel loads")
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"make.py: the kernels were not built. {getattr(error, 'stderr', None) or error}")


if __name__ == "__main__":
    main()
