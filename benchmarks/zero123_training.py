"""How near are a trained Zero-1-to-3's views of unseen objects to the truth, by how far the camera turned?

    python benchmarks/zero123_training.py --model RUN/model --data VALIDATION [--train DATA] [-o picture.png]

VALIDATION is what ``obverse data render`` made of objects that the model has not seen. For each band of azimuths, pairs
of views are drawn, as many from each object; the model is given the first view and both cameras. Beside it stand three
guesses that know nothing of cameras: the first view itself, white, and the mean of all views in DATA. Silhouettes are
pixels more than a tenth from white; those of the first view and of the truth are the renderer's own.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from obverse.multiview.zero123 import load
from obverse.parallel import set_threads
from obverse.training.pairs import Pairs
from obverse.training.shards import open_shards
from obverse.training.zero123 import grid, sample

BANDS = ((0, 45), (45, 90), (90, 135), (135, 180))


def turned(source, target):
    """Degrees of azimuth between two cameras, 0 to 180."""
    return abs((target[0] - source[0] + 180) % 360 - 180)


def draw(views, band, per_object, rng):
    """(object, source, target) of pairs in a band."""
    rows = []
    for number in range(len(views)):
        count = len(views.objects[number])
        cameras = [views.camera(number, view) for view in range(count)]
        fits = [
            (number, a, b)
            for a in range(count)
            for b in range(count)
            if a != b and band[0] <= turned(cameras[a], cameras[b]) < band[1] + (band[1] == 180)
        ]
        rows += [fits[i] for i in rng.permutation(len(fits))[:per_object]]
    return rows


def psnr(image, truth):
    return float(-10 * np.log10(max(float(((image - truth) ** 2).mean()), 1e-10)))


def iou(a, b):
    return float((a & b).sum() / max(int((a | b).sum()), 1))


def seen(image):
    """Silhouette of a picture [S, S, 3] on white."""
    return image.min(-1) < 0.9


def predicted(model, pairs, rows, options):
    """Views [B, S, S, 3] of the pairs' targets, the mean of some samples each."""
    generator = torch.Generator().manual_seed(options.seed)
    made = []
    for start in range(0, len(rows), 32):
        part = rows[start : start + 32]
        pixels = torch.from_numpy(np.stack([pairs.picture(o, s) for o, s, _ in part]))
        pose = torch.stack([pairs.pose(o, s, t) for o, s, t in part])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=not options.full):
            latents, embedding = model.encode_mode(pixels).float(), model.embed(pixels)[:, 0].float()
            samples = [
                sample(
                    model, latents, embedding, pose, steps=options.steps, guidance=options.guidance,
                    noise=torch.randn(latents.shape, generator=generator),
                )
                for _ in range(options.samples)
            ]  # fmt: skip
        made.append(torch.stack(samples).float().mean(0))
    return torch.cat(made).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train", type=Path, help="what the mean view is taken of")
    parser.add_argument("-o", "--output", type=Path, help="write a picture: source, truth, prediction")
    parser.add_argument("--per-object", type=int, default=2, help="pairs of each object and band")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--samples", type=int, default=1, help="their mean is the prediction")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--edges", default="soft")
    parser.add_argument("--full", action="store_true", help="float32 instead of bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    set_threads(options.threads)
    model = load(options.model)
    print(model.loaded)
    pairs = Pairs(open_shards(options.data), model.size, model.family, options.edges)
    rng = np.random.default_rng(options.seed)
    mean = None
    if options.train:
        known = Pairs(open_shards(options.train), model.size, model.family, options.edges)
        every = [known.picture(o, v) for o in range(len(known.views)) for v in range(len(known.views.objects[o]))]
        mean = (np.mean(every, 0) / 2 + 0.5).transpose(1, 2, 0)
    print(
        "| azimuth | pairs | PSNR | copy | white | mean view | better than copy | IoU | IoU, copy | better than copy |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    shown = []
    for band in BANDS:
        rows = draw(pairs.views, band, options.per_object, rng)
        made = predicted(model, pairs, rows, options)
        table = []
        for (number, source, target), image in zip(rows, made, strict=True):
            first, truth = ((pairs.picture(number, view) / 2 + 0.5).transpose(1, 2, 0) for view in (source, target))
            masks = [
                np.asarray(Image.fromarray(pairs.views.image(number, v)[..., 3]).resize(truth.shape[:2])) > 127
                for v in (source, target)
            ]
            table.append(
                (
                    psnr(image, truth), psnr(first, truth), psnr(np.ones_like(truth), truth),
                    np.nan if mean is None else psnr(mean, truth), iou(seen(image), masks[1]), iou(*masks),
                )
            )  # fmt: skip
            if len(shown) < 6 * (1 + BANDS.index(band)):
                shown.append((first, truth, image))
        t = np.array(table)
        print(
            f"| {band[0]}–{band[1]}° | {len(t)} | {t[:, 0].mean():.2f} | {t[:, 1].mean():.2f} | {t[:, 2].mean():.2f} "
            f"| {t[:, 3].mean():.2f} | {100 * (t[:, 0] > t[:, 1]).mean():.0f} % | {t[:, 4].mean():.3f} "
            f"| {t[:, 5].mean():.3f} | {100 * (t[:, 4] > t[:, 5]).mean():.0f} % |",
            flush=True,
        )
    if options.output:
        columns = [torch.from_numpy(np.stack(column)) for column in zip(*shown, strict=True)]
        Image.fromarray(grid(columns)).save(options.output)


if __name__ == "__main__":
    main()
