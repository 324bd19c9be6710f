# The grid of trainings, from an experiment file to its figures:
#
#   dataset -> train (one job per model, strategy and seed) -> judge, figures
#
# The experiment is the paper's unless another is named: --configfile config/smoke.yaml
from famba.workflow.experiment import (
    ledger_files,
    load_experiment,
    name_unfinished,
    require_device,
)

# An experiment that is named replaces the paper's; as a `configfile` the two would
# be merged, and the paper's models would leak into every other grid.
if not workflow.overwrite_configfiles:

    configfile: "config/paper.yaml"


EXPERIMENT = load_experiment(workflow)
LEDGER = ledger_files(EXPERIMENT)  # its own file first


container: EXPERIMENT.container


pathvars:
    results=f"results/{EXPERIMENT.experiment}",


wildcard_constraints:
    model="[A-Za-z0-9_][A-Za-z0-9_.-]*",
    strategy="[a-z0-9_]+",
    seed="[0-9]+",


# On a cluster these run where Snakemake does, as the data's rule does: they are light.
localrules:
    all,
    judge,
    audit,
    figures,
    report,
    crate,


# Only real runs come here, before their first job.
onstart:
    require_device(workflow, EXPERIMENT)


onerror:
    name_unfinished(workflow, EXPERIMENT)


include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/judge.smk"
include: "rules/audit.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        # a row that is gone is made again, even while all that was drawn from it is there
        rules.judge.input,
        rules.judge.output,
        rules.figures.output,
        rules.audit.output,
        rules.report.output,
        rules.crate.output,
    message:
        f"complete results/{EXPERIMENT.experiment}"
