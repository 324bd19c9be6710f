"""A finished experiment as JSON-LD: the entities of its RO-Crate and how they refer to each other.

RO-Crate 1.1 with the Workflow Run Crate profile 0.5 (https://w3id.org/ro/wfrun/workflow/0.5): one action for the run of
the workflow, one for each training. Nothing here reads a file or asks the machine: all of it comes from the rows.
What they do not have, as who ran it, is left out and not made up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from famba.config import Experiment
from famba.config.methods import file_of
from famba.results.row import Environment, Row

Entity = dict[str, Any]

_TERMS = "https://w3id.org/ro/terms/workflow-run#"
CONTEXT = [
    "https://w3id.org/ro/crate/1.1/context",
    {term: _TERMS + term for term in ("ContainerImage", "SIFImage", "containerImage", "sha256")},
]
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
_BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_SNAKEMAKE = "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
_COMPLETED = "http://schema.org/CompletedActionStatus"
_FORMATS = {
    ".json": "application/json", ".csv": "text/csv", ".md": "text/markdown", ".tex": "application/x-tex",
    ".svg": "image/svg+xml", ".png": "image/png", ".html": "text/html", ".yaml": "application/yaml",
    ".txt": "text/plain", ".py": "text/x-python", ".smk": "text/x-snakemake", "": "text/x-snakemake",
    ".npz": "application/zip",
}  # fmt: skip
_NAMES = {
    "row.json": "Result row of a training: metrics, settings, data, environment",
    "epochs.csv": "Metrics of a training after every epoch",
    "steps.csv": "Learning rate and loss of a training at every optimiser step",
    "summary.csv": "Summary: a line for each model and strategy",
    "claims.json": "Published claims, each with its verdict and evidence",
    "paired.json": "Strategies of a model compared on the same test images",
    "targets.json": "Time of each training to a target accuracy",
    "Snakefile": "The workflow: from a data set over a grid of trainings to tables and figures",
    "experiment.yaml": "The experiment: every setting, defaults included",
    "requirements.txt": "The locked environment, with hashes",
}


@dataclass(frozen=True)
class File:
    """A file of the crate: its path from the crate's folder, its size in bytes and its hash."""

    path: PurePosixPath
    size: int
    sha256: str


def method_in_crate(name: str, sha256: str) -> PurePosixPath:
    """Where the file of a method lies in a crate. Two of one name, from different folders, lie side by side."""
    return PurePosixPath("workflow", "methods", f"{sha256[:12]}-{name}")


def document(
    experiment: Experiment,
    rows: Mapping[str, Row],
    files: Sequence[File],
    citation: Mapping[str, Any],
    snakemake: str | None,
) -> Entity:
    """The whole of ro-crate-metadata.json.

    rows: by cell id, in the grid's order. citation: CITATION.cff. snakemake: version.
    """
    parts = [_file(file) for file in files]
    workflow = next(part for part in parts if part["@id"] == "workflow/Snakefile")
    results = [part for part in parts if not part["@id"].startswith("workflow/")]
    first = next(iter(rows.values()))
    paper, software = _paper(citation["preferred-citation"]), _software(rows.values(), citation)
    trainings = [_training(row, results) for row in rows.values()]
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of the experiment {experiment.experiment}",
        "description": "From the start of the first training to the end of the last; there may have been pauses.",
        "startTime": min(row.started for row in rows.values()),
        "endTime": max(row.finished for row in rows.values()),
        "actionStatus": _COMPLETED,
        "instrument": _ref(workflow),
        "object": [{"@id": "workflow/experiment.yaml"}, {"@id": "#data"}],
        "result": [_ref(part) for part in results],
    }
    workflow |= {
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "conformsTo": {"@id": _BIOSCHEMAS},
        "programmingLanguage": {"@id": _SNAKEMAKE},
        "version": _version(first.environment, citation),
        "license": {"@id": _spdx(citation["license"])},
        "hasPart": [{"@id": part["@id"]} for part in parts if part["@id"].endswith(".smk")],
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"famba: experiment {experiment.experiment}",
        "description": _described(experiment, rows),
        "datePublished": run["endTime"],
        "license": {"@id": "#licence"},
        "conformsTo": [{"@id": profile} for profile in _PROFILES],
        "mainEntity": _ref(workflow),
        "citation": _ref(paper),
        "mentions": [_ref(run), *map(_ref, trainings)],
        "hasPart": [_ref(part) for part in parts],
    }
    licence = {
        "@id": "#licence",
        "@type": "CreativeWork",
        "name": "No licence stated",
        "description": "Who ran the experiment has stated no licence for its results. "
        f"The software that made them is under {citation['license']}.",
    }
    named = [
        {"@id": profile, "@type": "CreativeWork", "name": name, "version": version}
        for profile, (name, version) in {**_PROFILES, _BIOSCHEMAS: ("ComputationalWorkflow", "1.0-RELEASE")}.items()
    ]
    entities = [
        _descriptor(), root, *parts, run, *trainings, *software, *_containers(experiment, rows.values()),
        _data(first), *_starts(rows.values()), _snakemake(snakemake), paper,
        *_authors(citation["preferred-citation"]), licence, *named,
        {"@id": _spdx(citation["license"]), "@type": "CreativeWork", "name": citation["license"]},
    ]  # fmt: skip
    return {"@context": CONTEXT, "@graph": entities}


def _ref(entity: Entity) -> Entity:
    return {"@id": entity["@id"]}


def _descriptor() -> Entity:
    return {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": [
            {"@id": "https://w3id.org/ro/crate/1.1"},
            {"@id": "https://w3id.org/workflowhub/workflow-ro-crate/1.0"},
        ],
    }


def _described(experiment: Experiment, rows: Mapping[str, Row]) -> str:
    smoke = "SMOKE: scaled-down models, not evidence about the paper. " if experiment.protocol == "smoke" else ""
    epochs = " or ".join(str(n) for n in sorted({recipe.epochs for recipe in experiment.recipes}))
    return (
        f"{smoke}{len(rows)} trainings of Vision Mamba with cross-layer token fusion on {experiment.dataset}: "
        f"{', '.join(experiment.models)}; {', '.join(experiment.strategies)}; seeds "
        f"{', '.join(map(str, experiment.seeds))}; protocol {experiment.protocol}, {epochs} epochs."
    )


def _file(file: File) -> Entity:
    path = file.path
    cell = f", {path.parent.name}" if path.parts[0] == "cells" else ""
    return {
        "@id": quote(str(path)),
        "@type": "File",
        "name": _NAMES.get(path.name, str(path)) + cell,
        "encodingFormat": _FORMATS.get(path.suffix, "application/octet-stream"),
        "contentSize": str(file.size),
        "sha256": file.sha256,
    }


def _training(row: Row, results: Sequence[Entity]) -> Entity:
    there = row.environment
    action = {
        "@id": f"#{row.id}",
        "@type": "CreateAction",
        "name": f"Training of {row.cell.model}, strategy {row.cell.strategy}, seed {row.cell.seed}",
        "description": f"{row.cell.recipe.epochs} epochs on {there.world_size} × {there.device}, "
        f"{there.threads} CPU threads, selective scan by {row.scan.backend}; top-1 {row.metrics.last.top1:.2f} %.",
        "startTime": row.started,
        "endTime": row.finished,
        "actionStatus": _COMPLETED,
        "instrument": {"@id": _software_id(there)},
        "object": [{"@id": "workflow/experiment.yaml"}, {"@id": "#data"}, *_own(row)],
        "result": [_ref(part) for part in results if part["@id"].startswith(f"cells/{row.id}/")],
    }
    if there.container_sha256:
        action["containerImage"] = {"@id": f"#container-{there.container_sha256[:12]}"}
    return action


def _own(row: Row) -> list[Entity]:
    """What this training had and others of the experiment may not: its method's file, the weights it started from."""
    own = []
    file, code = file_of(row.cell.fusion.method), row.cell.fusion.code
    if file is not None and code is not None:
        own.append({"@id": quote(str(method_in_crate(file.name, code.removeprefix("sha256 "))))})
    if row.init.sha256:
        own.append({"@id": f"#start-{row.init.sha256[:12]}"})
    return own


def _starts(rows: Iterable[Row]) -> list[Entity]:
    starts = {row.init.sha256: row.init.weights for row in rows if row.init.sha256}
    return [
        {
            "@id": f"#start-{sha256[:12]}",
            "@type": "CreativeWork",
            "name": name,
            "description": "Checkpoint that a training started from. Not in this crate.",
            "sha256": sha256,
        }
        for sha256, name in starts.items()
    ]


def _software(rows: Iterable[Row], citation: Mapping[str, Any]) -> list[Entity]:
    """famba as each row had it, with the packages and the Python that it ran on, each once."""
    entities: dict[str, Entity] = {}
    for row in rows:
        there = row.environment
        needs = {"python": there.python, **{name: version for name, version in there.packages.items() if version}}
        packages = [
            {"@id": _package_url(name, version), "@type": "SoftwareApplication", "name": name,
             "softwareVersion": version, "url": _package_url(name, version)}
            for name, version in needs.items()
        ]  # fmt: skip
        facts = [
            {"@id": f"#{what}-{value[:12]}", "@type": "PropertyValue", "name": name, "value": value}
            for what, name, value in (
                ("commit", "git commit", there.git_commit),
                ("lock", "sha256 of envs/requirements.txt", there.lock_sha256),
            )
            if value
        ]
        famba: Entity = {
            "@id": _software_id(there),
            "@type": "SoftwareApplication",
            "name": citation["title"],
            "softwareVersion": _version(there, citation),
            "license": {"@id": _spdx(citation["license"])},
            "identifier": [_ref(fact) for fact in facts],
            "softwareRequirements": [_ref(package) for package in packages],
        }
        if "repository-code" in citation:
            famba["url"] = citation["repository-code"]
        entities |= {entity["@id"]: entity for entity in (famba, *facts, *packages)}
    return list(entities.values())


def _software_id(there: Environment) -> str:
    """Rows of one commit, lock and Python share their software."""
    parts = [(there.git_commit or "unknown")[:12], "changed" if there.git_dirty else "", (there.lock_sha256 or "")[:12]]
    return "-".join(["#famba", *filter(None, parts), there.python])


def _version(there: Environment, citation: Mapping[str, Any]) -> str:
    commit = f"commit {there.git_commit}" if there.git_commit else "commit not known"
    return f"{citation['version']}, {commit}{', with local changes' if there.git_dirty else ''}"


def _package_url(name: str, version: str) -> str:
    if name == "python":
        return f"https://www.python.org/downloads/release/python-{version.replace('.', '')}/"
    return f"pkg:pypi/{name}@{version.partition('+')[0]}"  # purl: the package, wherever it is fetched from


def _containers(experiment: Experiment, rows: Iterable[Row]) -> list[Entity]:
    hashes = dict.fromkeys(row.environment.container_sha256 for row in rows)
    return [
        {
            "@id": f"#container-{sha256[:12]}",
            "@type": "ContainerImage",
            "additionalType": {"@id": f"{_TERMS}SIFImage"},
            "name": PurePosixPath(experiment.container).name,
            "sha256": sha256,
        }
        for sha256 in hashes
        if sha256
    ]


def _data(row: Row) -> Entity:
    data = row.data
    pixels = "their own sizes" if data.size is None else f"{data.size} × {data.size} pixels"
    records = "label, colour planes" if data.decoder is None else "class, sha256 of the file"
    return {
        "@id": "#data",
        "@type": "Dataset",
        "name": data.name,
        "description": f"{data.source}: {data.train:,} training and {data.test:,} test images of {pixels}, "
        f"{data.classes} classes{'' if data.official else '; NOT the published files'}. "
        f"Not in this crate; its licence is not recorded. sha256 over the sorted records ({records}): "
        f"train {data.train_digest}, test {data.test_digest}.",
        "contentSize": str(data.bytes),
        "sha256": data.sha256,
    }


def _snakemake(version: str | None) -> Entity:
    url = "https://snakemake.github.io"
    language = {"@id": _SNAKEMAKE, "@type": "ComputerLanguage", "name": "Snakemake", "url": url}
    return language | ({"version": version} if version else {})


def _paper(paper: Mapping[str, Any]) -> Entity:
    return {
        "@id": f"https://doi.org/{paper['doi']}",
        "@type": "ScholarlyArticle",
        "name": paper["title"],
        "author": [_ref(author) for author in _authors(paper)],
        "datePublished": str(paper["year"]),
        "isPartOf": paper["collection-title"],
        "identifier": [f"https://doi.org/{paper['doi']}", *(one["value"] for one in paper.get("identifiers", []))],
    }


def _authors(paper: Mapping[str, Any]) -> list[Entity]:
    names = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    return [{"@id": f"#{quote(name.replace(' ', '-'))}", "@type": "Person", "name": name} for name in names]


def _spdx(licence: str) -> str:
    return f"https://spdx.org/licenses/{licence}"
