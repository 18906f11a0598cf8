"""What ends a command with one line instead of a trace."""

from __future__ import annotations


class UnusableError(ValueError):
    """Something the user asked for cannot be done; the message says what, and which rule.

    Example:
        >>> try:
        ...     raise UnusableError("--rows 'fulll': must be a row")
        ... except ValueError as error:
        ...     print(error)
        --rows 'fulll': must be a row
    """
