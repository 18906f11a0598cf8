"""``.. method-index::`` : names of methods in papers, their names here, and what they gained on digits."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]

#: names in papers; the object here; what it needs beside source labels; its row in the digits table.
METHODS: tuple[tuple[str, str, str, str | None], ...] = (
    ("MMD, DAN, DDC", "losses.mmd_loss", "", "MMD"),
    ("JMMD, JAN", "losses.joint_mmd_loss", "", "joint MMD"),
    ("LMMD, DSAN", "losses.local_mmd_loss", "pseudo-labels", "local MMD"),
    ("CDD, CAN", "losses.contrastive_domain_discrepancy_loss", "pseudo-labels", "contrastive domain"),
    ("CORAL, Deep CORAL", "losses.coral_loss", "", "CORAL"),
    ("CMD", "losses.central_moment_discrepancy_loss", "bounded features", "central moments"),
    ("HoMM", "losses.higher_order_moment_loss", "", "third moments"),
    ("energy distance, Cramér distance", "losses.energy_distance_loss", "", "energy distance"),
    ("SWD, sliced Wasserstein", "losses.sliced_wasserstein_loss", "", "sliced Wasserstein"),
    ("Sinkhorn divergence, entropic optimal transport", "losses.sinkhorn_divergence_loss", "", "Sinkhorn"),
    ("RFF, random kitchen sinks", "losses.random_feature_mmd_loss", "", "MMD, random features"),
    ("B-test, block MMD", "losses.block_mmd_loss", "", None),
    ("DANN, RevGrad, gradient reversal", "losses.domain_adversarial_loss", "a discriminator", "adversary"),
    ("CDAN, CDAN+E", "losses.conditional_adversarial_loss", "a discriminator", "conditional adversary"),
    ("MDAN, several domains", "losses.multi_domain_adversarial_loss", "a discriminator", None),
    ("several domains, pairwise MMD", "losses.multi_domain_loss", "", None),
    ("MDD", "losses.margin_disparity_loss", "a second head", "margin disparity"),
    ("MCD", "losses.classifier_discrepancy_loss", "two heads", "two classifiers"),
    ("AFN, SAFN, HAFN", "losses.adaptive_feature_norm_loss", "", "feature norm, stepwise"),
    ("MCC", "losses.minimum_class_confusion_loss", "", "class confusion"),
    ("BNM", "losses.batch_nuclear_norm_loss", "", "nuclear norm"),
    ("entropy minimisation, MinEnt, TENT's loss", "losses.entropy_loss", "", "entropy"),
    ("information maximisation, SHOT-IM", "losses.information_maximisation_loss", "", "information maximisation"),
    ("prototypes, class centroids, MSTN", "losses.prototype_contrastive_loss", "pseudo-labels", "prototypes"),
    ("DSBN", "layers.DomainSpecificBatchNorm2d", "", "domain-specific batch norm"),
    ("AdaBN", "layers.adapt_batch_norm", "", "adapted batch norm"),
    ("InfoNCE, CLIP, CPC, ITC", "losses.info_nce_loss", "pairs", None),
    ("NT-Xent, SimCLR", "losses.nt_xent_loss", "pairs", None),
    ("SigLIP, sigmoid loss", "losses.sigmoid_contrastive_loss", "pairs", None),
    ("VSE++, triplet loss, max-margin ranking", "losses.triplet_ranking_loss", "pairs", None),
    ("HSIC, CKA's numerator", "losses.hsic_loss", "pairs", None),
    ("MIL-NCE, multiple instances", "losses.multiple_instance_loss", "pairs of video and query", None),
    ("CCA, canonical correlation", "linear.CCA", "pairs", None),
    ("Procrustes", "linear.Procrustes", "pairs", None),
    ("SA, subspace alignment", "linear.SubspaceAlignment", "", None),
)


class MethodIndex(SphinxDirective):
    """The table, its gains read from the committed results."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        sys.path.insert(0, str(ROOT))
        digits = importlib.import_module("benchmarks.digits")
        sys.path.remove(str(ROOT))
        results = ROOT / "benchmarks" / "results" / "digits.json"
        self.env.note_dependency(str(results))
        runs = [digits.Run(**run) for run in json.loads(results.read_text(encoding="utf-8"))["runs"]]
        found = {way: {row.adapter: row for row in digits.table(runs, way)} for way in {r.direction for r in runs}}
        ways = ("MNIST to USPS", "USPS to MNIST")
        lines = [".. list-table::", "   :header-rows: 1", "   :class: prose", "   :widths: 26 34 16 12 12", ""]
        head = ("in papers", "here", "also needs", *(f"gain, {way}" for way in ways))
        lines += [f"   {'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(head)]
        for papers, place, needs, row in METHODS:
            module, name = place.split(".")
            if not hasattr(importlib.import_module(f"mmda.{module}"), name):
                raise self.error(f"mmda.{place} is in the table of names and not in the library")
            role = "class" if name[0].isupper() else "func"
            gains = [f"{found[way][row].gain:+.1f}" if row in found[way] else "" for way in ways]
            cells = (papers, f":{role}:`~mmda.{place}`", needs, *gains)
            lines += [f"   {'*' if k == 0 else ' '} - {cell}".rstrip() for k, cell in enumerate(cells)]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("method-index", MethodIndex)
    return {"parallel_read_safe": True}
