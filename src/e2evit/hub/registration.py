"""`import e2evit` makes its models known to transformers, and imports neither transformers nor torch.

Registering at once would cost each process that only prepares data 300 MB. The models are registered at the end of the
first import that loads transformers' Auto classes, whichever it is; not before, because its modules import each other.
"""

import sys
import threading
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType

__all__ = ["register_when_needed"]

AUTO_CLASSES = "transformers.models.auto.configuration_auto"  # what all of them import


def register_when_needed() -> None:
    """Register the models now if transformers' Auto classes are in use already, otherwise as soon as they are."""
    if AUTO_CLASSES in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterImports())


def _register() -> None:
    import_module("e2evit.modeling")


class _AfterImports(MetaPathFinder):
    """Registers the models after the first import of transformers' modules that loads the Auto classes."""

    def __init__(self):
        self.importing = threading.local()  # names of the modules that a thread is in the middle of

    def find_spec(self, fullname, path=None, target=None):
        names = self.importing.__dict__.setdefault("names", [])
        if fullname.partition(".")[0] != "transformers" or fullname in names:
            return None
        names.append(fullname)
        try:
            spec = find_spec(fullname)  # by the other finders
        finally:
            names.remove(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            names.append(fullname)
            try:
                execute(module)
            finally:
                names.remove(fullname)
            if not names and AUTO_CLASSES in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        spec.loader.exec_module = execute_and_register
        return spec
