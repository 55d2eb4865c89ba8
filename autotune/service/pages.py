"""The HTML pages, rendered on the server; their scripts use the public /v1 interface."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined

from autotune.compress.locate import EMBEDDED_MODEL
from autotune.core.options import EFFORTS
from autotune.core.quantities import format_bytes, format_count, format_seconds
from autotune.report.summary import verdict_text
from autotune.results.record import TuneRecord
from autotune.service.catalogue import describe_database, describe_device, describe_devices
from autotune.service.guard import PLOTS_POLICY
from autotune.service.job_files import artefacts_of
from autotune.service.job_records import Job
from autotune.service.job_schema import SUCCEEDED
from autotune.service.routes_jobs import JobId
from autotune.service.settings import Settings
from autotune.service.specs import defaults, flat_spec
from autotune.service.state import Caller, Parts
from autotune.service.summary import outcome
from autotune.service.tunings import open_record
from autotune.service.uploads import list_uploads

router = APIRouter(include_in_schema=False)
STATIC = StaticFiles(packages=[("autotune.service", "static")])

_BYTES = ("x", "MB", "GB", "MiB", "GiB")
_BUDGETS = (
    ("params_budget", "Parameters", ("x", "M", "B")),
    ("memory_budget", "Weight size", _BYTES),
    ("flops_budget", "FLOPs of linear layers", ("x", "G", "T")),
    ("kv_cache_budget", "KV cache size", _BYTES),
    ("activation_budget", "Activation memory", _BYTES),
)
_NUMBERS = (
    ("trials", "Optuna trials"),
    ("rounds", "Closed-loop rounds"),
    ("sensitivity_rounds", "Sensitivity rounds"),
    ("calibration_samples", "Calibration sequences"),
    ("seed", "Seed"),
)
_TEXTS = (
    ("quality_floor", "Quality floor (0.99, or 1.05x of the dense perplexity)"),
    ("calibration", "Calibration text"),
    ("backend", "Backend"),
    ("dtype", "Data type (fp32, bf16, fp16)"),
)
_FIGURES = (
    ("pareto", "Latency against loss", "Each point on the blue line is an exactly solved plan."),
    ("heat_map", "Chosen ranks", "Darker = fewer parameters kept; '=' marks a shared down factor."),
    (
        "waterfall",
        "From dense to compressed",
        "Savings by group of layers, and the part not explained.",
    ),
    ("agreement", "Predicted against measured", "Time of each layer inside the network."),
    ("rounds", "Closed loop", "Each round builds a plan and times it alternating with dense."),
    ("staircases", "Latency against rank", "Each distinct layer, with its interval."),
)
_SIZES = (
    ("tokens", "Tokens", 2048),
    ("in_features", "Input features", 4096),
    ("out_features", "Output features", 4096),
)
_BUDGET_NAMES = ("latency_budget", "quality_floor", *(name for name, _, _ in _BUDGETS))


def _clock(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds):%H:%M:%S}"


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("autotune.service"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "seconds": format_seconds,
        "bytes": format_bytes,
        "count": format_count,
        "clock": _clock,
    }
    return made


ENVIRONMENT = _environment()


def render(template: str, status: int = 200, *, plots: bool = False, **values: Any) -> HTMLResponse:
    """Render a page; `plots` allows the inline styles that plotly.js needs."""
    text = ENVIRONMENT.get_template(template).render(**{"here": "", "signed_in": False, **values})
    headers = {"Content-Security-Policy": PLOTS_POLICY} if plots else {}
    return HTMLResponse(text, status, headers)


def _row(job: Job) -> dict[str, Any]:
    """The cells of a job in a table of jobs."""
    spec = flat_spec(job.kind, job.spec)
    budgets = [
        f"{name.removesuffix('_budget').replace('_', ' ')} {spec[name]}"
        for name in _BUDGET_NAMES
        if spec.get(name)
    ]
    source = f"job …{spec['run'][-6:]}" if spec.get("run") else None
    when = datetime.datetime.fromtimestamp(job.created_at, datetime.UTC)
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "device": job.device,
        "model": spec.get("model") or source or EMBEDDED_MODEL,
        "budget": ", ".join(budgets),
        "outcome": (job.error or outcome(job.result))[:80],
        "created_at": when.isoformat(),
        "when": f"{when:%Y-%m-%d %H:%M} UTC",
    }


@router.get("/")
def jobs_page(
    parts: Parts,
    caller: Caller,
    *,
    before: Annotated[str | None, Query(pattern="^[0-9a-f]{20}$")] = None,
) -> HTMLResponse:
    """The page with the form for a new tuning and the list of jobs."""
    jobs = parts.database.page(before=before, limit=50)
    known = defaults("tune")
    uploads = list_uploads(parts.settings)
    return render(
        "jobs.html",
        here="jobs",
        signed_in=bool(caller),
        jobs=[_row(job) for job in jobs],
        devices=describe_devices(),
        counts=parts.counts.now(),
        next=jobs[-1].id if len(jobs) == 50 else None,
        models=_models(parts.settings, uploads),
        uploads=[(one["name"], sum(one["files"].values())) for one in uploads],
        default_model=EMBEDDED_MODEL,
        budgets=_BUDGETS,
        numbers=[(name, label, known[name]) for name, label in _NUMBERS],
        texts=_TEXTS,
        efforts=EFFORTS,
        effort=known["effort"],
    )


def _models(settings: Settings, uploads: Sequence[Mapping[str, Any]]) -> list[str]:
    """The model names that the form suggests."""
    local = [
        path.parent.relative_to(root).as_posix()
        for root in settings.model_roots
        for path in sorted(root.glob("*/config.json"))
    ]
    uploaded = [entry["name"] for entry in uploads]
    return [EMBEDDED_MODEL, *local, *uploaded, *sorted(settings.hub_ids)]


@router.get("/jobs/{job_id}")
def job_page(job_id: str, parts: Parts, *, caller: Caller) -> HTMLResponse:
    """The page of one job: its progress while it runs, then its result."""
    job = parts.database.get(job_id)
    record, problem = open_record(parts.settings, job)
    spec = flat_spec(job.kind, job.spec)
    spec = {k: v for k, v in spec.items() if v is not None and v is not False and v != []}
    return render(
        "job.html",
        signed_in=bool(caller),
        plots=record is not None,
        job=job,
        view=_row(job),
        record=record,
        spec=spec,
        verdict=verdict_text(record) if record else problem,
        figures=_FIGURES,
        events=parts.database.events(job_id, limit=10_000),
        artefacts=artefacts_of(parts.settings, job_id) if job.ended else [],
    )


@router.get("/devices")
def devices_page(parts: Parts, caller: Caller) -> HTMLResponse:
    """The page that lists all known devices."""
    points: dict[str, int] = {}
    for row in describe_database(parts.latencies):
        points[row["device"]] = points.get(row["device"], 0) + row["points"]
    return render(
        "devices.html",
        here="devices",
        signed_in=bool(caller),
        devices=describe_devices(),
        points=points,
    )


@router.get("/devices/{name}")
def device_page(name: str, parts: Parts, *, caller: Caller) -> HTMLResponse:
    """The page of one device: specification, measurements, and a form to predict a layer."""
    found = describe_device(parts.latencies, name)
    return render(
        "device.html",
        plots=True,
        here="devices",
        signed_in=bool(caller),
        sizes=_SIZES,
        **found,
    )


@router.get("/compare")
def compare_page(
    parts: Parts,
    caller: Caller,
    *,
    job: Annotated[list[JobId], Query(max_length=8)] = [],  # noqa: B006
) -> HTMLResponse:
    """The page that compares several results."""
    candidates = parts.database.page(states=[SUCCEEDED], kind="tune", limit=100)
    rows: list[tuple[str, str, TuneRecord]] = []
    for job_id in dict.fromkeys(job):
        found = parts.database.get(job_id)
        record, _ = open_record(parts.settings, found)
        if record is not None:
            view = _row(found)
            rows.append((job_id, f"{view['model']} on {view['device']}", record))
    return render(
        "compare.html",
        plots=bool(rows),
        here="compare",
        signed_in=bool(caller),
        candidates=[_row(one) for one in candidates],
        chosen=job,
        rows=rows,
        query=urlencode([("job", job_id) for job_id, _, _ in rows]),
    )


@router.get("/static/plotly.min.js")
def plotly_script() -> FileResponse:
    """plotly.js as bundled in the installed plotly package; nothing is loaded from a CDN."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    return FileResponse(path, headers={"Cache-Control": "max-age=86400"})
