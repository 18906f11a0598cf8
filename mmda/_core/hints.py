"""Names used in papers and other libraries, for errors that suggest the name used here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
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
    "kernel_type": "pass a kernel object: kernel=Gaussian(...)",
    "kernels": "several bandwidths are one kernel: kernel=Gaussian(scales=...)",
    "tau": "it is called temperature",
    "t": "it is called temperature",
    "lambda_": "it is called strength",
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
    """Make the modules among these objects suggest alternatives in errors about unknown settings."""
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
        plain = (int, float, str)
        came = ", ".join(repr(each) if isinstance(each, plain) else type(each).__name__ for each in inputs)
        return f"settings are keyword-only, got {came}; takes {takes}"
    return None
