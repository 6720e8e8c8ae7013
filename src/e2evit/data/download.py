"""Public files over HTTP: resumed where they were cut, checked, and never replaced by anything else."""

import logging
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

import httpx2

import e2evit

from .addresses import Share, address_of, check_address, check_base
from .archives import ARCHIVE, GZIP, check_archive
from .download_record import RECORD_FILE, Entry, read_record, write_record
from .formats import HEAD, FileError, format_of
from .hdf5_storage import open_hdf5
from .jobs import cannot_write, check_replaceable, follow
from .locks import held
from .manifest import change_of, sha256_of, sync
from .schema import SCHEMAS, DatasetSchema, read_schema
from .storage import absolute, list_files

__all__ = ["RECORD_FILE", "download", "find_download", "known_downloads"]

logger = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
MIN_BYTES, MIN_SECONDS = 2**16, 120.0  # an answer that brings less in that time is cut
ATTEMPTS = 5  # in a row that bring less than `MIN_BYTES`
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; each wait is twice the one before
ON_TERMINAL, IN_LOG = 0.5, 30.0  # seconds between two reports of progress


class _Cut(Exception):
    """The answer is not whole; another attempt may bring the rest, after the seconds that the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def known_downloads(schema: str | Path | None = None) -> dict[str, tuple[DatasetSchema, tuple[Share, ...]]]:
    """What [`download`] fetches, by name: the schema that reads the files, and where they lie.

    Args:
        schema: YAML file of a custom data set; by default all public ones.
    """
    groups = SCHEMAS.values() if schema is None else [read_schema(schema)]
    return {name: (of, shares) for group in groups for of in group for name, shares in of.downloads.items()}


def find_download(name: str, schema: str | Path | None = None) -> tuple[DatasetSchema, tuple[Share, ...]]:
    """An entry of [`known_downloads`].

    Raises:
        ValueError: for an unknown name, or a data set whose address nobody knows.
    """
    known = known_downloads(schema)
    if name in known:
        return known[name]
    if schema is None and name in SCHEMAS:
        raise ValueError(f"No address of the files of {name!r} is known. Source: {SCHEMAS[name][0].source}.")
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known ones: {', '.join(known) or 'none'}."
    raise ValueError(f"There is no download {name!r}; {hint}")


def download(
    name: str,
    output_dir: str | Path,
    *,
    files: Sequence[str] | None = None,
    url_base: str | None = None,
    schema: str | Path | None = None,
) -> list[Path]:
    """Fetch the files of a data set into `output_dir`, which [`load_e2e`] then reads.

    An interrupted call leaves `FILE.part`, which the next one resumes unless the file on the server has changed. A
    complete file has the size that server and schema state, and begins (Parquet: and ends) as its format does; the
    checksum of an archive is verified, but it is not unpacked. SHA-256 sums are kept in `downloads.json` and checked
    by the next call; a file fetched by other means is added there.

    Args:
        name: One of [`known_downloads`].
        files: Only these of its files.
        url_base: Folder they lie in, or a share of CERNBox, instead of the addresses of the schema.
        schema: YAML file of a custom data set with `downloads`.

    Returns:
        Paths of the files.

    Raises:
        ValueError: for an unknown name or file, an address that is not opened, or a folder with other files that would
            be read as the same data set.
        FileError: for a file that is damaged, or an answer that is another file, e.g. a web page.
        InUse: if another process downloads into `output_dir`.
        OSError: if the server refuses, cuts the connection again and again, or the disk is full; parts stay.
    """
    of, shares = find_download(name, schema)
    wanted = _choose(name, shares, files, url_base)
    folder = Path(absolute(output_dir))
    with held(folder):
        names = {file for share in shares for file in share.files}
        if strays := sorted({Path(path).name for path in list_files(folder, of.pattern)} - names):
            raise ValueError(
                f"{folder} holds {', '.join(strays[:5])}, which would be read together with {name}: choose another "
                "folder."
            )
        record = read_record(folder)
        missing = [file for file, (_, size, _) in wanted.items() if not _is_there(folder, record, file, size, of)]
        with _client() as client:
            for file in missing:
                _Transfer(folder, file, *wanted[file], of, record).fetch(client)
    return [folder / file for file in wanted]


def _client() -> httpx2.Client:
    def check(request: httpx2.Request) -> None:  # those of redirections, too
        check_address(str(request.url))

    headers = {"Accept-Encoding": "identity", "User-Agent": f"e2evit/{e2evit.__version__}"}  # sizes are those of files
    return httpx2.Client(headers=headers, follow_redirects=True, timeout=TIMEOUT, event_hooks={"request": [check]})


def _choose(
    name: str, shares: tuple[Share, ...], files: Sequence[str] | None, url_base: str | None
) -> dict[str, tuple[str, int | None, str]]:
    """Of each wanted file its address, its size, and what to do if it cannot be had there."""
    if url_base is not None:
        check_base(url_base)
    known = {}
    for share in shares:
        base = url_base or share.urls[0]
        others = [url for url in share.urls if url != base]
        hint = f"For another place: --url_base {' or '.join(others) or 'ADDRESS'}"
        known |= {file: (address_of(base, file), size, hint) for file, size in share.files.items()}
    if unknown := [file for file in files or () if file not in known]:
        raise ValueError(f"{name} has no {', '.join(unknown)}; its files: {', '.join(known)}.")
    return known if files is None else {file: known[file] for file in files}


def _is_there(folder: Path, record: dict[str, Entry], file: str, size: int | None, schema: DatasetSchema) -> bool:
    """Whether a file is there and undamaged; one without a hash, fetched by other means, gets it."""
    path, entry = folder / file, record.get(file)
    if not path.exists():
        return False
    check_replaceable(path)
    remedy = "Move it away and run the same command again."
    logger.info(f"{path}: already there, checked by {'SHA-256' if entry and entry.sha256 else 'size and format'}")
    if entry is not None and entry.sha256:
        if change := change_of(path, entry.size, entry.sha256):
            raise FileError(f"{path} {change}: it is not the file that was downloaded. {remedy}")
        return True
    size, held_bytes = size or (entry.size if entry else None), path.stat().st_size
    if size not in (None, held_bytes):
        raise FileError(f"{path} has {held_bytes} bytes, expected {size}. {remedy}")
    try:
        _check(path, file, schema)
    except FileError as error:
        raise FileError(f"{error} {remedy}") from None
    record[file] = replace(entry or Entry("", held_bytes), size=held_bytes, sha256=sha256_of(path))
    write_record(folder, record)
    return True


def _check(path: Path, file: str, schema: DatasetSchema) -> None:
    """Check that a file has the format of its name or schema, from its first to its last byte."""
    with path.open("rb") as opened:
        _check_format(opened.read(HEAD), str(path), file, schema)
        if _expected(file, schema) == "parquet":
            opened.seek(-4, 2)
            if opened.read() != b"PAR1":
                raise FileError(f"{path} is truncated: a Parquet file ends with PAR1.")
    if file.endswith(ARCHIVE):
        check_archive(path)
    elif schema.format == "hdf5":
        with open_hdf5(str(path)):  # which compares the end of the file with what its head says
            pass


def _check_format(head: bytes, what: str, file: str, schema: DatasetSchema) -> None:
    found = ARCHIVE if head.startswith(GZIP) else format_of(head, what)
    if found != (expected := _expected(file, schema)):
        raise FileError(f"{what} is a file of the format {found}, expected {expected}.")


def _expected(file: str, schema: DatasetSchema) -> str:
    if file.endswith(ARCHIVE):
        return ARCHIVE
    return "parquet" if schema.format == "rows" else schema.format


@dataclass
class _Transfer:
    """A file on its way from its address to its folder.

    Args:
        size: What the schema says [bytes], if it does.
        hint: What to do if the address does not have the file.
        record: All entries of the folder; it is written whenever this file's changes.
    """

    folder: Path
    file: str
    address: str
    size: int | None
    hint: str
    schema: DatasetSchema
    record: dict[str, Entry]

    @property
    def part(self) -> Path:
        return self.folder / f"{self.file}.part"

    @property
    def there(self) -> int:
        """Bytes of the part."""
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def entry(self) -> Entry | None:
        """What the part is a part of, if it is from this address."""
        entry = self.record.get(self.file)
        return entry if entry is not None and entry.url == self.address else None

    def fetch(self, client: httpx2.Client) -> None:
        """Fetch what is missing, again after each cut, until attempts bring hardly anything; check and rename it."""
        check_replaceable(self.part)
        most, failures = self.there, 0
        while self.entry is None or self.there != self.entry.size:
            try:
                self._attempt(client)
            except (_Cut, httpx2.RequestError) as error:
                failures = 1 if self.there >= most + MIN_BYTES else failures + 1
                most = max(most, self.there)
                reason = f"{self.address}: {' '.join(str(error).split()) or type(error).__name__}"
                if failures == ATTEMPTS or isinstance(error, httpx2.TooManyRedirects):
                    kept = f" {self.there} bytes are kept for the next call." * (self.there > 0)
                    raise OSError(f"{reason}.{kept} {self.hint}") from None
                wait = min(max(getattr(error, "wait", 0.0), FIRST_WAIT * 2 ** (failures - 1)), LONGEST_WAIT)
                logger.warning(f"{reason}; next attempt in {wait:.0f} s")
                time.sleep(wait)
        self._finish(self.entry)

    def _attempt(self, client: httpx2.Client) -> None:
        """One request for what is missing.

        Raises:
            _Cut: if the file is not whole afterwards.
            FileError: if the answer is another file.
            OSError: if the server refuses, or the disk is full.
        """
        start, entry, headers = self.there, self.entry, {}
        if start and entry is not None and entry.validator:
            headers = {"Range": f"bytes={start}-", "If-Range": entry.validator}
        with client.stream("GET", self.address, headers=headers) as response:
            blocks, head = _not_too_slow(response.iter_raw()), b""
            if response.status_code == 200:  # all of it, be it that ranges are not offered or the file has changed
                while len(head) < HEAD and (block := next(blocks, b"")):
                    head += block
                start, entry = 0, self._begin(response, head)
            elif not headers or entry is None or response.status_code not in (206, 416):
                raise self._refusal(response)
            elif response.status_code == 416 or not _continues(response, entry, start):
                self._forget()
                raise _Cut("the file on the server has changed; starting again")
            if (missing := entry.size - start) > (free := shutil.disk_usage(self.folder).free):
                raise OSError(f"{self.folder} has {free} bytes free, but {self.file} needs {missing}.")
            follow(self._store(chain([head], blocks), missing), self.file, "byte", entry.size, start)
        if self.there < entry.size:
            raise _Cut(f"{self.there} of {entry.size} bytes have arrived")

    def _begin(self, response: httpx2.Response, head: bytes) -> Entry:
        """Check the beginning of a file, forget the part of an earlier one, and write down whose part follows."""
        what = f"The answer of {self.address}"
        try:
            _check_format(head, what, self.file, self.schema)
        except FileError as error:
            raise FileError(f"{error} {self.hint}") from None
        told = response.headers.get("Content-Length", "")
        size = int(told) if told.isdecimal() else self.size
        if size is None:
            raise OSError(
                f"{self.address} does not state the file's size: a truncated file would go unnoticed. {self.hint}"
            )
        if self.size not in (None, size):
            raise FileError(f"{what} has {size} bytes, expected {self.size}: it is another file. {self.hint}")
        self._forget()
        entry = Entry(self.address, size, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
        self.record[self.file] = entry
        write_record(self.folder, self.record)
        return entry

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.record.pop(self.file, None)

    def _refusal(self, response: httpx2.Response) -> Exception:
        status = response.status_code
        reason = f"the server answers {status} {httpx2.codes.get_reason_phrase(status)}".rstrip()
        if status in TRANSIENT:
            asked = response.headers.get("Retry-After", "")
            return _Cut(reason, float(asked) if asked.isdecimal() else 0.0)
        login = ", login required" * (status in (401, 403))
        return OSError(f"{self.address}: {reason}{login}. {self.hint}")

    def _store(self, blocks: Iterable[bytes], missing: int) -> Iterator[int]:
        """Append to the part; now and then yield how many bytes that were."""
        pause, last, stored = ON_TERMINAL if sys.stderr.isatty() else IN_LOG, time.monotonic(), 0
        try:
            with self.part.open("ab") as file:
                for block in blocks:
                    if (missing := missing - len(block)) < 0:
                        self._forget()
                        raise FileError(f"{self.address} sends more bytes than the file has. {self.hint}")
                    file.write(block)
                    stored += len(block)
                    if time.monotonic() - last > pause:
                        yield stored
                        last, stored = time.monotonic(), 0
        except OSError as error:
            raise cannot_write(self.part, error) from error
        yield stored

    def _finish(self, entry: Entry) -> None:
        """Check the whole file, give it its name, and write down its hash."""
        path = self.folder / self.file
        logger.info(f"{path}: all {entry.size} bytes are there, its SHA-256 is computed")
        try:
            _check(self.part, self.file, self.schema)
        except FileError as error:
            self._forget()
            raise FileError(f"{error} It was removed. {self.hint}") from None
        try:
            sync(self.part)
            digest = sha256_of(self.part)
            self.part.replace(path)
            sync(self.folder)
        except OSError as error:
            raise cannot_write(path, error) from error
        self.record[self.file] = replace(entry, sha256=digest)
        write_record(self.folder, self.record)


def _not_too_slow(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks of an answer.

    Raises:
        _Cut: if they bring less than `MIN_BYTES` in `MIN_SECONDS`; a byte now and then would never time out.
    """
    since, arrived = time.monotonic(), 0
    for block in blocks:
        arrived += len(block)
        if (seconds := time.monotonic() - since) > MIN_SECONDS:
            if arrived < MIN_BYTES:
                raise _Cut(f"the server is too slow, {arrived} bytes in {seconds:.0f} s")
            since, arrived = time.monotonic(), 0
        yield block


def _continues(response: httpx2.Response, entry: Entry, start: int) -> bool:
    """Whether an answer holds the bytes after a part of the same file; some servers ignore `If-Range`."""
    told = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18})", response.headers.get("Content-Range", ""), re.ASCII)
    return (
        told is not None
        and (int(told[1]), int(told[2])) == (start, entry.size)
        and response.headers.get("ETag", entry.etag) == entry.etag
        and response.headers.get("Last-Modified", entry.last_modified) == entry.last_modified
    )
