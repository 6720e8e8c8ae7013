"""Upload our folders to repositories on the Hub."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from .safety import check_checkpoint

__all__ = ["publish_dataset", "publish_model"]

DATASET_FILES = ["README.md", "e2evit.json", "bad_rows.json", "data/*.parquet"]
MODEL_FILES = ["README.md", "*.json", "*.yaml", "*.safetensors", "*.py", "figures/*.png"]
TRANSIENT = (429, 500, 502, 503, 504)
ATTEMPTS, LONGEST_WAIT = 4, 60.0  # seconds


def publish_dataset(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a prepared data set in one commit; files already in the repository are not uploaded again.

    Args:
        folder: What `e2evit prepare` wrote.
        repo_id: `ORG/NAME`; created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch; the repository's main one if not given. Made from main if it does not exist.
        token: A token with write access; that of `hf auth login` or `HF_TOKEN` if not given.

    Returns:
        Address of the commit.

    Raises:
        ValueError: for a folder that is not complete.
        OSError: if the Hub cannot be reached or refuses; nothing is then changed there.
    """
    folder = Path(folder)
    missing = [name for name in ("README.md", "e2evit.json") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: run `e2evit prepare` to the end first.")
    return _publish(folder, repo_id, "dataset", DATASET_FILES, private, revision, None, token)


def publish_model(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
) -> str:
    """Upload an assembled model in one commit; files already in the repository are not uploaded again.

    Args:
        folder: What [`assemble_model`] wrote.
        tag: Name for the commit; refused before any upload if the repository already has it.
        repo_id, private, revision, token: As in [`publish_dataset`].

    Returns:
        Address of the commit.

    Raises:
        ValueError: for a folder that is not complete or not safe, or a tag that exists.
        OSError: if the Hub cannot be reached or refuses; nothing is then changed there.
    """
    folder = Path(folder)
    check_checkpoint(folder)
    if not (folder / "README.md").is_file():
        raise ValueError(f"{folder} has no card: publish the checkpoint with `e2evit push`.")
    return _publish(folder, repo_id, "model", MODEL_FILES, private, revision, tag, token)


def _publish(folder, repo_id, repo_type, patterns, private, revision, tag, token) -> str:
    api = HfApi(token=token)
    where = {"repo_id": repo_id, "repo_type": repo_type}
    _persist(lambda: api.create_repo(**where, private=private, exist_ok=True))
    if tag is not None or revision is not None:
        refs = _persist(lambda: api.list_repo_refs(**where))
        if tag in [known.name for known in refs.tags]:
            raise ValueError(f"{repo_id} already has a tag {tag}: choose another name, or delete that tag first.")
        if revision is not None and revision not in [known.name for known in refs.branches]:
            _persist(lambda: api.create_branch(**where, branch=revision, exist_ok=True))
    commit = _persist(
        lambda: api.upload_folder(
            **where,
            folder_path=folder,
            revision=revision,
            allow_patterns=patterns,
            delete_patterns=patterns,  # files of an earlier version with other names
            commit_message="Upload with e2evit",
        )
    )
    if tag is not None:
        _persist(lambda: api.create_tag(**where, tag=tag, revision=commit.oid))
    return str(commit.commit_url)


def _persist(request: Callable):
    """The result of `request`, retried while the Hub is overloaded or briefly broken.

    The client itself retries uploads and commits; this covers requests that it makes once, and those it has given up.
    """
    for attempt in itertools.count(1):
        try:
            return request()
        except RuntimeError as error:  # of an upload; the client says what happened in its cause
            raise OSError(f"{error} {error.__cause__ or ''}".strip()) from error
        except HfHubHTTPError as error:
            status = None if error.response is None else error.response.status_code
            if status not in TRANSIENT or attempt == ATTEMPTS:
                raise
            asked = error.response.headers.get("Retry-After", "")
            time.sleep(min(float(asked) if asked.isdigit() else 2.0**attempt, LONGEST_WAIT))
