"""The gated hidden layer of the local transformer: gelu(W h) times V h, written out."""

import torch
import torch.nn.functional as F

from eddycast.networks import LocalTransformerConfig
from eddycast.networks.local_transformer import LocalBlock


def test_a_gated_block_is_its_formula():
    torch.manual_seed(0)
    config = LocalTransformerConfig(window=3, width=8, heads=2, blocks=1, expansion=2.0, hidden="gated")
    block = LocalBlock(config, (3,), (True,)).double()
    torch.nn.init.zeros_(block.attention.out.weight)
    torch.nn.init.zeros_(block.attention.out.bias)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    h = F.layer_norm(x, (8,))
    w, v = block.there.weight[:16], block.there.weight[16:]
    gate, value = h @ w.T + block.there.bias[:16], h @ v.T + block.there.bias[16:]
    torch.testing.assert_close(block(x, None, None), x + block.back(F.gelu(gate) * value))
    plain = LocalBlock(LocalTransformerConfig(window=3, width=8, heads=2, blocks=1, expansion=2.0), (3,), (True,))
    assert plain.there.out_features == 16 and block.there.out_features == 32
