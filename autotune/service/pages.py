"""The pages, rendered here; their scripts ask the same /v1 that everybody asks."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from autotune.compress.locate import EMBEDDED_MODEL
from autotune.core.quantities import format_bytes, format_count, format_seconds
from autotune.service.catalogue import describe_database, describe_device, describe_devices
from autotune.service.guard import COOKIE, PLOTS_POLICY, check_access
from autotune.service.job_files import artefacts_of
from autotune.service.job_records import Job
from autotune.service.job_schema import SUCCEEDED
from autotune.service.settings import Settings
from autotune.service.specs import defaults, flat_spec
from autotune.service.state import Caller, Parts
from autotune.service.tunings import read_record
from autotune.service.uploads import list_uploads

router = APIRouter(include_in_schema=False)
STATIC = StaticFiles(packages=[("autotune.service", "static")])

_BYTES = ("x", "MB", "GB", "MiB", "GiB")
_BUDGETS = (
    ("params_budget", "Parameters", ("x", "M", "B")),
    ("memory_budget", "Bytes of the weights", _BYTES),
    ("flops_budget", "FLOPs of the linear layers", ("x", "G", "T")),
    ("kv_cache_budget", "Bytes of the KV cache", _BYTES),
    ("activation_budget", "Bytes of activations", _BYTES),
)
_NUMBERS = (
    ("trials", "Optuna trials"),
    ("rounds", "Rounds of the closed loop"),
    ("sensitivity_rounds", "Rounds of the sensitivity pass"),
    ("calibration_samples", "Calibration sequences"),
    ("seed", "Seed"),
)
_TEXTS = (
    ("calibration", "Calibration text"),
    ("backend", "Backend"),
    ("dtype", "Number format (fp32, bf16, fp16)"),
)
_FIGURES = (
    ("pareto", "Latency against loss", "Every point of the blue line is an exact plan."),
    ("heat_map", "Chosen ranks", "The darker, the fewer parameters are kept; = shares its down."),
    ("waterfall", "From dense to compressed", "Savings by group, and what they do not explain."),
    ("agreement", "Predicted against measured", "Seconds of each layer inside the network."),
    ("rounds", "Closed loop", "Each round builds the plan and measures it in turn with dense."),
    ("staircases", "Latency against rank", "Every distinct layer, with the interval."),
)
_SIZES = (
    ("tokens", "Tokens", 2048),
    ("in_features", "In features", 4096),
    ("out_features", "Out features", 4096),
)
_BUDGET_NAMES = ("latency_budget", *(name for name, _, _ in _BUDGETS))


def _clock(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds):%H:%M:%S}"


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("autotune.service"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "seconds": format_seconds, "bytes": format_bytes, "count": format_count, "clock": _clock,
    }  # fmt: skip
    return made


ENVIRONMENT = _environment()


def render(template: str, status: int = 200, plots: bool = False, **values: Any) -> HTMLResponse:
    """A page; `plots` says whether plotly.js draws on it."""
    text = ENVIRONMENT.get_template(template).render(**{"here": "", **values})
    headers = {"Content-Security-Policy": PLOTS_POLICY} if plots else {}
    return HTMLResponse(text, status, headers)


def _row(job: Job) -> dict[str, Any]:
    """What a table says of a job."""
    spec, result = flat_spec(job.kind, job.spec), job.result or {}
    ratio = result.get("measured_ratio") or result.get("predicted_ratio")
    outcome = job.error or ""
    if ratio is not None:
        outcome = f"{ratio:.3f}, {'met' if result['within_budget'] else 'missed'}"
    budgets = (f"{name.removesuffix('_budget')} {spec[name]}" for name in _BUDGET_NAMES
               if spec.get(name))  # fmt: skip
    when = datetime.datetime.fromtimestamp(job.created_at, datetime.UTC)
    return {
        "id": job.id, "kind": job.kind, "state": job.state, "device": job.device,
        "model": spec.get("model") or (spec.get("run") and f"of …{spec['run'][-6:]}")
        or EMBEDDED_MODEL,
        "budget": ", ".join(budgets), "outcome": outcome[:80], "created_at": when.isoformat(),
        "when": f"{when:%Y-%m-%d %H:%M} UTC",
    }  # fmt: skip


@router.get("/")
def jobs_page(
    parts: Parts, _: Caller, before: Annotated[str | None, Query(pattern="^[0-9a-f]{20}$")] = None
) -> HTMLResponse:
    """The form and the list."""
    jobs = parts.database.page(before=before, limit=50)
    known = defaults("tune")
    return render(
        "jobs.html", here="jobs", jobs=[_row(job) for job in jobs], devices=describe_devices(),
        counts=parts.counts.now(), next=jobs[-1].id if len(jobs) == 50 else None,
        models=_models(parts.settings), default_model=EMBEDDED_MODEL, budgets=_BUDGETS,
        numbers=[(name, label, known[name]) for name, label in _NUMBERS], texts=_TEXTS,
    )  # fmt: skip


def _models(settings: Settings) -> list[str]:
    """Names that the form offers."""
    local = [
        path.parent.relative_to(root).as_posix()
        for root in settings.model_roots
        for path in sorted(root.glob("*/config.json"))
    ]
    uploads = [entry["name"] for entry in list_uploads(settings)]
    return [EMBEDDED_MODEL, *local, *uploads, *sorted(settings.hub_ids)]


@router.get("/jobs/{job_id}")
def job_page(job_id: str, parts: Parts, _: Caller) -> HTMLResponse:
    """One job: its progress, then its result."""
    job = parts.database.get(job_id)
    record = read_record(parts.settings, job)
    spec = flat_spec(job.kind, job.spec)
    spec = {k: v for k, v in spec.items() if v not in (None, [], False)}
    return render(
        "job.html", plots=record is not None, job=job, view=_row(job), record=record, spec=spec,
        figures=_FIGURES,
        events=parts.database.events(job_id, limit=10_000),
        artefacts=artefacts_of(parts.settings, job_id) if job.ended else [],
    )  # fmt: skip


@router.get("/devices")
def devices_page(parts: Parts, _: Caller) -> HTMLResponse:
    """All of them."""
    points: dict[str, int] = {}
    for row in describe_database(parts.settings):
        points[row["device"]] = points.get(row["device"], 0) + row["points"]
    return render("devices.html", here="devices", devices=describe_devices(), points=points)


@router.get("/devices/{name}")
def device_page(name: str, parts: Parts, _: Caller) -> HTMLResponse:
    """Its sheet, what was measured, and what a layer would cost."""
    found = describe_device(parts.settings, name)
    return render("device.html", plots=True, here="devices", sizes=_SIZES, **found)


@router.get("/compare")
def compare_page(
    parts: Parts, _: Caller, job: Annotated[list[str], Query(max_length=8)] = [],  # noqa: B006
) -> HTMLResponse:  # fmt: skip
    """Several results side by side."""
    candidates = parts.database.page(states=[SUCCEEDED], kind="tune", limit=100)
    rows: list[tuple[str, str, Mapping[str, Any]]] = []
    for job_id in dict.fromkeys(job):
        found = parts.database.get(job_id)
        record = read_record(parts.settings, found)
        if record is not None:
            view = _row(found)
            rows.append((job_id, f"{view['model']} on {view['device']}", record))
    return render(
        "compare.html", plots=bool(rows), here="compare",
        candidates=[_row(one) for one in candidates],
        chosen=job, rows=rows, query=urlencode([("job", job_id) for job_id, _, _ in rows]),
    )  # fmt: skip


class Login(BaseModel):
    """What the sign-in page sends."""

    key: Annotated[str, Query(max_length=200)]


@router.get("/login")
def login_page(
    target: Annotated[str, Query(alias="next", max_length=500)] = "/",
) -> HTMLResponse:
    """Where a browser gets its cookie."""
    inside = target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/"
    return render("login.html", next=inside)


@router.post("/login")
def login(body: Login, request: Request, parts: Parts) -> JSONResponse:
    """Keep the key in a cookie that no script reads and no other site sends."""
    check_access(parts.database, body.key)
    answer = JSONResponse({"ok": True})
    answer.set_cookie(
        COOKIE, body.key, httponly=True, samesite="strict", secure=request.url.scheme == "https",
        max_age=30 * 86_400,
    )  # fmt: skip
    return answer


@router.get("/static/plotly.min.js")
def plotly_script() -> FileResponse:
    """As the installed plotly package holds it: nothing is fetched from elsewhere."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    return FileResponse(path, headers={"Cache-Control": "max-age=86400"})
