"""`run_python`: Python programs in processes that need not import torch and transformers again, which takes seconds.

A server, one for each test process and list of modules, imports them once and forks for every program.
"""

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRELOADED = ("e2evit.training", "e2evit.hub.assemble", "e2evit.plots", "e2evit.baselines.boosted_trees")
# what transformers imports, for programs that import it and e2evit themselves
LIBRARIES = ("torch", "accelerate", "datasets", "h5py", "safetensors.torch", "tokenizers", "PIL.Image")
_servers: dict[tuple[str, ...], subprocess.Popen] = {}


def run_python(*command, cwd=ROOT, env=None, preloaded=PRELOADED) -> subprocess.CompletedProcess:
    """As `subprocess.run([sys.executable, *command], capture_output=True, text=True)`.

    Variables that a library reads when it is imported, such as `HF_HOME`, have no effect: start those programs afresh.
    """
    words = [str(word) for word in command]
    if preloaded not in _servers:
        start = [sys.executable, __file__, *preloaded]
        _servers[preloaded] = subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(_servers[preloaded].stdin.close)  # at the end of its input, the server ends
    server = _servers[preloaded]
    with tempfile.TemporaryDirectory() as folder:
        request = {"words": words, "cwd": str(cwd), "env": dict(os.environ if env is None else env), "folder": folder}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        returncode = int(server.stdout.readline())
        outputs = [Path(folder, name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess([sys.executable, *words], returncode, *outputs)


def _serve() -> None:
    """Fork for each request, and answer with the exit code of the new process."""
    for module in sys.argv[1:]:
        __import__(module)
    gc.freeze()  # a collection in a new process would copy all pages
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(words: list[str], cwd: str, env: dict[str, str], folder: str) -> None:
    """Do what `python words...` does, and end this process."""
    for stream, name in ((0, os.devnull), (1, f"{folder}/stdout"), (2, f"{folder}/stderr")):
        file = os.open(name, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    code = 0
    try:
        _run(words, cwd)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else end.code is not None
        if code and end.code is not code:
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take the interpreter down would copy all pages, too


def _run(words: list[str], cwd: str) -> None:
    sys.path.remove(str(Path(__file__).parent))
    first, *sys.argv = words if words[0] in ("-c", "-m") else ("", *words)
    sys.path.insert(0, cwd if first else str(Path(sys.argv[0]).parent.resolve()))
    if first == "-m":
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        code, sys.argv[0] = sys.argv[0], "-c"
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(os.path.abspath(sys.argv[0]), run_name="__main__")  # `__file__` is absolute, as in Python


if __name__ == "__main__":
    _serve()
