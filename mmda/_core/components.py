"""Checks of the parts that are passed in: kernels, callables and modules. See :mod:`mmda._core.checks`."""

from __future__ import annotations

from torch import nn

from mmda._core.checks import fail, fail_type


def _refuse_class(caller: str, argument: str, rule: str, value: object) -> None:
    """The value is no class: an instance was meant."""
    if isinstance(value, type):
        raise TypeError(f"{caller}: `{argument}` must {rule}, got the class {value.__name__}")


def check_kernel(caller: str, argument: str, value: object) -> None:
    """The value is a kernel: it settles a bandwidth and evaluates similarities; a class or a name is none."""
    _refuse_class(caller, argument, "be a kernel such as Gaussian()", value)
    if not (hasattr(value, "settle") and hasattr(value, "evaluate") and hasattr(value, "at_zero")):
        fail_type(caller, argument, "be a kernel such as Gaussian()", value)


def check_callable(caller: str, argument: str, value: object) -> None:
    """The value can be called; a class, whose call would only build one, is refused."""
    _refuse_class(caller, argument, "be callable and an instance", value)
    if not callable(value):
        fail_type(caller, argument, "be callable", value)


def check_module(caller: str, argument: str, value: object) -> None:
    """The value is a module, and not the class of one."""
    _refuse_class(caller, argument, "be a torch.nn.Module", value)
    if not isinstance(value, nn.Module):
        fail_type(caller, argument, "be a torch.nn.Module", value)


def check_discriminator(caller: str, value: object) -> None:
    """The value is a module, and no sequence that is seen to end in probabilities: the losses take logits."""
    check_module(caller, "discriminator", value)
    last = value
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    if isinstance(last, (nn.Sigmoid, nn.Softmax, nn.LogSigmoid, nn.LogSoftmax)):
        rule = "return logits, as the loss applies the log-sigmoid or log-softmax itself"
        fail(caller, "discriminator", rule, f"a module that ends in {type(last).__name__}")
