"""What people call things elsewhere, and what they are called here: for errors that name the right spelling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

Init = TypeVar("Init", bound=Callable[..., None])

#: Names of papers and of other libraries, without case and underscores, a trailing "loss" left out.
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

#: Arguments of other libraries, with what takes their place.
OTHER_ARGUMENTS: Mapping[str, str] = {
    "alpha": "multiply the loss by a weight in your own sum, or see `strength` of an adversary",
    "weight": "rows are weighed in the call, as loss(source, target, source_weight=...)",
    "reduction": "losses return one scalar; rows are weighed in the call",
    "kernel_mul": "bandwidths are a kernel's: kernel=Gaussian(scales=(0.25, 0.5, 1, 2, 4))",
    "kernel_num": "bandwidths are a kernel's: kernel=Gaussian(scales=(0.25, 0.5, 1, 2, 4))",
    "fix_sigma": "a bandwidth is a kernel's: kernel=Gaussian(bandwidth)",
    "sigma": "a bandwidth is a kernel's: kernel=Gaussian(bandwidth)",
    "kernel_type": "a kernel is a value: kernel=Gaussian(...)",
    "kernels": "several bandwidths are one kernel: kernel=Gaussian(scales=...)",
    "tau": "it is called temperature",
    "t": "it is called temperature",
    "lambda_": "it is called strength",
}


def unknown_name(module: str, name: str, homes: Iterable[ModuleType]) -> AttributeError:
    """The error of a module's ``__getattr__``, with the place of this name where it is known.

    ``homes``: the modules where it may be public.
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
    """Let the errors that the modules among these names raise about their settings say what takes their place."""
    for cls in exported:
        if isinstance(cls, type) and issubclass(cls, nn.Module) and "__init__" in vars(cls):
            cls.__init__ = _hinting(cls.__init__)  # type: ignore[method-assign]


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
    """One line, where the error is that arguments do not fit the signature; ``None`` where it is another."""
    code = init.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    takes = ", ".join(f"{name}=" for name in names) or "no settings"
    if "unexpected keyword argument" in error:
        wrong = next((name for name in settings if name not in names), None)
        if wrong is None:  # of a call inside
            return None
        why = OTHER_ARGUMENTS.get(wrong.lower())
        return f"`{wrong}` is no setting{f' ({why})' if why else ''}; takes {takes}"
    if "positional argument" in error and len(inputs) > code.co_argcount - 1:
        plain = (int, float, str)
        came = ", ".join(repr(each) if isinstance(each, plain) else type(each).__name__ for each in inputs)
        return f"settings are given by name, got {came}; takes {takes}"
    return None
