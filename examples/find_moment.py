"""Find a sentence in a video: frames from PyAV, features from any two callables, moments by votes on their cosines.

The default extractor needs no weights but recognises only the eleven basic colours: "a red ball", "the blue screen".
Pass your own as `--extractor module:name`, a callable that returns two functions: frames (t, h, w, 3) uint8 -> (t, d),
and a sentence -> (d,), both in one embedding space, such as CLIP's.
"""

from __future__ import annotations

import argparse
import importlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmda.models.mmcda import vote_spans

try:
    import av
except ImportError:
    av = None

# fmt: off
COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255), "red": (220, 20, 30), "green": (30, 150, 50),
           "yellow": (250, 220, 30), "blue": (30, 60, 200), "brown": (120, 70, 30), "orange": (250, 130, 20),
           "pink": (250, 150, 180), "purple": (120, 40, 140), "grey": (128, 128, 128)}
# fmt: on
Extractor = tuple[Callable[[Tensor], Tensor], Callable[[str], Tensor]]


def colours() -> Extractor:
    """Features of a frame: fractions of pixels by nearest colour; of a sentence: the colours that it names."""
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)

    def frames(images: Tensor) -> Tensor:
        pixels = images[:, ::8, ::8].float().flatten(1, 2)
        nearest = torch.cdist(pixels, palette.expand(len(pixels), -1, -1)).argmin(2)
        return torch.nn.functional.one_hot(nearest, len(COLOURS)).float().mean(1)

    def sentence(text: str) -> Tensor:
        words = set(re.findall(r"[a-z]+", text.lower().replace("gray", "grey")))
        if not words & set(COLOURS):
            raise SystemExit(f"the sentence must name one of {', '.join(COLOURS)} (or pass --extractor), got {text!r}")
        return torch.tensor([float(name in words) for name in COLOURS])

    return frames, sentence


def read_clips(path: str, seconds: float) -> tuple[list[Tensor], float]:
    """The first frame of every clip of this many seconds, and the end of the video."""
    clips: dict[int, Tensor] = {}
    end = 0.0
    with av.open(path) as video:
        for frame in video.decode(video=0):
            clip = int(frame.time / seconds)
            end = frame.time + 1 / float(video.streams.video[0].average_rate or 25)
            if clip not in clips:
                clips[clip] = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    return [clips[max(k for k in clips if k <= clip)] for clip in range(max(clips) + 1)], end


def find(
    path: str, sentence: str, extractor: Extractor, *, seconds: float = 1.0, top: int = 3, plot: str = ""
) -> list[tuple[float, float, float]]:
    """The best moments ``(start, end, score)`` in seconds, best first."""
    images, end = read_clips(path, seconds)
    encode, ask = extractor
    features = torch.cat([encode(torch.stack(images[k : k + 32])) for k in range(0, len(images), 32)])
    similarity = torch.cosine_similarity(features, ask(sentence).unsqueeze(0))
    edges = (torch.arange(len(images) + 1, dtype=torch.float64) * seconds).clamp(max=end)
    times = torch.stack([edges[:-1], edges[1:]], 1)
    known = torch.ones(1, len(images), dtype=torch.bool)
    spans = vote_spans(similarity[None], known, times[None], n=top, widths=(1, 3, 5))
    if plot:
        from mmda.plots import plot_similarity

        axes = plot_similarity(times, similarity, prediction=spans.windows[0, 0].tolist())
        axes.figure.savefig(plot)
    kept = zip(spans.windows[spans.mask].tolist(), spans.scores[spans.mask].tolist())
    return [(start, end, score) for (start, end), score in kept]


def write_video(path: str, shots: list[tuple[str, int]], rate: int = 5) -> None:
    """Write a video of plain colours, each for the given number of seconds."""
    with av.open(path, "w") as video:
        stream = video.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 64
        for name, length in shots:
            image = torch.tensor(COLOURS[name], dtype=torch.uint8).expand(64, 64, 3).contiguous().numpy()
            for _ in range(length * rate):
                video.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        video.mux(stream.encode(None))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", help="any file that PyAV opens")
    parser.add_argument("sentence", nargs="?", default="the red one")
    parser.add_argument("--extractor", metavar="MODULE:NAME", help="a callable that returns the two functions")
    parser.add_argument("--clip-seconds", type=float, default=1.0, help="one frame is read per clip (default: 1)")
    parser.add_argument("--plot", default="", metavar="PATH", help="draw the similarity curve, as .png, .pdf or .svg")
    parser.add_argument("--smoke", action="store_true", help="run on a small generated video")
    options = parser.parse_args()
    if not options.smoke and options.video is None:
        parser.error("VIDEO and a sentence must be given")
    if av is None:
        print("skipped: PyAV is not installed (pip install av)")
        raise SystemExit(0 if options.smoke else 1)
    extractor = colours()
    if options.extractor:
        module, name = options.extractor.split(":")
        extractor = getattr(importlib.import_module(module), name)()
    with tempfile.TemporaryDirectory() as folder:
        path = options.video
        if options.smoke and path is None:
            path = str(Path(folder) / "shots.mp4")
            write_video(path, [("blue", 6), ("red", 5), ("green", 7)])
        found = find(path, options.sentence, extractor, seconds=options.clip_seconds, plot=options.plot)
    for start, end, score in found:
        print(f"{start:7.1f} s - {end:7.1f} s   score {score:6.2f}")
