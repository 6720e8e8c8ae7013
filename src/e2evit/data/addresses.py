"""Where public files lie, as the schemas tell it, and which addresses are opened at all."""

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

import httpx2
from pydantic import AfterValidator, Field, PositiveInt

from .columns import STRICT_KEYS

__all__ = ["Share", "address_of", "check_address", "check_base"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# the page of a share, as links and as browsers write it
CERNBOX = re.compile(r"https://cernbox\.cern\.ch/(?:s|index\.php/s|files/public/show|files/link/public)/(\w+)/?")
FILES_OF_CERNBOX = "https://cernbox.cern.ch/remote.php/dav/public-files"


def check_address(address: str) -> str:
    """The address itself, if it may be opened.

    Raises:
        ValueError: unless it is `https`, or `http` on this machine; or if it holds a password, which is not repeated.
    """
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise ValueError(f"{address!r} is not a valid address: {error}.") from None
    if url.userinfo:
        raise ValueError(f"The address of {url.host} contains a user name or password: leave it out.")
    if not url.host or url.scheme not in (("https", "http") if url.host in LOOPBACK else ("https",)):
        raise ValueError(f"{address} is refused: only https:// addresses are opened (http:// on this machine).")
    return address


def check_base(address: str) -> str:
    """As [`check_address`], for one that names of files are appended to: without `?` and `#`."""
    if "?" in check_address(address) or "#" in address:
        raise ValueError(f"{address} cannot be the folder of a file: leave out what follows `?` or `#`.")
    return address


def address_of(base: str, file: str) -> str:
    """The address of a file in a folder, or in a share of CERNBox, which serves files elsewhere than its page."""
    share = CERNBOX.fullmatch(base)
    return f"{f'{FILES_OF_CERNBOX}/{share[1]}' if share else base.rstrip('/')}/{quote(file)}"


def _plain(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII) or name.endswith(".part"):
        raise ValueError("a file's name has letters, digits and any of `._+-`, and no folder")
    return name


@dataclass(frozen=True)
class Share:
    """Files that lie in one place; in YAML a mapping of these fields.

    Args:
        urls: Its address: a folder, or a share of CERNBox. Further ones hold the same files.
        files: Size of each file [bytes], null where nobody knows it.
        unverified: Statements of this entry that nobody has verified.
    """

    __pydantic_config__ = STRICT_KEYS

    urls: Annotated[tuple[Annotated[str, AfterValidator(check_base)], ...], Field(min_length=1)]
    files: dict[Annotated[str, AfterValidator(_plain)], PositiveInt | None]
    unverified: tuple[str, ...] = ()
