"""Which model should I use on my images, how sure am I, and why: vision transformers with evidence.

Public names load on first use, so that `import regard` and the command's help stay fast (no torch).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard.errors import RegardError as RegardError
    from regard.inference.loaded import LoadedModel as LoadedModel
    from regard.inference.loaded import load_model as load_model
    from regard.models.registry import create_model as create_model
    from regard.models.registry import list_models as list_models
    from regard.models.registry import register_model as register_model
    from regard.runs.run import Run as Run
    from regard.segmentation.loading import load_segmenter as load_segmenter
    from regard.taps import edit as edit
    from regard.taps import record as record
    from regard.training.recipe import Recipe as Recipe
    from regard.verbs.check import check as check
    from regard.verbs.compare import compare as compare
    from regard.verbs.distil import distil as distil
    from regard.verbs.embed import embed as embed
    from regard.verbs.evaluate import evaluate as evaluate
    from regard.verbs.explain import explain as explain
    from regard.verbs.export import export as export
    from regard.verbs.figures import figures as figures
    from regard.verbs.look import look as look
    from regard.verbs.model_sheet import model_sheet as model_sheet
    from regard.verbs.predict import predict as predict
    from regard.verbs.reproduce import reproduce as reproduce
    from regard.verbs.segment import segment as segment
    from regard.verbs.train import train as train

__version__ = "0.1.0"

_HOME = {
    "LoadedModel": "regard.inference.loaded",
    "Recipe": "regard.training.recipe",
    "RegardError": "regard.errors",
    "Run": "regard.runs.run",
    "check": "regard.verbs.check",
    "compare": "regard.verbs.compare",
    "create_model": "regard.models.registry",
    "distil": "regard.verbs.distil",
    "edit": "regard.taps",
    "embed": "regard.verbs.embed",
    "evaluate": "regard.verbs.evaluate",
    "explain": "regard.verbs.explain",
    "export": "regard.verbs.export",
    "figures": "regard.verbs.figures",
    "list_models": "regard.models.registry",
    "load_model": "regard.inference.loaded",
    "load_segmenter": "regard.segmentation.loading",
    "look": "regard.verbs.look",
    "model_sheet": "regard.verbs.model_sheet",
    "predict": "regard.verbs.predict",
    "record": "regard.taps",
    "register_model": "regard.models.registry",
    "reproduce": "regard.verbs.reproduce",
    "segment": "regard.verbs.segment",
    "train": "regard.verbs.train",
}

__all__ = [
    "LoadedModel",
    "Recipe",
    "RegardError",
    "Run",
    "check",
    "compare",
    "create_model",
    "distil",
    "edit",
    "embed",
    "evaluate",
    "explain",
    "export",
    "figures",
    "list_models",
    "load_model",
    "load_segmenter",
    "look",
    "model_sheet",
    "predict",
    "record",
    "register_model",
    "reproduce",
    "segment",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'regard' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*_HOME, "__version__"]
