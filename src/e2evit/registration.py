"""`import e2evit` makes its models known to transformers, and imports neither transformers nor torch.

The models are registered when somebody first takes an Auto class or `pipeline` from transformers. Registering earlier
would cost the processes that only prepare data 300 MB each; registering while transformers' own modules import each
other would make them import the models in turn.
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
    if transformers is not None and any(map(_needs_models, vars(transformers))):
        _register()
        return
    sys.meta_path.insert(0, _AfterImport())
    if transformers is not None:
        _watch(transformers)


def _needs_models(name: str) -> bool:
    return name.startswith(("Auto", "pipeline"))


def _register(module: ModuleType | None = None) -> None:
    import_module("e2evit.modeling")


def _watch(transformers: ModuleType) -> None:
    """Python asks a module's own `__getattr__` first for names that are not there yet; then its class's."""

    def register_first(name: str):
        if _needs_models(name):
            vars(transformers).pop("__getattr__", None)
            _register()
        raise AttributeError(name)

    vars(transformers)["__getattr__"] = register_first


class _AfterImport(MetaPathFinder):
    """Calls a function of each of these modules once it is imported."""

    def __init__(self):
        self.functions = {"transformers": _watch, "transformers.pipelines": _register}

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
