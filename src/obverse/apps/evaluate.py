"""``obverse evaluate``: methods over known objects → a table with intervals; or one asset against its truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import trimesh
from PIL import Image

from .. import __version__
from ..create import METHODS, Settings, create
from ..errors import InputError, PartialFailure, UsageError
from ..evaluation.benchmark import BASELINES, Entrant, entrant, run, score_pair
from ..evaluation.cases import make_cases, read_cases, write_cases
from ..evaluation.protocols import Protocol, grid, protocol_named
from ..evaluation.report import interval, write_report
from ..evaluation.summary import ALL, DONE, LEFT_OUT, REFERENCE, Metric, image_metrics, shape_metrics
from ..formats.files import atomic_write
from ..formats.meshes import read_mesh
from ..photo import Subject
from ..sheet import png_bytes
from .console import Console

SHORT = ("psnr_db", "mask_iou", "chamfer", "volume_iou")  # what is said on the terminal; the rest is in the report


@dataclass(frozen=True)
class Judging:
    """The protocol as the command line names it; None where the preset decides."""

    protocol: str
    views: int | None = None
    elevations: str | None = None
    size: int | None = None
    points: int | None = None
    align: str | None = None

    def resolve(self) -> Protocol:
        """The preset with what was changed, which then goes by another name."""
        preset = protocol_named(self.protocol)
        changes: dict[str, Any] = {
            name: value
            for name, value in (("size", self.size), ("points", self.points), ("align", self.align))
            if value is not None
        }
        if self.align == "yaw-icp":
            changes["lead"] = "aligned"  # a result that had to be turned can only be shown turned
        if self.views is not None or self.elevations is not None:
            angles = parse_degrees(self.elevations) if self.elevations is not None else (0.0, 30.0)
            changes |= {"views": grid(8 if self.views is None else self.views, angles), "elevations_from": "horizon"}
        changes = {name: value for name, value in changes.items() if getattr(preset, name) != value}
        if not changes:
            return preset
        said = ", ".join(
            f"{len(value)} views" if isinstance(value, tuple) else f"{name} {value}" for name, value in changes.items()
        )
        differs = f"{preset.differs} Changed by the caller: {said}.".strip()
        return replace(preset, name=f"{preset.name}-changed", differs=differs, **changes)

    @property
    def changes(self) -> bool:
        """Whether anything but the default preset was asked for."""
        return self != Judging("obverse")


@dataclass(frozen=True)
class EvaluateJob:
    """What to run."""

    methods: tuple[str, ...]
    judging: Judging
    settings: Settings
    device: str
    photos: int
    seeds: int
    seed: int
    limit: int | None
    groups: Path | None
    cases: Path | None
    oracle: bool


def evaluate_objects(objects: Path, output: Path, job: EvaluateJob, console: Console) -> None:
    """Run the methods over the objects, write the report, and say what came of it.

    Raises:
        PartialFailure: a method failed on some case, or an object cannot be used; the report is written and names
            them.
        InputError: no object can be used.
        UsageError: unknown methods or protocol, or options that cases decide already.
    """
    names = check_methods(job.methods)
    if job.cases is not None:
        if job.judging.changes or (job.photos, job.seeds, job.seed, job.limit, job.groups) != (1, 1, 0, None, None):
            raise UsageError("--cases holds protocol, photos and seeds; leave the options that choose them out")
        cases, protocol = read_cases(job.cases)
    else:
        protocol = job.judging.resolve()
        cases = make_cases(
            objects, protocol, photos=job.photos, seeds=job.seeds, seed=job.seed, limit=job.limit, groups=job.groups
        )
    entrants = line_up(names, job)
    write_cases(output / "cases.json", cases, protocol)
    metrics = [*image_metrics(), *shape_metrics(protocol.lead, protocol)]
    shown = [metric for metric in metrics if metric.name in SHORT]
    teller = _Teller(console, shown, len(cases), len(entrants))
    records = run(cases, entrants, protocol, objects=objects, output=output, listener=teller)
    content = write_report(output, records, entrants, protocol)
    methods = content["groups"][ALL]
    short = {name: {m.name: row[m.key] for m in shown} | {"failed": row["failed"]} for name, row in methods.items()}
    out = len(content["left_out"])
    record = {"status": "done", "output": str(output), "cases": len(cases) - out, "left_out": out, "methods": short}
    console.result(record, _text(output, len(cases) - out, methods, shown))
    faults = [f"{out} of {len(cases)} cases were left out, as their objects cannot be used"] if out else []
    if content["failures"]:
        faults.append(f"{len(content['failures'])} of {len(records) - out} runs failed")
    if faults:
        raise PartialFailure(
            f"{'; '.join(faults)}; {output / 'table.md'} names them, the others are done. Run again to try them again"
        )


def evaluate_asset(asset: Path, truth: Path, output: Path | None, judging: Judging, console: Console) -> None:
    """Compare one finished asset with its truth, and say how near it is."""
    protocol = judging.resolve()
    mine = read_mesh(asset / "asset.glb" if asset.is_dir() else asset)
    scores, pictures = score_pair(mine, read_mesh(truth), protocol)
    record = {"asset": str(asset), "truth": str(truth), "protocol": protocol.name, **scores}
    if output is not None:
        atomic_write(output / "score.json", (json.dumps(record, indent=1) + "\n").encode())
        atomic_write(output / "sheet.png", png_bytes(_stacked(pictures)))
    images = scores["images"]
    lines = [
        f"PSNR {_number(images['psnr_db'], 2)} dB, SSIM {_number(images['ssim'], 3)}, mask IoU "
        f"{_number(images['mask_iou'], 3)} over {len(scores['views'])} views; visible "
        f"{_number(images['psnr_visible_db'], 2)} dB, hidden {_number(images['psnr_hidden_db'], 2)} dB",
    ]
    words = {"placed": "placed by the outline", "aligned": f"aligned ({protocol.align})", "raw": "as it stands"}
    for name, part in ((words[key], scores[key]) for key in words):
        lines.append(
            f"{name}: CD {part['chamfer']:.4f} (to truth {part['chamfer_to_truth']:.4f}, from truth "
            f"{part['chamfer_from_truth']:.4f}), F@0.05 {part['f_0.05']:.3f}, IoU "
            f"{_number(part.get('volume_iou'), 3)}, normals {part['normal_consistency']:.3f}"
        )
    if output is not None:
        lines.append(f"{output}: score.json, sheet.png")
    console.result({**record, "views": len(scores["views"])}, "\n".join(lines))


def check_methods(names: Sequence[str]) -> list[str]:
    """Names of methods, the reference among them, each once.

    Raises:
        UsageError: a name is none of ``METHODS``.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise UsageError(f"--method is {', '.join(unknown)}; choose from: {', '.join(METHODS)}")
    return list(dict.fromkeys([REFERENCE, *names]))


def line_up(names: Sequence[str], job: EvaluateJob) -> list[Entrant]:
    """The lines of the table: the card, the methods, the oracle."""
    card, oracle = BASELINES
    settings = json.dumps(asdict(job.settings), sort_keys=True)
    made = [
        entrant(
            name,
            lambda subject, seed, name=name: _made(subject, seed, name, job),  # type: ignore[misc]
            about=f"{METHODS[name].summary} obverse {__version__}, {job.device}, settings {settings}",
        )
        for name in names
    ]
    return [card, *made, *([oracle] if job.oracle else [])]


def _made(subject: Subject, seed: int, name: str, job: EvaluateJob) -> trimesh.Trimesh:
    return create(subject, method=name, seed=seed, settings=job.settings, device=job.device).mesh


def parse_degrees(text: str) -> tuple[float, ...]:
    """ "0,30" → (0.0, 30.0).

    Raises:
        UsageError: it is no list of numbers.
    """
    try:
        return tuple(float(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError:
        raise UsageError(
            f"--elevations is {text!r}, it must be degrees with commas between, for example 0,30"
        ) from None


def check_inputs(asset: Path | None, truth: Path | None, objects: Path | None) -> None:
    """Either one asset with its truth, or a folder of objects.

    Raises:
        UsageError: neither, or parts of both. InputError: the folder is not there.
    """
    if (asset is None) != (truth is None):
        raise UsageError("an asset is judged by its truth: give both, obverse evaluate ASSET --truth MESH")
    if (asset is None) == (objects is None):
        raise UsageError("give either --objects DIR with --method, or ASSET with --truth MESH")
    if objects is not None and not objects.is_dir():
        raise InputError(f"--objects {objects} is not a folder; give one that holds meshes")


class _Teller:
    """Says each record as it becomes known."""

    def __init__(self, console: Console, metrics: Sequence[Metric], cases: int, entrants: int) -> None:
        self.console, self.metrics, self.entrants = console, metrics, entrants
        self.total, self.count = cases * entrants, 0

    def __call__(self, case: str, method: str, record: dict[str, Any]) -> None:
        if record["status"] == LEFT_OUT:
            self.total -= self.entrants
            self.console.say(f"  {case} is left out: {record['error']}")
            return
        self.count += 1
        if record["status"] == DONE:
            found = (f"{m.title} {_number(m.of(record), m.digits)}" for m in self.metrics)
            what = f"{', '.join(found)}  ({record['seconds']:.1f} s)"
        else:
            what = f"failed: {record['error']}"
        self.console.say(f"  {self.count}/{self.total}  {case}  {method}: {what}")


def _text(output: Path, cases: int, methods: dict[str, Any], metrics: Sequence[Metric]) -> str:
    lines = [f"{output}: table.md, by_angle.png, sheet.png, report.json, cases.json  ({cases} cases)"]
    for name, row in methods.items():
        cells = "  ".join(f"{metric.title} {interval(row[metric.key], metric.digits)}" for metric in metrics)
        lines.append(f"  {name:<10} {cells}" + (f"  {row['failed']} failed" if row["failed"] else ""))
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width, one above the other."""
    sheet = Image.new("RGB", (pictures[0].width, sum(p.height for p in pictures)), (255, 255, 255))
    y = 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height
    return sheet
