"""Run with pytest from anywhere:  pytest train"""

import os
import sys

import pytest
import torch
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from evaluate import precision_recall  # noqa: E402
from export import decoder_state  # noqa: E402
from tokenizer import VQVAE, ImageDecoder, phi_index  # noqa: E402
from train_var import corrupted_walk  # noqa: E402
from var import VAR, subnet  # noqa: E402

GOLDENS = os.path.join(HERE, "..", "fixtures", "goldens")
CONFIGS = {
    "dev_a": dict(width=64, depth=3, heads=2, scales=[1, 2, 3, 4], classes=10, vocab=96, z=8, ch=32, ch_mult=[2, 1]),
    "dev_b": dict(width=64, depth=2, heads=1, scales=[1, 2, 3, 4, 5], classes=6, vocab=64, z=16, ch=32, ch_mult=[1, 2, 1]),
}  # fmt: skip


def test_phi_table():
    assert phi_index(10) == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert phi_index(5) == [0, 1, 2, 2, 3]
    assert phi_index(7) == [0, 0, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_official_implementation(name):
    folder = os.path.join(GOLDENS, name)
    if not os.path.isdir(folder):
        pytest.skip("goldens are not here")
    c, weights, golden = CONFIGS[name], load_file(f"{folder}/weights.safetensors"), load_file(f"{folder}/golden.safetensors")
    part = lambda prefix: {k[len(prefix) :]: v.float() for k, v in weights.items() if k.startswith(prefix)}
    var = VAR(c["classes"], 0, c["vocab"], c["z"], c["width"], c["depth"], c["heads"], c["scales"],
              shared_aln="var.shared_ada_lin.1.weight" in weights)  # fmt: skip
    missing, unexpected = var.load_state_dict(part("var."), strict=False)
    assert not unexpected and all("zero_k_bias" in m or "lvl_1L" in m or "attn_bias" in m for m in missing)
    blocks = 1 + max(int(k.split(".")[5]) for k in weights if k.startswith("vae.decoder.up.0.block."))
    vae = VQVAE(c["vocab"], c["z"], c["ch"], c["ch_mult"], blocks - 1, c["scales"])
    missing, unexpected = vae.load_state_dict(part("vae."), strict=False)
    assert not unexpected and all(m.startswith(("encoder.", "quant_conv.")) for m in missing)

    indices = golden["tf.idx"].long().split([s * s for s in c["scales"]], 1)
    batch = len(indices[0])
    uncond = torch.full((batch,), c["classes"])
    with torch.no_grad():
        off = var(uncond, None, golden["tf.x_BLCv"])
        torch.testing.assert_close(off, golden["tf.logits_uncond"], atol=2e-4, rtol=1e-4)
        f_hat = vae.quantize.f_hat_of(indices)
        torch.testing.assert_close(f_hat, golden["tf.f_hat"], atol=2e-4, rtol=1e-4)
        image = vae.image_of(indices) * 2 - 1
        torch.testing.assert_close(image, golden["tf.image_pm1"], atol=2e-4, rtol=1e-4)


def small_models(shared):
    """A tokenizer, a VAR of three blocks with confident logits, and labels."""
    torch.manual_seed(0)
    scales = (1, 2, 3, 3)
    vae, var = VQVAE(32, 8, 32, (1, 1), 1, scales), VAR(5, 3, 32, 8, 64, 3, 2, scales, shared)
    with torch.no_grad():
        var.head.weight.mul_(50)
    return vae, var, torch.tensor([1, 4]), torch.tensor([2, 3])


@torch.no_grad()
def inputs_of(vae, tokens):
    """What the transformer reads at every scale but the first, for these tokens."""
    f_hat, inputs = torch.zeros(len(tokens[0]), 8, 3, 3), []
    for k, idx in enumerate(tokens[:-1]):
        f_hat = f_hat + vae.quantize.scale_map(k, idx)
        inputs.append(vae.quantize.next_input(k, f_hat))
    return torch.cat(inputs, 1)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("blocks", [3, 2])
def test_cached_generation_equals_teacher_forcing(shared, blocks):
    vae, var, label, style = small_models(shared)
    active = subnet(3, blocks, 1, 4)
    greedy = var.generate(vae.quantize, label, style, guidance=0.0, top_k=1, active=active)
    with torch.no_grad():
        again = var(label, style, inputs_of(vae, greedy), active).argmax(-1)
    assert torch.equal(torch.cat(greedy, 1), again)


def test_subnets():
    assert subnet(8, 4, 2, 4) == [list(range(8))] * 2 + [[0, 2, 4, 7]] * 2
    vae, var, label, style = small_models(False)
    greedy = lambda active: torch.cat(var.generate(vae.quantize, label, style, 0.0, 1, active=active), 1)
    assert torch.equal(greedy(None), greedy(subnet(3, 3, 0, 4)))  # all blocks: the plain network
    few = greedy(subnet(3, 2, 1, 4))
    assert torch.equal(greedy(None)[:, :1], few[:, :1]) and not torch.equal(greedy(None), few)


@pytest.mark.parametrize("ch", [32, 16, 8])
def test_decoder_alone(ch, tmp_path):
    """A decoder of any width has the names of the whole tokenizer's; at its width it is the tokenizer's own."""
    vae, path = VQVAE(32, 8, 32, (1, 1), 1, (1, 2, 4)), str(tmp_path / "decoder.pt")
    model, f_hat = ImageDecoder(8, ch, (1, 2), 1), torch.randn(2, 8, 4, 4)
    torch.save(dict(config=model.config, ema=model.state_dict()), path)
    state = decoder_state(path)
    assert all(key.startswith(("post_quant_conv.", "decoder.")) for key in state)
    assert state["decoder.up.0.block.1.conv2.weight"].shape == (ch, ch, 3, 3)
    assert model.decode(f_hat).shape == (2, 3, 8, 8) and model.decoder.norm_out.num_groups == ch
    same = ImageDecoder(8, 32, (1, 1), 1)
    same.load_state_dict({k: v for k, v in vae.state_dict().items() if k in same.state_dict()})
    assert torch.equal(same.decode(f_hat), vae.decode(f_hat)) and same.decoder.norm_out.num_groups == 32


def test_precision_and_recall():
    real = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real + 100, real) == (0.0, 0.0)
    few = real[:1].repeat(200, 1)  # one true picture again and again: precise, but covers almost nothing
    assert precision_recall(few, real)[0] == 1.0 and precision_recall(few, real)[1] < 0.05


def test_walk_without_corruption_is_the_encoding():
    torch.manual_seed(0)
    vae = VQVAE(32, 8, 32, (1, 1), 1, (1, 2, 4))
    f = torch.randn(3, 8, 4, 4)
    targets, _, f_hat = corrupted_walk(vae.quantize, f, torch.zeros(3), 3)
    assert torch.equal(targets, torch.cat(vae.quantize.encode(f), 1))
    torch.testing.assert_close(f_hat, vae.quantize.f_hat_of(vae.quantize.encode(f)))
