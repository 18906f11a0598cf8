"""Experiments with MMCDA: rows times seeds on two domains, and the table with its intervals.

A :class:`Problem` names two domains, a :class:`Plan` holds the options; :func:`plan_jobs` makes the jobs,
:func:`train_all` trains them in worker processes, :func:`run_table` does all of it and writes the table. The function
that trains a job is a recipe: :func:`train_row`, or your own function with the same signature. The command ``mmda`` is
a thin layer over these functions.
"""

from mmda.models.mmcda.experiment.domains import Domain, Draws, Place, Problem, load_problem
from mmda.models.mmcda.experiment.errors import UnusableError
from mmda.models.mmcda.experiment.jobs import Job, Plan, plan_jobs
from mmda.models.mmcda.experiment.pool import train_all
from mmda.models.mmcda.experiment.questions import Checkpoint, Question, answer, find_moments, open_checkpoint
from mmda.models.mmcda.experiment.rows import ABLATION, ALIGNMENTS, REAL_ROWS, ROWS, Row, alignment_of
from mmda.models.mmcda.experiment.runs import Batches, Trained, batches_of, blind_rows, run_job, train_row
from mmda.models.mmcda.experiment.session import run_table, run_training
from mmda.models.mmcda.experiment.tables import Table, as_text, make_table, plot_tables

__all__ = [
    "ABLATION",
    "ALIGNMENTS",
    "REAL_ROWS",
    "ROWS",
    "Batches",
    "Checkpoint",
    "Domain",
    "Draws",
    "Job",
    "Place",
    "Plan",
    "Problem",
    "Question",
    "Row",
    "Table",
    "Trained",
    "UnusableError",
    "alignment_of",
    "answer",
    "as_text",
    "batches_of",
    "blind_rows",
    "find_moments",
    "load_problem",
    "make_table",
    "open_checkpoint",
    "plan_jobs",
    "plot_tables",
    "run_job",
    "run_table",
    "run_training",
    "train_all",
    "train_row",
]
