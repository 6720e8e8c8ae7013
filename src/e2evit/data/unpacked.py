"""What packed bytes unpack to, as pipelines measure it: `modeling/unpacked_e2e.py`, loaded without its package.

Checkpoints carry that file. Its package imports torch, which processes that only prepare data do without.
"""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

_package = find_spec("e2evit.modeling")
assert _package is not None
_spec = spec_from_file_location(__name__, Path(str(_package.origin)).with_name("unpacked_e2e.py"))
assert _spec is not None
_shared = module_from_spec(_spec)
assert _spec.loader is not None
_spec.loader.exec_module(_shared)

CACHE_SLOTS, CHUNK_RATIO, MAX_UNPACKED = _shared.CACHE_SLOTS, _shared.CHUNK_RATIO, _shared.MAX_UNPACKED
CHECKED_FILTERS, COMPRESSORS, HDF5_ERRORS = _shared.CHECKED_FILTERS, _shared.COMPRESSORS, _shared.HDF5_ERRORS
chunk_length, heap_problem, mapped, page_problem = (
    _shared.chunk_length,
    _shared.heap_problem,
    _shared.mapped,
    _shared.page_problem,
)
