"""TripoSR checkpoints whose field is a known shape, whatever the picture: for running the whole path."""

import math

import torch
import torch.nn.functional as F

from obverse.feedforward import triposr

from ..parity.drawn import draw_all


def ball_checkpoint(config, radius=0.4):
    """A checkpoint in the published layout: a ball of the given radius in a field that is level elsewhere.

    Channel 0 of each plane's tokens holds minus half the squared distance from the plane's middle, channels 1 and 2 its
    change over a quarter of a token; the three planes add up to −|p|². The transformer adds nothing to them, the
    upsampler makes feature 0 of them, and the decoder's first unit of each layer hands it on.
    """
    with torch.device("meta"):
        state = draw_all(triposr.layout(triposr.TripoSR(config)))
    side = config.plane_size
    t = ((torch.arange(side) + 0.5) / side * 2 - 1) * config.radius
    state["tokenizer.embeddings"][:, 0] = -0.5 * (t[:, None].square() + t.square())
    state["tokenizer.embeddings"][:, 1] = -t * config.radius / (2 * side)
    state["tokenizer.embeddings"][:, 2] = -t[:, None] * config.radius / (2 * side)
    state["backbone.proj_out.weight"][:3], state["backbone.proj_out.bias"][:3] = 0, 0
    up, first = state["post_processor.upsample.weight"], state["decoder.layers.0.weight"]
    up[:, 0], up[0, 0], state["post_processor.upsample.bias"][0] = 0, 1, 0
    sides = torch.tensor([-1.0, 1.0])
    up[1, 0], up[2, 0] = sides, sides[:, None]
    first[0] = 0
    first[0, :: config.features], state["decoder.layers.0.bias"][0] = 1, 4
    value = F.silu(torch.tensor(4 - radius**2))
    for layer in range(1, config.depth):
        weight, bias = state[f"decoder.layers.{2 * layer}.weight"], state[f"decoder.layers.{2 * layer}.bias"]
        weight[0], weight[0, 0], bias[0] = 0, 1, 0
        value = F.silu(value)
    weight, bias = state[f"decoder.layers.{2 * config.depth}.weight"], state[f"decoder.layers.{2 * config.depth}.bias"]
    weight[0], weight[0, 0] = 0, 100
    bias[0] = math.log(config.density) - triposr.DENSITY_BIAS - 100 * value
    return state
