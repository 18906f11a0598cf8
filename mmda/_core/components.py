"""Checks of components passed as arguments: kernels, callables and modules. See :mod:`mmda._core.checks`."""

from __future__ import annotations

import torch
from torch import nn

from mmda._core.checks import fail, fail_type


def _refuse_class(caller: str, argument: str, rule: str, value: object) -> None:
    """Reject a class passed instead of an instance."""
    if isinstance(value, type):
        raise TypeError(f"{caller}: `{argument}` must {rule}, got the class {value.__name__}")


#: Last operations of a graph that returns probabilities.
_TO_PROBABILITIES = ("SoftmaxBackward0", "SigmoidBackward0")


def check_kernel(caller: str, argument: str, value: object) -> None:
    """Require a kernel instance, not a class or a name."""
    _refuse_class(caller, argument, "be a kernel such as Gaussian()", value)
    if not (hasattr(value, "settle") and hasattr(value, "evaluate") and hasattr(value, "at_zero")):
        fail_type(caller, argument, "be a kernel such as Gaussian()", value)


def check_callable(caller: str, argument: str, value: object) -> None:
    """Require a callable that is not a class."""
    _refuse_class(caller, argument, "be callable and an instance", value)
    if not callable(value):
        fail_type(caller, argument, "be callable", value)


def check_module(caller: str, argument: str, value: object) -> None:
    """Require a module instance, not a class."""
    _refuse_class(caller, argument, "be a torch.nn.Module", value)
    if not isinstance(value, nn.Module):
        fail_type(caller, argument, "be a torch.nn.Module", value)


def check_discriminator(caller: str, value: object) -> None:
    """Require a module, and reject an ``nn.Sequential`` that ends in a sigmoid or softmax: the losses take logits."""
    check_module(caller, "discriminator", value)
    last = value
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    if isinstance(last, (nn.Sigmoid, nn.Softmax, nn.LogSigmoid, nn.LogSoftmax)):
        rule = "return logits, as the loss applies the log-sigmoid or log-softmax itself"
        fail(caller, "discriminator", rule, f"a module that ends in {type(last).__name__}")


def check_logits(caller: str, argument: str, logits: object, rule: str = "be logits") -> None:
    """Reject the output of a softmax or sigmoid, detected from its autograd graph: the losses take logits."""
    if torch.compiler.is_compiling():
        return
    last = getattr(logits, "grad_fn", None)
    if last is not None and type(last).__name__ in _TO_PROBABILITIES:
        came = type(last).__name__.removesuffix("Backward0").lower()
        fail(caller, argument, f"{rule}, as the loss applies the softmax or sigmoid itself", f"the output of a {came}")
