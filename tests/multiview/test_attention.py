"""Cross-attention to one token, beside diffusers' own processor."""

import pytest
import torch

from obverse.multiview.attention import OneToken, set_one_token

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip


def answered(unet, tokens, **options):
    """The network's answer, and the gradient of every weight and of the context."""
    rng = torch.Generator().manual_seed(1)
    noisy, context = torch.randn(2, 8, 8, 8, generator=rng), torch.randn(2, tokens, 12, generator=rng)
    unet.zero_grad(set_to_none=True)
    found = unet(noisy, torch.tensor([3, 700]), encoder_hidden_states=context.requires_grad_(), **options).sample
    found.square().mean().backward()
    zero = torch.zeros(())
    return found.detach(), context.grad, {n: zero if p.grad is None else p.grad for n, p in unet.named_parameters()}


def test_one_token_gives_the_answer_and_the_gradients_of_ordinary_attention(unet):
    unet.set_attn_processor(OneToken().rest)
    plain, plain_context, plain_weights = answered(unet, 1)
    set_one_token(unet)
    found, context, weights = answered(unet, 1)
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(context, plain_context, atol=1e-7, rtol=1e-4)
    for name, gradient in plain_weights.items():
        torch.testing.assert_close(weights[name].expand_as(gradient), gradient, atol=1e-7, rtol=1e-3)
    assert plain_weights["mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"].abs().max() > 1e-5


def test_queries_and_keys_of_one_token_are_not_computed(unet):
    set_one_token(unet)
    asked = []
    hooks = [
        module.register_forward_hook(lambda _, __, ___, name=name: asked.append(name))
        for name, module in unet.named_modules()
        if ".attn2." in name and name.endswith(("to_q", "to_k", "to_v"))
    ]
    answered(unet, 1)
    assert asked and all(name.endswith("to_v") for name in asked)
    answered(unet, 3)
    assert any(name.endswith("to_q") for name in asked)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("given", [{"tokens": 3}, {"tokens": 1, "encoder_attention_mask": torch.tensor([[1], [1]])}])
def test_longer_contexts_and_masks_are_left_to_ordinary_attention(unet, given):
    unet.set_attn_processor(OneToken().rest)
    plain, *_ = answered(unet, **given)
    set_one_token(unet)
    found, *_ = answered(unet, **given)
    assert torch.equal(found, plain)


def test_a_processor_of_ones_own_is_used_for_everything_else(unet):
    class Counting(type(OneToken().rest)):
        calls = 0

        def __call__(self, *given, **named):
            Counting.calls += 1
            return super().__call__(*given, **named)

    set_one_token(unet, Counting())
    answered(unet, 1)
    alone = Counting.calls
    answered(unet, 2)
    assert alone > 0 and Counting.calls == 3 * alone  # each self-attention has a cross-attention beside it
    set_one_token(unet)
