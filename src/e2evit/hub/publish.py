"""Folders of ours to repositories on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi

__all__ = ["publish_dataset"]

DATASET_FILES = ["README.md", "e2evit.json", "bad_rows.json", "data/*.parquet"]


def publish_dataset(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a prepared data set in one commit; files that the repository has already do not travel again.

    Args:
        folder: What `scripts/prepare_data.py` wrote.
        repo_id: `ORG/NAME`; created if it does not exist.
        private: Whether a new repository is private.
        revision: Branch; the repository's main one if not given.
        token: With the right to write; the one of `hf auth login` or `HF_TOKEN` if not given.

    Returns:
        Address of the commit.

    Raises:
        ValueError: for a folder that is not complete.
        OSError: if the Hub cannot be reached or refuses; nothing is then changed there.
    """
    folder = Path(folder)
    missing = [name for name in ("README.md", "e2evit.json") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: let `scripts/prepare_data.py` finish it first.")
    api = HfApi(token=token)
    api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=folder,
        revision=revision,
        allow_patterns=DATASET_FILES,
        delete_patterns=DATASET_FILES,  # shards of an earlier version with other names
        commit_message="Upload with e2evit",
    )
    return str(commit.commit_url)
