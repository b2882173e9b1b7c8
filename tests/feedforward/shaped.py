"""Checkpoints whose field is a ball, whatever the picture, and what runs them from files to an asset."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from obverse.apps import cli
from obverse.feedforward import instantmesh, openlrm, triposr

from ..conftest import disc_photo
from ..parity.drawn import draw_all

SMALL = ["--resolution", "48", "--faces", "1000", "--texture", "256", "--gaussians", "500"]


def command(*arguments):
    """Run ``obverse`` with some arguments, which must succeed."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(part) for part in arguments])
    assert stop.value.code == 0


def report_of_a_disc(method, weights, folder):
    """The report of ``obverse create`` on a photo of a disc, with weights from a file or folder, into ``folder``."""
    Image.fromarray(disc_photo(size=256, radius=90, center=(128, 128))).save(folder / "disc.png")
    options = ["--method", method, "--weights", weights, "-o", folder / "out", *SMALL, "--formats", "glb,ply"]
    command("create", folder / "disc.png", *options)
    return json.loads((folder / "out" / "report.json").read_text())


def ball_checkpoint(config, radius=0.4):
    """Of TripoSR: a ball of the given radius in a field that is level elsewhere.

    Channel 0 of each plane's tokens holds minus half the squared distance from the plane's middle, channels 1 and 2 its
    change over a quarter of a token; the three planes add up to −|p|². The transformer adds nothing to them.
    """
    with torch.device("meta"):
        state = draw_all(triposr.layout(triposr.TripoSR(config)))
    side = config.plane_size
    t = ((torch.arange(side) + 0.5) / side * 2 - 1) * config.radius
    state["tokenizer.embeddings"][:, 0] = -0.5 * (t[:, None].square() + t.square())
    state["tokenizer.embeddings"][:, 1] = -t * config.radius / (2 * side)
    state["tokenizer.embeddings"][:, 2] = -t[:, None] * config.radius / (2 * side)
    state["backbone.proj_out.weight"][:3], state["backbone.proj_out.bias"][:3] = 0, 0
    upsample(state, "post_processor.upsample", (0, 1, 2))
    level = math.log(config.density) - triposr.DENSITY_BIAS
    decode(state, "decoder.layers", config, radius=radius, gain=100, level=level, activation=F.silu)
    return state


def openlrm_ball(config, radius):
    """Of OpenLRM 1.1: a ball of the given radius."""
    with torch.device("meta"):
        state = draw_all(openlrm.layout(openlrm.OpenLRM(config)))
    refine(state, config, tokens="pos_embed", transformer="transformer.", upsampler="upsampler")
    level = math.log(math.expm1(config.density)) + 1
    decode(state, "synthesizer.decoder.net", config, radius=radius, gain=100, level=level)
    return state


def instantmesh_ball(config, radius):
    """Of InstantMesh with a mesh: a ball of the given radius, its grid's samples and cubes moved and weighed."""
    with torch.device("meta"):
        state = draw_all(instantmesh.layout(instantmesh.InstantMesh(config)))
    own = f"{instantmesh.PREFIX}transformer."
    refine(state, config, tokens=f"{own}pos_embed", transformer=own, upsampler=f"{own}deconv")
    decode(state, f"{instantmesh.PREFIX}synthesizer.decoder.net_sdf", config, radius=radius, gain=-1, level=0)
    return {"state_dict": state}


def refine(state, config, *, tokens, transformer, upsampler):
    """Let a transformer's planes add up to −|p|² in the first feature, whatever the picture.

    The blocks add nothing. Channel 0 of a token holds minus half the squared distance from its plane's middle, 2 and 4
    its change over a quarter of a token, and every odd channel the negative of the one before; 6 is such that the last
    norm divides all tokens by the same number.
    """
    for key, tensor in state.items():
        if key.startswith(transformer) and key.endswith(("out_proj.weight", "mlp.3.weight", "mlp.3.bias")):
            tensor.zero_()
    side = config.plane_size
    t = (torch.arange(side) + 0.5) / side * 2 - 1
    down, across = torch.meshgrid(t, t, indexing="ij")
    known = [-0.5 * (across.square() + down.square()), -across / (2 * side), -down / (2 * side)]
    even = torch.stack([*known, torch.sqrt(4 - sum(value.square() for value in known))], -1)  # squares add up to 4
    state[tokens].zero_()
    state[tokens][0, :, :8] = torch.stack([even, -even], -1).reshape(-1, 8).repeat(3, 1)
    state[f"{transformer}norm.weight"][:], state[f"{transformer}norm.bias"][:] = math.sqrt(8 / config.width), 0
    upsample(state, upsampler, (0, 2, 4))


def upsample(state, name, channels):
    """Let an upsampler's first feature be a token's channel, and its change along width and height by two others."""
    up, sides = state[f"{name}.weight"], torch.tensor([-1.0, 1.0])
    value, across, down = channels
    up[:, 0], state[f"{name}.bias"][0] = 0, 0
    up[value, 0], up[across, 0], up[down, 0] = 1, sides, sides[:, None]


def decode(state, net, config, *, radius, gain, level, activation=F.relu):
    """Let a decoder's first output be ``level`` where the planes' first features add up to −``radius``², and rise
    ``gain`` times as fast as they do, or nearly so if the activation is not linear there."""
    first, value = state[f"{net}.0.weight"], torch.tensor(4 - radius**2)
    first[0], first[0, :: config.features], state[f"{net}.0.bias"][0] = 0, 1, 4
    for layer in range(1, config.depth + 1):
        weight, bias = state[f"{net}.{2 * layer}.weight"], state[f"{net}.{2 * layer}.bias"]
        weight[0], weight[0, 0], bias[0] = 0, 1, 0
        value = activation(value)
    weight[0] *= gain
    bias[0] = level - gain * value
