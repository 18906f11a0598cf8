"""Feature stores: readers of common feature layouts behind one protocol.

``store[id]`` is a float32 array ``(T, D)`` for every layout. :func:`open_features` detects the layout;
:func:`pack_features` copies any store into one memory-mapped array for fast reading. Pickles are rejected, because they
can run code.
"""

from mmda.vmr.features.arrays import as_sequence as as_sequence
from mmda.vmr.features.arrays import check_finite as check_finite
from mmda.vmr.features.arrays import check_width as check_width
from mmda.vmr.features.arrays import clip_bounds as clip_bounds
from mmda.vmr.features.arrays import pool_clips as pool_clips
from mmda.vmr.features.opening import open_features as open_features
from mmda.vmr.features.packed import MappedStore as MappedStore
from mmda.vmr.features.packed import pack_features as pack_features
from mmda.vmr.features.protocol import Array as Array
from mmda.vmr.features.protocol import FeatureStore as FeatureStore
from mmda.vmr.features.protocol import Kind as Kind
from mmda.vmr.features.protocol import PathLike as PathLike
from mmda.vmr.features.stores import ArrayStore as ArrayStore
