"""A diffusion model that knows one object, in closed form: a critic whose best picture is known for every camera."""

import torch

from obverse.render.triangles import render_mesh

from .scenes import ball_mesh, over_white

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)


class Knowing:
    """Its data are the pictures of a mesh over white, nothing else, so ε = (x_t − √a x*) / √(1 − a).

    Latents are the pictures themselves, at half size if ``coarse``.
    """

    prediction = "epsilon"
    alphas_cumprod = ALPHAS

    def __init__(self, mesh=None, coarse=1):
        self.mesh, self.coarse, self.asked = mesh or ball_mesh(), coarse, 0

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(2 * images.movedim(-1, 1) - 1, self.coarse)

    def decode(self, latents):
        wide = torch.nn.functional.interpolate(latents, scale_factor=self.coarse)
        return (wide.movedim(1, -1) / 2 + 0.5).clamp(0, 1)

    def target(self, cameras, size):
        fine = cameras.resized(size * self.coarse, size * self.coarse)
        return self.encode(over_white(render_mesh(self.mesh, fine, background=None, shading="unlit")))

    def predict(self, noisy, timesteps, cameras):
        self.asked += 1
        a = ALPHAS[timesteps].view(-1, 1, 1, 1)
        wanted = self.target(cameras, noisy.shape[-1]).to(noisy)
        epsilon = (noisy - a.sqrt() * wanted) / (1 - a).sqrt()
        return torch.zeros_like(epsilon), epsilon
