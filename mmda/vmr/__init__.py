"""Video moment retrieval: annotations and features on disk, one validated form in memory, batches."""

from __future__ import annotations

from mmda.vmr.batch import VMRBatch

__all__ = ["VMRBatch"]
