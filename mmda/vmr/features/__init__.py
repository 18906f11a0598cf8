"""Feature stores: every layout that researchers keep features in, behind one protocol.

``store[id]`` is a float32 array ``(T, D)``, whatever the file holds. :func:`open_features` recognises the layout;
:func:`pack_features` copies any store into one memory-mapped array, from which reading costs a page fault.
Pickles are refused: they can run code.
"""

from mmda.vmr.features.arrays import as_sequence as as_sequence
from mmda.vmr.features.arrays import check_finite as check_finite
from mmda.vmr.features.arrays import check_width as check_width
from mmda.vmr.features.arrays import clip_bounds as clip_bounds
from mmda.vmr.features.arrays import pool_clips as pool_clips
from mmda.vmr.features.opening import open_features as open_features
from mmda.vmr.features.packed import pack_features as pack_features
from mmda.vmr.features.protocol import Array as Array
from mmda.vmr.features.protocol import FeatureStore as FeatureStore
from mmda.vmr.features.protocol import Kind as Kind
from mmda.vmr.features.protocol import PathLike as PathLike
from mmda.vmr.features.stores import ArrayStore as ArrayStore
