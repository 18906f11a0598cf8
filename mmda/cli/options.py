"""Options shared by several commands, and the objects built from them."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from mmda.metrics import PRESETS
from mmda.models.mmcda.experiment import ALIGNMENTS, Place, Plan, Problem
from mmda.vmr import WORLDS

OUTPUT = Path("outputs/mmcda_vmr")
SIDES = ("source", "target")

#: Options that do not apply to simulated worlds.
ONLY_ON_DISK = (
    *(f"{side}_{what}" for side in SIDES for what in ("video", "query", "clip_seconds")),
    *("splits", "glove", "drop", "durations", "clip_seconds"),
)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options for the two domains: simulated worlds, or data on disk."""
    data = parser.add_argument_group("data")
    worlds = f"simulated world, may be repeated: {', '.join(WORLDS)} (default: default and language)"
    data.add_argument("--world", action="append", choices=list(WORLDS), metavar="NAME", help=worlds)
    data.add_argument("--source", metavar="PATH", help="folder, file or prefix of the labelled domain")
    data.add_argument("--target", metavar="PATH", help="folder, file or prefix of the other domain")
    for side in SIDES:
        help_text = "frame features stored elsewhere; repeat to concatenate several"
        data.add_argument(f"--{side}-video", action="append", default=[], metavar="PATH", help=help_text)
        data.add_argument(f"--{side}-query", metavar="PATH", help="query features stored elsewhere")
        help_text = "clip length of this domain, if --clip-seconds does not hold for both"
        data.add_argument(f"--{side}-clip-seconds", type=float, metavar="S", help=help_text)
    help_text = "word vectors to use instead of query features: one line per word, the word and its numbers"
    data.add_argument("--glove", metavar="FILE", help=help_text)
    help_text = "splits by video (default: files of train, val and test if present, else 70 / 10 / 20)"
    data.add_argument("--splits", metavar="JSON", help=help_text)
    help_text = "durations of the videos, csv or json, for annotations that do not contain them (Charades-STA)"
    data.add_argument("--durations", metavar="FILE", help=help_text)
    help_text = "clip length, if the features do not contain it"
    data.add_argument("--clip-seconds", type=float, metavar="S", help=help_text)
    help_text = "average-pool longer videos to this many clips; moments become as coarse (default: keep all clips)"
    data.add_argument("--max-clips", type=int, metavar="N", help=help_text)
    help_text = "leave out videos and queries without usable features, and list them (default: an error)"
    data.add_argument("--drop", action="store_true", help=help_text)
    parser.add_argument("--smoke", action="store_true", help="a run of seconds that checks that everything works")


def add_training(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the training options; returns the group, for options of a single command."""
    training = parser.add_argument_group("training")
    training.add_argument("--alignment", choices=ALIGNMENTS, default="mmd", help="discrepancy of (i) (default: mmd)")
    help_text = "linear heads initialised in closed form, or towers trained from scratch (default: linear on real data)"
    training.add_argument("--form", choices=("linear", "towers"), help=help_text)
    help_text = "passes over the source (default: 10 simulated, 12 real; none for a linear form)"
    training.add_argument("--epochs", type=int, help=help_text)
    help_text = "source queries per step (default: 32; 64 for a linear form)"
    training.add_argument("--batch-size", type=int, help=help_text)
    help_text = "target queries per step, which are in-batch negatives of each other (default: --batch-size)"
    training.add_argument("--target-batch-size", type=int, help=help_text)
    help_text = "train on the validation videos too; the last weights are kept instead of a selected checkpoint"
    action = argparse.BooleanOptionalAction
    training.add_argument("--train-on-val", action=action, help=f"{help_text} (default: a linear form does)")
    help_text = "frame and word features come from one encoder: start from their cosine similarity"
    training.add_argument("--shared-space", action="store_true", help=help_text)
    help_text = "dropout probability in [0, 1) (default: 0 simulated, 0.3 real)"
    training.add_argument("--dropout", type=float, metavar="SHARE", help=help_text)
    training.add_argument("--diagnose", action="store_true", help="log each term's gradient norm (JSON)")
    training.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    help_text = "keep finished rows in --output, and resume unfinished ones"
    training.add_argument("--resume", action="store_true", help=help_text)
    help_text = "save the training state every this many steps (default: by time only)"
    training.add_argument("--save-steps", type=int, metavar="N", help=help_text)
    help_text = "save it after this many seconds, and at every evaluation (default: 60)"
    training.add_argument("--save-seconds", type=float, default=60.0, metavar="S", help=help_text)
    help_text = "run the model under autocast; float16 scales the loss, on CUDA or the CPU (default: float32)"
    training.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32", help=help_text)
    help_text = "maximum gradient norm (default: 5)"
    training.add_argument("--clip-norm", type=float, default=5.0, metavar="NORM", help=help_text)
    help_text = "batches per step, with averaged gradients (default: 1)"
    training.add_argument("--accumulate", type=int, default=1, metavar="N", help=help_text)
    help_text = "write loss, terms, norms, speed and memory to --output/logs every this many steps, as JSON lines"
    training.add_argument("--log-steps", type=int, metavar="N", help=help_text)
    help_text = "write them for TensorBoard too (needs the package tensorboard)"
    training.add_argument("--tensorboard", action="store_true", help=help_text)
    return training


def add_output(parser: argparse._ActionsContainer) -> None:
    """Add the output option."""
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"folder for all results (default: {OUTPUT})")


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Add the evaluation options."""
    evaluation = parser.add_argument_group("evaluation")
    help_text = f"the conventions of a published evaluator: {', '.join(PRESETS)} (default: default)"
    evaluation.add_argument("--preset", choices=list(PRESETS), default="default", metavar="NAME", help=help_text)
    help_text = "IoU thresholds in addition to 0.3, 0.5 and 0.7, such as 0.1 for short moments"
    evaluation.add_argument("--iou", type=float, nargs="+", default=[], metavar="M", help=help_text)


def check_data(parser: argparse.ArgumentParser, options: argparse.Namespace, *alone: str) -> None:
    """Exit with a usage error if options contradict each other; those in ``alone`` need no source and target."""
    if (options.source is None) != (options.target is None):
        parser.error("--source and --target go together")
    if options.source is not None and options.world:
        parser.error("--world and --source exclude each other")
    named = next((side for side in SIDES if getattr(options, f"{side}_query") is not None), None)
    if options.glove is not None and named is not None:
        parser.error(f"--glove stands in place of query features, --{named}-query names some")
    if options.source is None:
        for name in ONLY_ON_DISK:
            if getattr(options, name) not in (None, False, []) and name not in alone:
                parser.error(f"--{name.replace('_', '-')} needs --source and --target")


def check_numbers(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with a usage error if a number is out of range."""
    if any(not 0 < threshold <= 1 for threshold in getattr(options, "iou", ())):
        parser.error(f"--iou must be in (0, 1], got {', '.join(map(str, options.iou))}")
    dropout = getattr(options, "dropout", None)
    if dropout is not None and not 0 <= dropout < 1:
        parser.error(f"--dropout must lie in [0, 1), got {dropout}")
    if getattr(options, "save_seconds", 0) < 0:
        parser.error(f"--save-seconds must be at least 0, got {options.save_seconds}")
    for name in ("clip_seconds", "source_clip_seconds", "target_clip_seconds"):
        value = getattr(options, name, None)
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name.replace('_', '-')} must be above 0, got {value}")
    if not 0 < getattr(options, "clip_norm", 1) < math.inf:
        parser.error(f"--clip-norm must be above 0, got {options.clip_norm}")
    if getattr(options, "precision", "") == "float16" and options.device.partition(":")[0] not in ("cuda", "cpu"):
        parser.error(f"--precision float16 needs CUDA or the CPU (bfloat16 runs anywhere), got {options.device}")
    if getattr(options, "tensorboard", False) and options.log_steps is None:
        parser.error("--tensorboard needs --log-steps")
    counts = ("seeds", "epochs", "batch_size", "target_batch_size", "workers", "max_clips", "top", "save_steps")
    for name in (*counts, "accumulate", "log_steps"):
        value = getattr(options, name, None)
        least = 2 if name.endswith("batch_size") else 1  # a batch of one has no negatives and no variance
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {value}")


def clip_seconds(options: argparse.Namespace, side: str) -> float | None:
    """Clip length of one domain, if given."""
    own: float | None = getattr(options, f"{side}_clip_seconds")
    both: float | None = options.clip_seconds
    return both if own is None else own


def problems_of(options: argparse.Namespace) -> list[Problem]:
    """The problems to train on."""
    if options.source is None:
        worlds = list(dict.fromkeys(options.world or [])) or (
            ["language"] if options.smoke else ["default", "language"]
        )
        return [Problem(f"world {name}", world=name, videos=80 if options.smoke else None) for name in worlds]
    places = [
        Place(
            path=getattr(options, side),
            video=tuple(getattr(options, f"{side}_video")),
            query=getattr(options, f"{side}_query"),
            splits=options.splits,
            max_clips=options.max_clips,
            drop=options.drop,
            glove=options.glove,
            durations=options.durations,
            clip_seconds=clip_seconds(options, side),
        )
        for side in SIDES
    ]
    name = f"{places[0].name} to {places[1].name}"
    return [Problem(name, source=places[0], target=places[1])]


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan of a table or training."""
    return Plan(
        rows=tuple(options.rows or ()),
        ablation=options.ablation,
        seeds=options.seeds,
        alignment=options.alignment,
        form=options.form,
        epochs=options.epochs,
        batch_size=options.batch_size,
        target_batch_size=options.target_batch_size,
        train_on_val=options.train_on_val,
        shared_space=options.shared_space,
        dropout=options.dropout,
        gradient_norms=options.diagnose,
        preset=options.preset,
        iou=tuple(options.iou),
        device=options.device,
        output=options.output,
        resume=options.resume,
        overwrite=getattr(options, "overwrite", False),
        save_steps=options.save_steps,
        save_seconds=options.save_seconds,
        precision=options.precision,
        clip_norm=options.clip_norm,
        accumulate=options.accumulate,
        log_steps=options.log_steps,
        tensorboard=options.tensorboard,
        fsdp=getattr(options, "fsdp", False),
        smoke=options.smoke,
    )
