"""A disk that is full."""

import resource
from contextlib import contextmanager

__all__ = ["full_disk"]


@contextmanager
def full_disk(limit):
    """A limit on the size of files, in bytes, stands in for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
