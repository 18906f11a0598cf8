"""The error that ends a command with one line instead of a traceback."""

from __future__ import annotations


class UnusableError(ValueError):
    """The requested options or files cannot be used; the message names the option or file and the rule.

    Example:
        >>> try:
        ...     raise UnusableError("--rows 'fulll': must be a row")
        ... except ValueError as error:
        ...     print(error)
        --rows 'fulll': must be a row
    """
