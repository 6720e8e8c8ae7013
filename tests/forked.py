"""`run_python`: Python programs in processes that need not import torch and transformers again, which takes seconds.

A server, one for each test process and list of modules, imports them once and forks for every program.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRELOADED = ("e2evit.training", "e2evit.hub.assemble", "e2evit.plots", "e2evit.baselines.boosted_trees")
# for programs that import transformers and e2evit themselves, in whatever environment: none of these reads it
LIBRARIES = ("torch", "torch._dynamo", "h5py", "pandas", "pyarrow.parquet", "scipy.stats", "sklearn.ensemble")
LIBRARIES += ("matplotlib.pyplot", "PIL.Image")
# a study and a second call of it, which need not start the server of its steps again
TWICE = """
import runpy, sys
sys.path.insert(0, "studies")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("second call", flush=True)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SEARCHED = [folder for folder in sys.path if folder != str(Path(__file__).parent)]
_servers: dict[tuple[str, ...], subprocess.Popen] = {}


def run_python(*command, cwd=ROOT, env=None, preloaded=PRELOADED) -> subprocess.CompletedProcess:
    """As `subprocess.run([sys.executable, *command], capture_output=True, text=True)`.

    Variables that a library reads when it is imported, such as `HF_HOME`, do not reach those that are `preloaded`.
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
    subprocess.Popen._execute_child = _fork_program
    for line in sys.stdin:
        request = json.loads(line)
        folder = request.pop("folder")
        pid = os.fork()
        if pid == 0:
            outputs = [os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT) for name in ("stdout", "stderr")]
            _become(**request, streams=[os.open(os.devnull, os.O_RDONLY), *outputs])
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


_start_program = subprocess.Popen._execute_child


def _fork_program(popen, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startup, flags, shell, *options):
    """In place of `Popen`'s method: scripts that a program starts, such as a launcher, fork from it."""
    words = [] if isinstance(args, (str, bytes, os.PathLike)) else [os.fspath(word) for word in args if word != "-u"]
    is_script = words[:1] == [sys.executable] and len(words) > 1 and words[1].endswith(".py")
    if not is_script or os.environ.get("OMP_NUM_THREADS") != "1":  # OpenMP's threads do not survive a fork
        start = (executable, preexec_fn, close_fds, pass_fds, cwd, env, startup, flags, shell)
        return _start_program(popen, args, *start, *options)
    pipes, starts_session = options[:6], options[11]
    popen.pid = os.fork()
    if popen.pid == 0:
        if starts_session:
            os.setsid()
        for end in pipes[1], pipes[2], pipes[4]:  # the other program's
            if end != -1:
                os.close(end)
        streams = [pipes[0], pipes[3], pipes[5]]
        _become(words[1:], os.getcwd() if cwd is None else cwd, dict(os.environ if env is None else env), streams)
    popen._child_created = True
    return popen._close_pipe_fds(*pipes)


def _become(words: list[str], cwd: str, env: dict[str, str], streams: list[int]) -> None:
    """Do what `python words...` does, and end this process; streams of -1 stay."""
    for stream, file in enumerate(streams):
        if file != -1:
            os.dup2(file, stream)
    for file in {file for file in streams if file > 2}:
        os.close(file)
    # what the program that forked would do when it ends
    atexit._clear()
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
    sys.path[:] = SEARCHED
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
