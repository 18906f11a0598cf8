"""``.. method-index::`` : names of methods in papers, their names here with formula, weights and measured gains."""

from __future__ import annotations

import importlib
import inspect
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

from docutils import nodes
from loss_index import first_formula, first_line
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]

#: names in papers; the object here; what it needs beside features of both domains; its row in the measured tables.
METHODS: tuple[tuple[str, str, str, str | None], ...] = (
    ("MMD, MK-MMD, DAN, DDC", "losses.mmd_loss", "", "MMD"),
    ("KID, polynomial MMD", "losses.polynomial_mmd_loss", "", "MMD, polynomial kernel"),
    ("RFF, random kitchen sinks", "losses.random_feature_mmd_loss", "", "MMD, random features"),
    ("B-test, block MMD", "losses.block_mmd_loss", "", None),
    ("JMMD, JAN", "losses.joint_mmd_loss", "predictions", "joint MMD"),
    ("LMMD, DSAN", "losses.local_mmd_loss", "source labels, target predictions", "local MMD"),
    (
        "CDD, CAN",
        "losses.contrastive_domain_discrepancy_loss",
        "source labels, target predictions",
        "contrastive domain",
    ),
    ("CORAL, Deep CORAL", "losses.coral_loss", "", "CORAL"),
    ("CMD", "losses.central_moment_discrepancy_loss", "bounded features", "central moments"),
    ("HoMM", "losses.higher_order_moment_loss", "", "third moments"),
    ("FID, Fréchet distance", "losses.frechet_distance_loss", "", None),
    ("energy distance, Cramér distance", "losses.energy_distance_loss", "", "energy distance"),
    ("SWD, sliced Wasserstein", "losses.sliced_wasserstein_loss", "", "sliced Wasserstein"),
    ("Sinkhorn divergence, entropic optimal transport", "losses.sinkhorn_divergence_loss", "", "Sinkhorn"),
    ("DeepJDOT, JDOT", "losses.joint_transport_loss", "source labels, target predictions", "joint transport"),
    ("MDA, several domains", "losses.multi_domain_loss", "features of each domain", None),
    ("DANN, RevGrad", "losses.domain_adversarial_loss", "a discriminator", "adversary"),
    ("CDAN, CDAN+E", "losses.conditional_adversarial_loss", "a discriminator, predictions", "conditional adversary"),
    ("MDAN", "losses.multi_domain_adversarial_loss", "a discriminator", None),
    ("WDGRL, Wasserstein critic", "losses.WassersteinCriticLoss", "a critic", "Wasserstein critic"),
    ("WGAN-GP", "losses.gradient_penalty", "a critic", None),
    ("MDD", "losses.margin_disparity_loss", "a second head", "margin disparity"),
    ("MCD", "losses.classifier_discrepancy_loss", "two heads", "two classifiers"),
    ("AFN, SAFN, HAFN", "losses.adaptive_feature_norm_loss", "", "feature norm, stepwise"),
    ("BSP", "losses.batch_spectral_penalty_loss", "an adversary beside it", "spectral penalty"),
    ("MCC", "losses.minimum_class_confusion_loss", "predictions", "class confusion"),
    ("BNM", "losses.batch_nuclear_norm_loss", "predictions", "nuclear norm"),
    ("MinEnt, TENT", "losses.entropy_loss", "predictions", "entropy"),
    ("SHOT, SHOT-IM", "losses.information_maximisation_loss", "predictions", "information maximisation"),
    ("self-training, pseudo-labels", "losses.self_training_loss", "predictions", "self-training"),
    ("SHOT's pseudo-labels", "losses.centroid_pseudo_labels", "predictions", None),
    ("ATDOC", "losses.neighbour_pseudo_labels", "predictions, a memory bank", None),
    ("CBST", "losses.balanced_pseudo_labels", "predictions", None),
    ("VAT", "losses.virtual_adversarial_loss", "the network", "virtual adversarial"),
    ("MSTN, class centroids", "losses.prototype_contrastive_loss", "source labels, target predictions", "prototypes"),
    ("OSBP, open set", "losses.open_set_loss", "predictions with one more class", None),
    ("PADA", "losses.partial_class_weight", "predictions", None),
    ("IWAN", "losses.partial_row_weight", "a discriminator", None),
    ("UAN", "losses.known_class_weight", "predictions", None),
    ("KMM", "losses.kernel_mean_matching", "", None),
    ("DSBN", "layers.DomainSpecificBatchNorm2d", "", "domain-specific batch norm"),
    ("AdaBN", "layers.adapt_batch_norm", "", "adapted batch norm"),
    ("GRL", "layers.gradient_reversal", "", None),
    ("domain classifier, critic", "layers.DomainDiscriminator", "", None),
    ("memory bank, queue, MoCo, XBM", "layers.MemoryBank", "", None),
    ("InfoNCE, CLIP, CPC, ITC, ALIGN", "losses.info_nce_loss", "pairs", None),
    ("NT-Xent, SimCLR", "losses.nt_xent_loss", "two views", None),
    ("SigLIP, sigmoid loss", "losses.sigmoid_contrastive_loss", "pairs", None),
    ("SupCon", "losses.supervised_contrastive_loss", "labels", None),
    ("VSE++, triplet loss, max-margin ranking", "losses.triplet_ranking_loss", "pairs", None),
    ("Barlow Twins", "losses.cross_correlation_loss", "two views", None),
    ("VICReg", "losses.variance_covariance_loss", "two views", None),
    ("alignment and uniformity", "losses.alignment_uniformity_loss", "pairs", None),
    ("HSIC", "losses.hsic_loss", "pairs", None),
    ("CKA, kernel alignment", "losses.kernel_alignment_loss", "pairs", None),
    ("MIL-NCE, multiple instances", "losses.multiple_instance_loss", "pairs of video and query", None),
    ("query-attended contrast", "losses.attended_contrastive_loss", "pairs of video and query", None),
    ("frame-query alignment", "losses.frame_query_loss", "moments", None),
    ("boundary regression, span loss", "losses.moment_localization_loss", "moments", None),
    ("TENT for retrieval", "losses.similarity_entropy_loss", "", None),
    ("TENT for grounding", "losses.span_entropy_loss", "", None),
    ("CCA", "linear.CCA", "pairs", None),
    ("Procrustes", "linear.Procrustes", "pairs", None),
    ("CORAL map, CORAL of features", "linear.CORALMap", "", "CORAL map"),
    ("SA", "linear.SubspaceAlignment", "", "subspace alignment"),
)


def also_called() -> dict[str, list[str]]:
    """``mmda.losses.joint_mmd_loss`` -> its names in papers: for the page of each symbol, and so for the search."""
    return {f"mmda.{place}": papers.split(", ") for papers, place, _, _ in METHODS}


def runs_of(name: str) -> dict[str, list[dict[str, Any]]]:
    """The trainings of a result file by row; empty where the file is not there."""
    path = ROOT / "benchmarks" / "results" / name
    found: dict[str, list[dict[str, Any]]] = {}
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        for each in held["runs"]:
            run = dict(zip(held["columns"], each)) if "columns" in held else each
            found.setdefault(run.get("adapter", run.get("row")), []).append(run)
    return found


def weights_and_gains(runs: Mapping[str, Sequence[Mapping[str, Any]]], row: str | None, kinds: Sequence[str]) -> str:
    """The weights that were chosen without labels and the mean gain over the source alone, in points."""
    weights, gains = set(), []
    transfers = dict.fromkeys(transfer(run) for run in runs.get(row or "", []) if run.get("kind", "digits") in kinds)
    for each in transfers:
        mine = [run for run in runs[row or ""] if transfer(run) == each]
        if not any(run["seed"] == 0 for run in mine):
            continue
        weight = max((run for run in mine if run["seed"] == 0), key=lambda run: run["score"])["weight"]
        alone = {run["seed"]: run["accuracy"] for run in runs["source-only"] if transfer(run) == each}
        chosen = [run for run in mine if run["weight"] == weight and run["seed"] in alone]
        if not chosen:
            continue
        gains.append(statistics.mean(100 * (run["accuracy"] - alone[run["seed"]]) for run in chosen))
        weights.add(weight)
    if not gains:
        return ""
    low, high = min(weights), max(weights)
    weighed = len({run["weight"] for run in runs[row or ""]}) > 1
    return f"{statistics.mean(gains):+.1f}" + (f" ({low:g}{f' to {high:g}' if high > low else ''})" if weighed else "")


def transfer(run: Mapping[str, Any]) -> tuple[str, ...]:
    return (run["direction"],) if "direction" in run else (run["kind"], run["source"], run["target"])


class MethodIndex(SphinxDirective):
    """The table, its formulas read from the docstrings and its gains from the committed results."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        exported = {name for name in importlib.import_module("mmda.losses").__all__ if name.endswith("_loss")}
        unnamed = sorted(exported - {place.split(".")[1] for _, place, _, _ in METHODS})
        digits, features = runs_of("digits.json"), runs_of("adaptation.json")
        for name in ("digits.json", "adaptation.json"):
            self.env.note_dependency(str(ROOT / "benchmarks" / "results" / name))
        head = ["in papers", "here", "needs", "gain on digits (weight)"]
        head += ["gain on Office-Caltech (weight)"] if features else []
        widths = "16 46 14 12 12" if features else "18 50 16 16"
        lines = [".. list-table::", "   :header-rows: 1", "   :class: prose names", f"   :widths: {widths}", ""]
        lines += [f"   {'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(head)]
        for papers, place, needs, row in (*METHODS, *(("", f"losses.{name}", "", None) for name in unnamed)):
            first, *rest = self.here(place).splitlines()
            lines += [f"   * - {papers}".rstrip(), f"     - {first}", *(f"       {line}".rstrip() for line in rest)]
            lines += [f"     - {needs}".rstrip()]
            lines += [f"     - {weights_and_gains(digits, row, ['digits'])}".rstrip()]
            lines += (
                [f"     - {weights_and_gains(features, row, ['surf', 'effnetlite0'])}".rstrip()] if features else []
            )
        return self.parse_text_to_nodes("\n".join(lines))

    def here(self, place: str) -> str:
        """Links, one line, formula."""
        module, name = place.split(".")
        home = importlib.import_module(f"mmda.{module}")
        if not hasattr(home, name):
            raise self.error(f"mmda.{place} is in the table of names and not in the library")
        docstring = inspect.getdoc(getattr(home, name)) or ""
        cls = {each.lower(): each for each in dir(home) if each[0].isupper()}.get(name.replace("_", ""), "")
        also = f" :class:`~mmda.{module}.{cls}`" if cls and cls != name else ""
        text = f":{'class' if name[0].isupper() else 'func'}:`~mmda.{place}`{also}\n\n{first_line(docstring)}"
        formula = first_formula(docstring)
        return f"{text}\n\n.. math::\n\n{indent(formula, '   ')}" if formula else text


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("method-index", MethodIndex)
    return {"parallel_read_safe": True}
