"""`import e2evit` makes its models known to transformers, and imports neither transformers nor torch.

The models are registered when an Auto class or `pipeline` is first taken from transformers. Registering at once would
cost each process that only prepares data 300 MB; registering while transformers' own modules import each other would
close a circle of imports.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType

__all__ = ["register_when_needed"]


def register_when_needed() -> None:
    """Register the models now if transformers is in use already, otherwise as soon as it is."""
    transformers = sys.modules.get("transformers")
    if "transformers.models.auto.configuration_auto" in sys.modules:
        _register()
        return
    sys.meta_path.insert(0, _AfterImport())
    if transformers is not None:
        _watch(transformers)


def _needs_models(name: str) -> bool:
    return name.startswith(("Auto", "pipeline"))


def _register() -> None:
    import_module("e2evit.modeling")


def _watch(transformers: ModuleType) -> None:
    """Register at the first access to a name that needs the models.

    Python asks the `__getattr__` in the module's dictionary before that of its class, which imports the name.
    """

    def register_first(name: str):
        if _needs_models(name):
            vars(transformers).pop("__getattr__", None)
            _register()
        raise AttributeError(name)

    vars(transformers)["__getattr__"] = register_first


class _AfterImport(MetaPathFinder):
    """Calls a function once for each of these modules, after its import."""

    def __init__(self):
        self.functions = {"transformers": _watch, "transformers.pipelines": lambda _: _register()}

    def find_spec(self, fullname, path=None, target=None):
        function = self.functions.pop(fullname, None)
        spec = None if function is None else find_spec(fullname)  # by the other finders
        if spec is None or spec.loader is None or function is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            function(sys.modules[fullname])  # transformers replaces itself there

        spec.loader.exec_module = execute_and_call
        return spec
