"""Names used in papers and other libraries, for errors that suggest the name used here."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Container, Iterable, Mapping, MutableMapping
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from torch import nn

Init = TypeVar("Init", bound=Callable[..., None])

#: Names from papers and other libraries, in lower case without underscores and a trailing "loss".
OTHER_NAMES: Mapping[str, str] = {
    "dan": "losses.MMDLoss",
    "ddc": "losses.MMDLoss",
    "mkmmd": "losses.MMDLoss",
    "multiplekernelmaximummeandiscrepancy": "losses.MMDLoss",
    "maximummeandiscrepancy": "losses.MMDLoss",
    "jan": "losses.JointMMDLoss",
    "jmmd": "losses.JointMMDLoss",
    "jointmultiplekernelmaximummeandiscrepancy": "losses.JointMMDLoss",
    "dsan": "losses.LocalMMDLoss",
    "lmmd": "losses.LocalMMDLoss",
    "can": "losses.ContrastiveDomainDiscrepancyLoss",
    "cdd": "losses.ContrastiveDomainDiscrepancyLoss",
    "deepcoral": "losses.CORALLoss",
    "correlationalignment": "losses.CORALLoss",
    "cmd": "losses.CentralMomentDiscrepancyLoss",
    "homm": "losses.HigherOrderMomentLoss",
    "swd": "losses.SlicedWassersteinLoss",
    "sinkhorn": "losses.SinkhornDivergenceLoss",
    "dann": "losses.DomainAdversarialLoss",
    "revgrad": "losses.DomainAdversarialLoss",
    "cdan": "losses.ConditionalAdversarialLoss",
    "conditionaldomainadversarial": "losses.ConditionalAdversarialLoss",
    "mdd": "losses.MarginDisparityLoss",
    "mcd": "losses.ClassifierDiscrepancyLoss",
    "afn": "losses.AdaptiveFeatureNormLoss",
    "safn": "losses.AdaptiveFeatureNormLoss",
    "mcc": "losses.MinimumClassConfusionLoss",
    "bnm": "losses.BatchNuclearNormLoss",
    "minent": "losses.EntropyLoss",
    "shot": "losses.InformationMaximisationLoss",
    "clip": "losses.InfoNCELoss",
    "itc": "losses.InfoNCELoss",
    "simclr": "losses.NTXentLoss",
    "siglip": "losses.SigmoidContrastiveLoss",
    "supcon": "losses.SupervisedContrastiveLoss",
    "cka": "losses.KernelAlignmentLoss",
    "fid": "losses.FrechetDistanceLoss",
    "barlowtwins": "losses.CrossCorrelationLoss",
    "vicreg": "losses.VarianceCovarianceLoss",
    "vat": "losses.VirtualAdversarialLoss",
    "wdgrl": "losses.WassersteinCriticLoss",
    "deepjdot": "losses.JointTransportLoss",
    "grl": "layers.GradientReversal",
    "gradientreversallayer": "layers.GradientReversal",
    "gradientreverselayer": "layers.GradientReversal",
    "domainclassifier": "layers.DomainDiscriminator",
    "dsbn": "layers.DomainSpecificBatchNorm2d",
    "adabn": "layers.adapt_batch_norm",
    "memorybank": "layers.MemoryBank",
    "rbf": "kernels.Gaussian",
    "rbfkernel": "kernels.Gaussian",
    "gaussiankernel": "kernels.Gaussian",
    "cca": "linear.CCA",
    "mmcda": "models.mmcda.MMCDA",
}

#: Arguments of other libraries and what to use instead.
OTHER_ARGUMENTS: Mapping[str, str] = {
    "alpha": "multiply the loss by a weight in your own sum, or see `strength` of an adversary",
    "weight": "pass row weights in the call, as loss(source, target, source_weight=...)",
    "reduction": "losses return one scalar; pass row weights in the call",
    "kernel_mul": "bandwidths belong to the kernel: kernel=Gaussian(scales=(0.25, 0.5, 1, 2, 4))",
    "kernel_num": "bandwidths belong to the kernel: kernel=Gaussian(scales=(0.25, 0.5, 1, 2, 4))",
    "fix_sigma": "the bandwidth belongs to the kernel: kernel=Gaussian(bandwidth)",
    "sigma": "the bandwidth belongs to the kernel: kernel=Gaussian(bandwidth)",
    "gamma": "exp(-gamma d^2) is Gaussian((2 * gamma) ** -0.5, scales=(1.0,))",
    "kernel_type": "pass a kernel object: kernel=Gaussian(...)",
    "kernels": "several bandwidths are one kernel: kernel=Gaussian(scales=...)",
    "tau": "it is called temperature",
    "t": "it is called temperature",
    "lambda_": "it is called strength",
}

#: What other libraries take in a call and what to use instead.
OTHER_IN_CALLS: Mapping[str, str] = {
    "weight": "each side has its own: source_weight=, target_weight=",
    "weights": "each side has its own: source_weight=, target_weight=",
    "mask": "each side has its own: source_mask=, target_mask=",
    "reduction": "losses return one scalar; pass row weights",
    "strength": "it belongs to the gradient reversal in front of the discriminator: the module has `set_strength`",
    "alpha": "multiply the loss by a weight in your own sum; an adversary's module has `set_strength`",
    "lambda_": "multiply the loss by a weight in your own sum; an adversary's module has `set_strength`",
    "labels": "class-conditional losses such as local_mmd_loss take source_labels= and target_probabilities=",
}


def unknown_name(module: str, name: str, homes: Iterable[ModuleType]) -> AttributeError:
    """The error of a module's ``__getattr__``, with a suggestion if the name is known.

    ``homes``: modules in which the name may be public.
    """
    plain = name.replace("_", "").lower()
    other = OTHER_NAMES.get(plain) or OTHER_NAMES.get(plain.removesuffix("loss"))
    hint = ""
    home = next((home for home in homes if not name.startswith("_") and name in vars(home)), None)
    if home is not None:
        hint = f"; it is {home.__name__}.{name}"
    elif other is not None:
        hint = f"; it is called mmda.{other} here"
    return AttributeError(f"module {module!r} has no attribute {name!r}{hint}", name=name)


def hint_settings(exported: Iterable[object]) -> None:
    """Make the library's classes among these objects suggest alternatives in errors about unknown settings."""
    for cls in exported:
        if isinstance(cls, type) and cls.__module__.startswith("mmda.") and not getattr(cls, "_is_protocol", False):
            init = vars(cls).get("__init__")
            if isinstance(init, FunctionType) and not hasattr(init, "__wrapped__"):
                cls.__init__ = _hinting(init)  # type: ignore[misc]


def hint_calls(exported: Iterable[object]) -> None:
    """Make the modules among these objects suggest alternatives in errors about the arguments of a call."""
    for cls in exported:
        if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__call__ is nn.Module.__call__:
            cls.__call__ = _hinting_call  # type: ignore[method-assign]


def hint_functions(home: MutableMapping[str, Any]) -> None:
    """Make the public functions of a package's namespace suggest alternatives in errors about their arguments.

    Each is replaced in the file that defines it, too, and keeps that file's globals, so that it is pickled by name.
    """
    for name, function in list(home.items()):
        if isinstance(function, FunctionType) and not name.startswith("_") and name in home["__all__"]:
            told = _hinting_function(function)
            vars(sys.modules[function.__module__])[name] = home[name] = told


def _hinting_function(function: FunctionType) -> FunctionType:
    hint, called = _call_hint, function

    def told(*inputs: Any, **arguments: Any) -> Any:
        try:
            return called(*inputs, **arguments)
        except TypeError as error:
            better = hint(called, error, inputs, arguments, ())
            if better is None:
                raise
            raise TypeError(f"{called.__name__}: {better}") from None

    rebuilt = FunctionType(told.__code__, function.__globals__, function.__name__, None, told.__closure__)
    functools.update_wrapper(rebuilt, function)
    return rebuilt


def _hinting_call(self: nn.Module, *inputs: Any, **arguments: Any) -> Any:
    try:
        return nn.Module.__call__(self, *inputs, **arguments)
    except TypeError as error:
        better = _call_hint(self.forward, error, inputs, arguments, inspect.signature(type(self)).parameters)
        if better is None:
            raise
        raise TypeError(f"{type(self).__name__}: {better}") from None


def _call_hint(
    called: Callable[..., Any],
    error: TypeError,
    inputs: tuple[Any, ...],
    arguments: Mapping[str, Any],
    settings: Container[str],
) -> str | None:
    """One line if the arguments of a call do not fit its signature; ``None`` for any other error."""
    text, parameters = str(error), inspect.signature(called).parameters
    if not text.startswith(f"{called.__qualname__}() "):
        return None
    first = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    takes = ", ".join([*first, *(f"{name}=" for name in parameters if name not in first)])
    wrong = next((name for name in arguments if name not in parameters), None)
    if "unexpected keyword argument" in text and wrong is not None:
        why = "it is a setting of the module, given where it is built" if wrong in settings else None
        why = why or OTHER_IN_CALLS.get(wrong.lower()) or OTHER_ARGUMENTS.get(wrong.lower())
        return f"`{wrong}` is not an argument{f' ({why})' if why else ''}; takes {takes}"
    if text.startswith(f"{called.__qualname__}() missing "):
        return f"{text.partition('() ')[2]}; takes {takes}"
    if "positional argument" in text and len(inputs) > len(first):
        return f"takes {takes} (what has a = is keyword-only), got {_shown(inputs)}"
    return None


def _hinting(init: Init) -> Init:
    @functools.wraps(init)
    def told(self: Any, *inputs: Any, **settings: Any) -> None:
        try:
            init(self, *inputs, **settings)
        except TypeError as error:
            hint = _hint(init, str(error), inputs, settings)
            if hint is None:
                raise
            raise TypeError(f"{type(self).__name__}: {hint}") from None

    return told  # type: ignore[return-value]


def _hint(init: Callable[..., None], error: str, inputs: tuple[Any, ...], settings: Mapping[str, Any]) -> str | None:
    """One line if the arguments do not fit the signature; ``None`` for any other error."""
    code = init.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    takes = ", ".join(f"{name}=" for name in names) or "no settings"
    if "unexpected keyword argument" in error:
        wrong = next((name for name in settings if name not in names), None)
        if wrong is None:  # raised by a nested call
            return None
        why = OTHER_ARGUMENTS.get(wrong.lower())
        return f"`{wrong}` is not a setting{f' ({why})' if why else ''}; takes {takes}"
    if "positional argument" in error and len(inputs) > code.co_argcount - 1:
        return f"settings are keyword-only, got {_shown(inputs)}; takes {takes}"
    return None


def _shown(inputs: Iterable[object]) -> str:
    return ", ".join(repr(each) if isinstance(each, (int, float, str)) else type(each).__name__ for each in inputs)
