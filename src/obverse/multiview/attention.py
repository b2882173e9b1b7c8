"""Cross-attention to a single token, which is no attention: a softmax over one key is 1 whatever the query asks.

The result is the token's value through the output layer, the same for every pixel. Queries, keys and the attention
itself are left out, exactly; so are their gradients, which are zero.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import need


class OneToken:
    """An attention processor for diffusers that knows what attention to one token comes to, and asks ``rest`` else.

    Args:
        rest: the processor for longer contexts; None is the one that diffusers would choose.
    """

    def __init__(self, rest: Any = None) -> None:
        processors = need("diffusers.models.attention_processor", extra="diffusion", purpose="Zero-1-to-3")
        self.rest = rest or processors.AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, T, C] and a context [B, 1, E] → [B, 1, C], which is added to every one of the T."""
        single = encoder_hidden_states is not None and encoder_hidden_states.shape[1] == 1
        if not single or attention_mask is not None or not _is_plain(attn):
            found: Tensor = self.rest(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return found
        value: Tensor = attn.to_out[1](attn.to_out[0](attn.to_v(encoder_hidden_states)))
        return value / attn.rescale_output_factor if attn.rescale_output_factor != 1 else value


def _is_plain(attn: Any) -> bool:
    """Whether nothing but projections stands between the context and the result."""
    return not (attn.residual_connection or attn.norm_cross or attn.spatial_norm is not None)


def set_one_token(unet: Any, rest: Any = None) -> None:
    """Give a UNet's cross-attention ``OneToken``, its self-attention ``rest``; None is what diffusers would choose."""
    processors = need("diffusers.models.attention_processor", extra="diffusion", purpose="Zero-1-to-3")
    rest = rest or processors.AttnProcessor2_0()
    across, within = OneToken(rest), rest
    unet.set_attn_processor({name: across if ".attn2." in name else within for name in unet.attn_processors})
