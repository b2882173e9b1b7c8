"""What an inspection's numbers mean for whoever uses the asset: each limit, the words, and what to do.

Beside the limits, "assets" are 22 made by the silhouette method from twelve photos and ten photographed objects;
"objects" are the 60 known ones held out of training, from two sides each, right by definition; "pillars" are twelve
assets of a network that had hardly been trained, outlines drawn out along the photo's rays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checks import Check
from .soundness import STRAY

if TYPE_CHECKING:
    from .consistency import Inspection

# Assets measure 0.93 and more, photographed objects 0.62 and more, pillars 0.01 to 0.60.
LIKENESS_LIMIT = 0.55
# benchmarks/repeats.py measures how often objects that are right reach these two, and objects with several fronts;
# docs/evaluation.md has the rates. Assets reach 0.21 and 0.42.
SIDES_LIMIT = 0.6
BACK_LIMIT = 0.6
# Objects have 0.063 (a chopstick) and more, assets 0.118 and more.
THIN_LIMIT = 0.05
# Objects have 0.055 (a bowl) and more, assets 0.315 and more.
DEPTH_LIMIT = 0.04
# Assets have 0; one Gaussian in twenty thrown about gives 0.04, all of them shaken by 0.03 give 0.09.
STRAY_LIMIT = 0.02
# Assets have at most 0.002 at cuts and 0.021 at the photo's edge; objects exceed it in 12 of 60, painted from palettes.
SEAM_LIMIT = 0.04
# Assets have at most 0.0009; colours that depend on the view at random give 0.0095 to 0.013.
FLICKER_LIMIT = 0.006
# Assets have at most 0.0015, objects 0.0037 (thin wires).
POPPING_LIMIT = 0.005
# Assets have 25.2 dB and more; a tenth of the Gaussians gives 17.7 and 20.7, exchanged colours 10.0 and 19.8.
AGREEMENT_DB = 22.0
# Assets have 0.75 (a chopstick) and more; half a splat has 0.50 and 0.53.
AGREEMENT_IOU = 0.65
# Objects have 0.24 and more, assets 0.35 and more, a card of no thickness 0.
EMPTY_SHARE = 0.02


def findings_of(result: Inspection) -> tuple[Check, ...]:
    """Everything worth saying about an asset, most serious first → checks that fired."""
    found = [
        _empty_view(result),
        _front_distorted(result),
        _front_repeats(result),
        _card_like(result),
        _floaters(result),
        _stray_gaussians(result),
        _splat_disagrees(result),
        _flicker(result),
        _popping(result),
        _seams(result),
        _photo_edge(result),
        _back_repeats(result),
    ]
    return tuple(check for check in found if check is not None)


def _empty_view(result: Inspection) -> Check | None:
    """A view with next to nothing in it, of the mesh or of the splat."""
    for what, shares in (("mesh", result.coverage.mesh), ("splat", result.coverage.splat)):
        if shares is None:
            continue
        least, most = min(shares), max(max(shares), max(result.coverage.mesh))
        if least > EMPTY_SHARE * most:
            continue
        azimuth = result.azimuth_deg[shares.index(least)]
        return Check(
            "empty-view",
            least,
            f"the {what} covers {100 * least:.2f} % of the picture from azimuth {azimuth:.0f}°, at most "
            f"{100 * EMPTY_SHARE:.0f} % of the {100 * most:.1f} % that its largest view has: from there it all but "
            "disappears",
            "look at the contact sheet; try another method, or a photo that shows the object from an angle",
        )
    return None


def _front_repeats(result: Inspection) -> Check | None:
    found = result.repeats.sides()
    if found is None or found[0] < SIDES_LIMIT:
        return None
    return Check(
        "front-repeats",
        found[0],
        f"the front is seen again from azimuth {found[1]:.0f}°, with a likeness of {found[0]:.2f} beyond what all "
        f"sides share, at least {SIDES_LIMIT}: right for things that are the same on several sides, wrong for those "
        "with one front, which then have several (the Janus problem)",
        "look at that side on the contact sheet; if it is wrong, try another method or seed",
    )


def _front_distorted(result: Inspection) -> Check | None:
    found = result.front_likeness
    if found is None or found >= LIKENESS_LIMIT:
        return None
    return Check(
        "front-distorted",
        found,
        f"seen from the photo's side but from further off, the asset is like the photo by {found:.2f}, less than "
        f"{LIKENESS_LIMIT}: its shape only fits from where the photo was taken, as if stretched away from the camera",
        "look at the first views on the contact sheet, and try another method",
    )


def _back_repeats(result: Inspection) -> Check | None:
    found = result.repeats.back(mirrored=False)
    if found is None or found[0] < BACK_LIMIT:
        return None
    return Check(
        "back-repeats-front",
        found[0],
        f"the front is seen again from azimuth {found[1]:.0f}°, at the back, with a likeness of {found[0]:.2f}, at "
        f"least {BACK_LIMIT}: right for flat or symmetric things, wrong for those with a face",
        "if the back matters, look at it on the contact sheet, and try another method if it is wrong",
        severity="note",
    )


def _card_like(result: Inspection) -> Check | None:
    thin, depth = result.flatness.thinness, result.flatness.mean_depth
    remedy = "if the object is not flat, try another method, or a photo that shows it from an angle"
    if thin < THIN_LIMIT:
        return Check(
            "card-like",
            thin,
            f"the asset is {100 * thin:.1f} % as thick as it is long, less than {100 * THIN_LIMIT:.0f} %: it is a card",
            remedy,
        )
    if depth is not None and depth < DEPTH_LIMIT:
        return Check(
            "card-like",
            depth,
            f"behind its front outline the asset has a mean depth of {100 * depth:.1f} % of that outline's size, less "
            f"than {100 * DEPTH_LIMIT:.0f} %: it is a bent card or a thin shell",
            remedy,
        )
    return None


def _floaters(result: Inspection) -> Check | None:
    found = result.floaters
    if not found.count:
        return None
    parts = f"{found.count} small part{'s' if found.count > 1 else ''}"
    return Check(
        "floaters",
        found.count,
        f"{parts} with {100 * found.volume_share:.2f} % of the volume in all, more than 0, "
        f"{'hang' if found.count > 1 else 'hangs'} in the air away from the rest",
        "delete them in a mesh editor, or cut the object out more tightly with a mask",
    )


def _stray_gaussians(result: Inspection) -> Check | None:
    share = result.floaters.stray_share
    if share is None or share <= STRAY_LIMIT:
        return None
    return Check(
        "stray-gaussians",
        share,
        f"{100 * share:.1f} % of the splat, by opacity and size, lies further than {100 * STRAY:.0f} % of the object's "
        f"length from the mesh, more than {100 * STRAY_LIMIT:.0f} %: it shows as fog or specks",
        "use the mesh, or fit with more steps or more views",
    )


def _splat_disagrees(result: Inspection) -> Check | None:
    found = result.agreement
    if found is None or (found.psnr_db >= AGREEMENT_DB and found.worst_mask_iou >= AGREEMENT_IOU):
        return None
    color = found.psnr_db < AGREEMENT_DB
    value = found.psnr_db if color else found.worst_mask_iou
    what = (
        f"their pictures differ by {value:.1f} dB on average, less than {AGREEMENT_DB:.0f} dB"
        if color
        else f"from the worst side their outlines overlap by {100 * value:.0f} %, less than {100 * AGREEMENT_IOU:.0f} %"
    )
    return Check(
        "splat-disagrees",
        value,
        f"the splat does not look like the mesh: {what}; one of them is wrong",
        "compare the two rows of the contact sheet, and use the one that is right",
    )


def _flicker(result: Inspection) -> Check | None:
    mesh = result.mesh_steadiness.warp_error
    splat = None if result.splat_steadiness is None else result.splat_steadiness.warp_error
    if mesh is None or splat is None or splat - mesh <= FLICKER_LIMIT:
        return None
    return Check(
        "flicker",
        round(splat - mesh, 5),
        f"from one frame to the next the splat changes by {100 * splat:.1f} % where nothing should change, the mesh by "
        f"{100 * mesh:.1f} %: more than {100 * FLICKER_LIMIT:.0f} % apart, so it flickers when it is turned",
        "use the mesh, or fit with more steps or fewer Gaussians",
    )


def _popping(result: Inspection) -> Check | None:
    for what, steady in (("splat", result.splat_steadiness), ("mesh", result.mesh_steadiness)):
        jump = None if steady is None else steady.popping
        if jump is not None and jump > POPPING_LIMIT:
            return Check(
                "popping",
                jump,
                f"between two frames of a smooth turn the {what} changes by {100 * jump:.1f} % more than between the "
                f"others, over {100 * POPPING_LIMIT:.1f} %: parts of it pop in or out",
                "look at the turntable; use the mesh if it is the splat, or try another method",
            )
    return None


def _seams(result: Inspection) -> Check | None:
    found = result.seams
    if found.charts is None or found.charts - (found.inside or 0.0) <= SEAM_LIMIT:
        return None
    return Check(
        "texture-seams",
        round(found.charts - (found.inside or 0.0), 5),
        f"colour changes by {100 * found.charts:.1f} % across the cuts of the texture and by "
        f"{100 * (found.inside or 0.0):.1f} % elsewhere, more than {100 * SEAM_LIMIT:.0f} % apart: the cuts show, "
        "unless they run between parts of different colours",
        "bake a larger texture, or repaint along the cuts",
    )


def _photo_edge(result: Inspection) -> Check | None:
    found = result.seams
    if found.seen is None or found.seen - (found.inside or 0.0) <= SEAM_LIMIT:
        return None
    return Check(
        "photo-edge",
        round(found.seen - (found.inside or 0.0), 5),
        f"where the photo's pixels end, colour changes by {100 * found.seen:.1f} %, elsewhere by "
        f"{100 * (found.inside or 0.0):.1f} %, more than {100 * SEAM_LIMIT:.0f} % apart: the photo's edge shows",
        "photograph the object in soft light, or try another method",
    )
