"""Video moment retrieval: annotations and features on disk, one validated form in memory, batches.

Read annotations with :func:`read_annotations`, features with :func:`open_features`, join and check them in a
:class:`VMRDataset`, batch them with a :class:`VMRLoader`. ``mmda check`` reports problems of a folder.
"""

from __future__ import annotations

from mmda.vmr.annotations import (
    Annotations,
    VMRQuery,
    detect_layout,
    published_splits,
    read_annotations,
    validate_queries,
)
from mmda.vmr.batch import VMRBatch
from mmda.vmr.collation import VMRLoader, bucketed_batches, collate
from mmda.vmr.data import VMRDataset, VMRExample, load_packed, read_splits
from mmda.vmr.features import ArrayStore, FeatureStore, open_features, pack_features, pool_clips
from mmda.vmr.reports import ClosedMomentsError, Report, VMRDataError
from mmda.vmr.resident import ResidentLoader, ResidentSplit
from mmda.vmr.simulator import LAWS, WORLDS, Law, Simulation, World, encode_sentence, simulate
from mmda.vmr.text import TextFeatures, Vocabulary, WordVectors, read_glove, tokenize

__all__ = [
    "LAWS",
    "WORLDS",
    "Annotations",
    "ArrayStore",
    "ClosedMomentsError",
    "FeatureStore",
    "Law",
    "Report",
    "ResidentLoader",
    "ResidentSplit",
    "Simulation",
    "TextFeatures",
    "VMRBatch",
    "VMRDataError",
    "VMRDataset",
    "VMRExample",
    "VMRLoader",
    "VMRQuery",
    "Vocabulary",
    "WordVectors",
    "World",
    "bucketed_batches",
    "collate",
    "detect_layout",
    "encode_sentence",
    "load_packed",
    "open_features",
    "pack_features",
    "pool_clips",
    "published_splits",
    "read_annotations",
    "read_glove",
    "read_splits",
    "simulate",
    "tokenize",
    "validate_queries",
]
