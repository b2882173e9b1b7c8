"""Stable Diffusion as a critic of views: any text-conditioned folder of diffusers, with words for the view.

A text model knows no cameras, so the prompt says where the camera is: "front view", "side view", "back view" or
"overhead view" (Poole et al. 2022, "DreamFusion", section 3.3). With negative prompts in the same words it can also be
asked what a view should not be, which fights the front appearing on every side (Armandpour et al. 2023, "Perp-Neg").

    model = load("stable-diffusion-2-1-base")                     # a folder, or a Hub id
    denoiser = model.conditioned("a plush dragon")                # for obverse.lifting.distill

Versions 1 and 2 differ in the text encoder's width and in what is predicted (noise, or v), both of which the folder's
files say. Read from there: ``unet``, ``vae``, ``text_encoder``, ``tokenizer`` and the ``scheduler``'s betas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cameras import Cameras
from ..errors import UsageError, WeightsError, need

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
VIEWS = ("front", "side", "back", "overhead")
OVERHEAD_DEG, FRONT_DEG, BACK_DEG = 60.0, 45.0, 45.0  # threestudio: above, to each side of the front, of the back

# a exp(−b r) + c, weights of negative prompts (threestudio, ``prompt_processors/base.py``)
SIDE_BACK, FRONT_SIDE_BACK, FRONT_SIDE = (1.0, 0.5, -0.606), (1.0, 0.5, 0.967), (4.0, 0.5, -2.426)


@dataclass(frozen=True)
class StableDiffusion:
    """The networks of one folder."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    alphas_cumprod: Tensor  # [T]
    prediction: Literal["epsilon", "v_prediction"]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.unet.parameters())).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(iter(self.unet.parameters())).dtype

    @property
    def size(self) -> int:
        """Side in pixels of the pictures it was trained on."""
        return int(self.unet.config.sample_size) * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def embed(self, texts: list[str]) -> Tensor:
        """Texts → embeddings [B, L, C]; longer ones are cut."""
        length = min(int(self.tokenizer.model_max_length), int(self.text_encoder.config.max_position_embeddings))
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        embedded: Tensor = self.text_encoder(tokens.to(self.device))[0]
        return embedded

    def conditioned(self, prompt: str, *, negative: str = "", views: bool = True) -> ConditionedText:
        """The networks bound to a prompt, for distillation.

        Args:
            prompt: what the object is: "a plush dragon".
            negative: what pictures should not be; takes the place of the empty prompt.
            views: add the words for the view.

        Raises:
            UsageError: the prompt is empty.
        """
        if not prompt.strip():
            raise UsageError(f"prompt is {prompt!r}, it must say what the object is, for example 'a plush dragon'")
        told = [f"{prompt}, {view} view" if views else prompt for view in VIEWS]
        embedded = self.embed([*told, prompt, negative])
        return ConditionedText(self, embedded[:4], embedded[4], embedded[5])


@dataclass(frozen=True)
class ConditionedText:
    """A denoiser that knows a prompt and is asked about any camera. Latents are scaled and float32."""

    model: StableDiffusion
    given: Tensor  # [4, L, C] the prompt as seen from the front, side, back and above
    bare: Tensor  # [L, C] the prompt without words for the view
    without: Tensor  # [L, C] the empty or negative prompt

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] share of the picture's variance left at each time."""
        return self.model.alphas_cumprod.to(self.model.device)

    @property
    def prediction(self) -> Literal["epsilon", "v_prediction"]:
        """What ``predict`` answers with."""
        return self.model.prediction

    def plain(self) -> ConditionedText:
        """The same without words for the view: what the learner of ``vsd`` is told (ProlificDreamer)."""
        return replace(self, given=self.bare.expand_as(self.given))

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, H, W, 3] in 0–1 → scaled latents [B, 4, h, w]; differentiable, other sizes are resized."""
        vae, size = self.model.vae, self.model.size
        pixels = images.to(self.model.device).permute(0, 3, 1, 2) * 2 - 1
        if pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bilinear")
        latents: Tensor = vae.encode(pixels.to(self.model.dtype)).latent_dist.mode()
        return latents.float() * vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] → images [B, S, S, 3] in 0–1."""
        vae = self.model.vae
        pixels: Tensor = vae.decode((latents / vae.config.scaling_factor).to(self.model.dtype)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    def predict(self, noisy: Tensor, timesteps: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """Predictions without and with the prompt for latents [B, 4, h, w] at times [B], as seen by B cameras."""
        chosen = self.given[view_of(cameras).to(self.given.device)]
        without, given = self._ask(noisy, timesteps, [self.without.expand_as(chosen), chosen])
        return without, given

    def predict_against(
        self, noisy: Tensor, timesteps: Tensor, cameras: Cameras
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``predict``, with the prompt interpolated between views, and predictions under two negative prompts
        [2, B, 4, h, w] with their weights [2, B]."""
        mixture, against, weights = contrasts(cameras)
        given = torch.einsum("bv,vlc->blc", mixture.to(self.given), self.given)
        others = [self.given[index.to(self.given.device)] for index in against]
        answers = self._ask(noisy, timesteps, [self.without.expand_as(given), given, *others])
        return answers[0], answers[1], torch.stack(answers[2:]), weights.to(noisy)

    def _ask(self, noisy: Tensor, timesteps: Tensor, contexts: list[Tensor]) -> list[Tensor]:
        """The network's answers under several contexts [B, L, C], in one batch."""
        n, model = len(contexts), self.model
        sample = noisy.to(model.device, model.dtype).repeat(n, 1, 1, 1)
        times = timesteps.to(model.device).repeat(n)
        context = torch.cat(contexts).to(model.dtype)
        answer: Tensor = model.unet(sample, times, encoder_hidden_states=context).sample
        return list(answer.float().chunk(n))


# ------------------------------------------------------------------------------------------------- views


def view_of(cameras: Cameras) -> Tensor:
    """Which of ``VIEWS`` each of B cameras has → [B] int64. Above 60° of elevation it is "overhead"."""
    elevation, azimuth = _angles(cameras)
    found = torch.ones_like(azimuth, dtype=torch.int64)
    found[azimuth.abs() < FRONT_DEG] = 0
    found[azimuth.abs() > 180 - BACK_DEG] = 2
    found[elevation > OVERHEAD_DEG] = 3
    return found


def contrasts(cameras: Cameras) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """For Perp-Neg: how B cameras mix the four views [B, 4], two views each is not [B], and their weights [2, B].

    Between front and side, and between side and back, prompts are interpolated by azimuth; weights decay as
    threestudio has them, and are 0 from above.
    """
    elevation, azimuth = _angles(cameras)
    turn = azimuth.abs() / 90
    ahead = turn < 1
    share = torch.where(ahead, 1 - turn, 2 - turn)  # of the front, or of the side
    mixture = torch.zeros(len(turn), 4)
    mixture[:, 0] = torch.where(ahead, share, 0.0)
    mixture[:, 1] = torch.where(ahead, 1 - share, share)
    mixture[:, 2] = torch.where(ahead, 0.0, 1 - share)
    first = torch.where(ahead, 0, 1)
    weights = torch.stack(
        [
            torch.where(ahead, _decay(FRONT_SIDE, share), _decay(SIDE_BACK, share)),
            torch.where(ahead, _decay(FRONT_SIDE, 1 - share), _decay(FRONT_SIDE_BACK, share)),
        ]
    )
    above = elevation > OVERHEAD_DEG
    mixture[above] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    return mixture, (first, 1 - first), torch.where(above, 0.0, -weights)


def _decay(numbers: tuple[float, float, float], share: Tensor) -> Tensor:
    a, b, c = numbers
    return a * torch.exp(-b * share) + c


def _angles(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Elevations and azimuths [B] in degrees, the latter in −180–180."""
    x, y, z = cameras.positions.reshape(-1, 3).float().cpu().unbind(-1)
    return torch.rad2deg(torch.atan2(y, torch.hypot(x, z))), torch.rad2deg(torch.atan2(x, z))


# ------------------------------------------------------------------------------------------------- loading


def load(
    source: str | Path,
    *,
    download: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StableDiffusion:
    """The networks of a diffusers folder.

    Args:
        source: a folder with the five ``PARTS``, or a Hub id.
        download: a Hub id may be fetched; never done when ``HF_HUB_OFFLINE`` is set.
        device: where the weights go.
        dtype: of all weights.

    Raises:
        WeightsError: a part is missing or cannot be read. MissingPackageError: diffusers or transformers is.
    """
    diffusers = need("diffusers", extra="diffusion", purpose="Stable Diffusion")
    transformers = need("transformers", extra="diffusion", purpose="Stable Diffusion's text encoder")
    folder = _folder(source, download)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise WeightsError(
            f"{folder} has no {', '.join(missing)}: it is not a whole diffusers folder of Stable Diffusion; download "
            "all of it, or pass another"
        )
    schedule = _json(folder / "scheduler" / "scheduler_config.json")

    def part(make: Callable[..., Any], name: str) -> Any:
        try:
            return make(folder / name, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise WeightsError(f"{folder / name} cannot be read ({error}); download it again") from error

    networks = {
        "unet": part(diffusers.UNet2DConditionModel.from_pretrained, "unet"),
        "vae": part(diffusers.AutoencoderKL.from_pretrained, "vae"),
        "text_encoder": part(transformers.CLIPTextModel.from_pretrained, "text_encoder"),
    }
    for network in networks.values():
        network.to(device=device, dtype=dtype).requires_grad_(False).eval()
    tokenizer = part(transformers.CLIPTokenizer.from_pretrained, "tokenizer")
    channels, width = networks["unet"].config.in_channels, networks["unet"].config.cross_attention_dim
    if channels != 4 or width != networks["text_encoder"].config.hidden_size:
        raise WeightsError(
            f"{folder} has a UNet of {channels} channels and context width {width}; a text-conditioned one has 4, and "
            f"the width of its text encoder, {networks['text_encoder'].config.hidden_size}; pass another folder"
        )
    kind = schedule.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise WeightsError(f"{folder} predicts {kind!r}; only 'epsilon' and 'v_prediction' are known, pass another")
    return StableDiffusion(**networks, tokenizer=tokenizer, alphas_cumprod=alphas_of(schedule), prediction=kind)


def alphas_of(schedule: dict[str, Any]) -> Tensor:
    """The scheduler's configuration → alphas_cumprod [T].

    Raises:
        WeightsError: it names another schedule of betas than the two that are known.
    """
    low, high = float(schedule.get("beta_start", 0.00085)), float(schedule.get("beta_end", 0.012))
    count, kind = int(schedule.get("num_train_timesteps", 1000)), schedule.get("beta_schedule", "scaled_linear")
    if kind == "scaled_linear":
        betas = torch.linspace(math.sqrt(low), math.sqrt(high), count, dtype=torch.float64) ** 2
    elif kind == "linear":
        betas = torch.linspace(low, high, count, dtype=torch.float64)
    else:
        raise WeightsError(
            f"the schedule of betas is {kind!r}; only 'scaled_linear' and 'linear' are known; pass another"
        )
    return (1 - betas).cumprod(0).float()


def parameters_of(model: StableDiffusion) -> int:
    """Weights of all three networks together."""
    networks: tuple[nn.Module, ...] = (model.unet, model.vae, model.text_encoder)
    return sum(value.numel() for network in networks for value in network.parameters())


def _folder(source: str | Path, download: bool) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise WeightsError(f"weights {str(source)!r} are no folder here, and no Hub id (owner/name); check the path")
    hub = need("huggingface_hub", extra="diffusion", purpose="a Hub id")
    wanted = [f"{part}/*.{kind}" for part in PARTS for kind in ("json", "safetensors", "txt")]
    try:
        return Path(hub.snapshot_download(str(source), allow_patterns=wanted, local_files_only=not download))
    except Exception as error:  # the Hub's client has many kinds of failure; all mean the same here
        raise WeightsError(f"{source} could not be fetched ({error}); pass a folder that holds it") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); download the folder again") from error
