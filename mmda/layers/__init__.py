"""Layers: the building blocks that the losses and the reference model share."""

__all__: list[str] = []
