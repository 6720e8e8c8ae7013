"""Upload our folders to repositories on the Hub: in one commit, or not at all."""

import json
import logging
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from e2evit.data.prepare import MANIFEST_FILE
from e2evit.data.progress import damaged_shards
from e2evit.data.storage import absolute

from .connection import Requests, open_requests
from .safety import (
    DATASET_FILES,
    MODEL_FILES,
    REPLACED_FILES,
    check_checkpoint,
    check_dataset,
    check_finite,
    find_files,
)

__all__ = ["publish_dataset", "publish_model"]

logger = logging.getLogger(__name__)
NOWHERE = "0" * 40  # no commit has this name
# what `git check-ref-format` refuses
_NO_TAG = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|[./]$|^[-./]|^(?:@|HEAD)?$", re.DOTALL)


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
        private: Create a private repository; one that exists must be private.
        revision: Branch; the repository's main one if not given. Made from main if it does not exist.
        token: A token with write access; that of `hf auth login` or `HF_TOKEN` if not given.

    Returns:
        Address of the commit.

    Raises:
        ValueError: for a folder that is not complete or holds what must not be published, a `repo_id` that cannot be
            one, or `private` and a public repository.
        OSError: if the Hub cannot be reached, does not answer in time, or refuses. Nothing is then changed there, or
            the message says what was left behind and how to remove it.
    """
    folder = Path(absolute(folder))
    missing = [name for name in ("README.md", MANIFEST_FILE) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: run `e2evit prepare` to the end first.")
    names = check_dataset(folder)
    _check_shards(folder, names)
    return _Upload(folder, names, DATASET_FILES, repo_id, "dataset", revision, token).run(private, None)


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
        folder: What [`assemble_model`] wrote. Files of an earlier version that it lacks are deleted from the
            repository; scores that others contributed stay.
        tag: Name for the commit; refused before any upload if the repository already has it or the token may not tag.
        repo_id, private, revision, token: As in [`publish_dataset`].

    Returns:
        Address of the commit.

    Raises:
        ValueError: for a folder that is not complete or not safe, a tag that exists or that git does not allow, a
            `repo_id` that cannot be one, or `private` and a public repository.
        OSError: as in [`publish_dataset`]. If only the tag fails in the end, the commit stays; the message says how to
            tag it.
    """
    if tag is not None and _NO_TAG.search(tag):
        raise ValueError(f"{tag!r} cannot be a tag in git: use letters, digits, `.`, `-` and `_`, as in `v1.0`.")
    folder = Path(absolute(folder))
    check_checkpoint(folder)
    check_finite(folder / "model.safetensors")
    if not (folder / "README.md").is_file():
        raise ValueError(f"{folder} has no card: publish the checkpoint with `e2evit push`.")
    return _Upload(folder, find_files(folder, MODEL_FILES), REPLACED_FILES, repo_id, "model", revision, token).run(
        private, tag
    )


def _check_shards(folder: Path, names: list[str]) -> None:
    """Refuse a data set that is not what its record says; rows that are not uploaded are deleted on the Hub.

    Raises:
        ValueError: for shards that are missing, changed or not listed.
    """
    try:
        record = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        shards = [shard for shards in record["shards"].values() for shard in shards]
        listed = {f"data/{shard['file']}" for shard in shards}
        lacking = damaged_shards(folder, shards)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST_FILE} is damaged: it lists no shards ({error!r}).") from None
    if lacking or not listed:
        raise ValueError(
            f"{folder} lacks {', '.join(lacking) or 'rows'}, which {MANIFEST_FILE} lists, or holds another version: "
            "restore it, or prepare the data set again."
        )
    if strays := [name for name in names if name.startswith("data/") and name not in listed]:
        raise ValueError(f"{folder} holds {', '.join(strays)}, which {MANIFEST_FILE} does not list: move it away.")


class _Upload:
    """One upload to a repository; knows what was there before and what it has made since."""

    def __init__(self, folder: Path, files: list[str], patterns, repo_id: str, kind: str, revision: str | None, token):
        validate_repo_id(repo_id)
        self.folder, self.files, self.patterns = folder, files, patterns
        self.repo_id, self.branch, self.token = repo_id, revision or "main", token
        self.api, self.where = HfApi(token=token), {"repo_id": repo_id, "repo_type": kind}
        self.option = "" if kind == "model" else f" --type {kind}"  # of the commands in messages
        # commits by branch and tag; None without a repository
        self.before: dict[str, str] | None = None
        self.start: dict[str, str] = {}  # once repository and branch exist
        self.made_repository = self.made_branch = False
        self.advice = ""

    def run(self, private: bool, tag: str | None) -> str:
        """The address of the commit."""
        with open_requests(self.token) as requests:
            try:
                self._check(requests, private, tag)
            except OSError as error:
                raise OSError(f"{self.repo_id} was not published: {error} Nothing was changed there.") from None
            try:
                commit = self._upload(requests, private, tag)
            except OSError as error:
                raise OSError(f"{self.repo_id} was not published: {error} {self._take_back(requests)}") from None
            except BaseException:  # an interrupt
                logger.warning(self._take_back(requests))
                raise
            try:
                if tag is not None:
                    requests(lambda: self._tag(tag, commit.oid))
            except OSError as error:
                raise OSError(
                    f"{self.repo_id} was published, but its commit {commit.oid} has no tag {tag}: {error} Tag it with "
                    f"`hf repos tag create {self.repo_id} {tag} --revision {commit.oid}{self.option}`."
                ) from None
            return str(commit.commit_url)

    def _heads(self) -> dict[str, str] | None:
        """Commits by branch and tag; None if there is no repository that the token may see."""
        try:
            refs = self.api.list_repo_refs(**self.where)
        except RepositoryNotFoundError:
            return None
        return {ref.ref: ref.target_commit for ref in (*refs.branches, *refs.tags)}

    def _check(self, requests: Requests, private: bool, tag: str | None) -> None:
        self.before = requests(self._heads)
        if self.before is None:
            return
        if tag is not None and f"refs/tags/{tag}" in self.before:
            raise ValueError(f"{self.repo_id} already has a tag {tag}: choose another name, or delete that tag first.")
        if private and not requests(lambda: self.api.repo_info(**self.where)).private:
            raise ValueError(
                f"{self.repo_id} exists and is public, but `private` is for new repositories. Hide it first: "
                f"`hf repos settings {self.repo_id} --private{self.option}`."
            )

    def _upload(self, requests: Requests, private: bool, tag: str | None) -> CommitInfo:
        if self.before is None:
            self.made_repository = requests(
                lambda: _is_new(lambda: self.api.create_repo(**self.where, private=private))
            )
            self.start = requests(self._heads) or {}
        else:
            self.start = self.before
        if self._ref not in self.start:
            self.made_branch = requests(
                lambda: _is_new(lambda: self.api.create_branch(**self.where, branch=self.branch))
            )
            self.start = requests(self._heads) or {}
        if tag is not None:
            try:
                requests(lambda: self._ask_for_tag(tag))
            except OSError:  # the user's next try is without a tag
                self.made_repository, self.advice = False, ", or publish without a tag"
                raise
        return requests(self._commit)

    @property
    def _ref(self) -> str:
        return f"refs/heads/{self.branch}"

    def _ask_for_tag(self, tag: str) -> None:
        """Tag a commit that does not exist: a Hub that would refuse the tag says so before anything is uploaded."""
        try:
            self.api.create_tag(**self.where, tag=tag, revision=NOWHERE)
        except HfHubHTTPError as error:
            if error.response.status_code not in (400, 404):  # no such commit
                raise

    def _commit(self) -> CommitInfo:
        """All files at once: the client's `upload_folder` makes a commit for each part of a large folder."""
        there = self.api.list_repo_files(**self.where, revision=self.branch)
        old = [name for name in there if any(fnmatch(name, known) for known in self.patterns)]  # of an earlier version
        additions = [CommitOperationAdd(name, self.folder / name) for name in self.files]
        deletions = [CommitOperationDelete(name) for name in old if name not in self.files]
        return self.api.create_commit(
            **self.where,
            operations=[*additions, *deletions],
            revision=self.branch,
            commit_message="Upload with e2evit",
        )

    def _tag(self, tag: str, commit: str) -> None:
        refused = None
        try:
            self.api.create_tag(**self.where, tag=tag, revision=commit)
        except HfHubHTTPError as error:
            refused = error
        if (self._heads() or {}).get(f"refs/tags/{tag}") != commit:  # an answer may be lost, or not be the Hub's
            raise refused or OSError("The Hub accepted the tag but does not list it.")

    def _take_back(self, requests: Requests) -> str:
        """Remove what this upload made, if nobody has used it since; a sentence on what is left."""
        if self.before is None:
            what, command = f"the repository {self.repo_id}", f"hf repos delete {self.repo_id}{self.option}"
            mine, remove = self.made_repository, lambda: self.api.delete_repo(**self.where)
        elif self._ref not in self.before:
            what = f"the branch {self.branch}"
            command = f"hf repos branch delete {self.repo_id} {self.branch}{self.option}"
            mine, remove = self.made_branch, lambda: self.api.delete_branch(**self.where, branch=self.branch)
        else:
            what, command = f"a commit on {self.branch}", "git revert"
            mine, remove = False, None
        reason = ""
        try:
            now, before = requests(self._heads), self.before
            if now == before or (before and now and now.get(self._ref) == before.get(self._ref)):
                return "Nothing was changed there."
            if mine and set((now or {}).values()) <= set(self.start.values()):
                requests(remove)
                return f"Nothing was changed there: {what}, made for it, was removed again."
            what += " was left behind"
        except OSError as error:
            reason, what = f" ({error})", what + " may have been left behind"
        return f"{what[0].upper()}{what[1:]}{reason}: if this upload made it, undo it with `{command}`{self.advice}."


def _is_new(make: Callable) -> bool:
    """Whether `make` made what it makes; what is there already may be someone else's."""
    try:
        make()
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        return False
    return True
