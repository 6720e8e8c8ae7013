"""Where Gradio keeps the uploads of the demo: a private folder, each file in a folder of its own, none for long."""

import atexit
import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time

__all__ = ["KEEP_SECONDS", "forget", "keep_uploads_apart", "sweep"]

KEEP_SECONDS = 600  # of an upload that nobody asked a prediction for


def keep_uploads_apart() -> None:
    """Give this process a private folder of uploads, which is swept every minute and removed at the end.

    Gradio names the folder of a file by its content, so that two visitors with the same file would share it; and what
    it keeps can be fetched by anyone who knows the path.
    """
    from gradio import route_utils

    class Upload(route_utils.GradioUploadFile):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.sha.update(secrets.token_bytes(16))

    route_utils.GradioUploadFile = Upload
    folder = tempfile.mkdtemp(prefix="e2evit-uploads-", dir=os.environ.get("GRADIO_TEMP_DIR"))
    os.environ["GRADIO_TEMP_DIR"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    threading.Thread(target=_keep_swept, args=[folder], daemon=True).start()


def forget(path: str) -> None:
    """Delete an upload and the folder that holds nothing else."""
    with contextlib.suppress(OSError):
        os.remove(path)
        os.rmdir(os.path.dirname(path))


def sweep(folder: str, seconds: float) -> None:
    """Delete uploads older than `seconds` that nobody used, and parts of interrupted uploads."""
    for parent, _, names in os.walk(folder):
        for path in (os.path.join(parent, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - os.stat(path).st_mtime > seconds:
                    forget(path)


def _keep_swept(folder: str) -> None:
    while True:
        time.sleep(60)
        sweep(folder, KEEP_SECONDS)
