"""Readers of moment annotations in published layouts, with validation.

Six layouts are supported: Charades-STA, ActivityNet Captions, TACoS, QVHighlights, NExT-GQA and DiDeMo. Times are
converted to seconds, moments are clipped to the video, and a report counts what was clipped and dropped.
"""

from mmda.vmr.annotations.names import video_id as video_id
from mmda.vmr.annotations.parsing import as_name as as_name
from mmda.vmr.annotations.parsing import load_json as load_json
from mmda.vmr.annotations.parsing import open_text as open_text
from mmda.vmr.annotations.parsing import parse_json as parse_json
from mmda.vmr.annotations.queries import Annotations as Annotations
from mmda.vmr.annotations.queries import VMRQuery as VMRQuery
from mmda.vmr.annotations.queries import Window as Window
from mmda.vmr.annotations.queries import validate_queries as validate_queries
from mmda.vmr.annotations.reading import Layout as Layout
from mmda.vmr.annotations.reading import detect_layout as detect_layout
from mmda.vmr.annotations.reading import published_splits as published_splits
from mmda.vmr.annotations.reading import read_annotations as read_annotations
