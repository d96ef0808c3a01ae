"""Networks in which parts are mixed: soft modularization (Yang et al., 2020) and CARE (Sodhani et al., 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from accord.bench.rl.encoders import Experts, perceptron


class SoftModules(nn.Module):
    """Layers of n modules; each module reads a convex combination of what the modules before it give.

    With x the encoded state (and action) and e the task's encoding, u = W(x ⊙ e) + b, the routing logits are

        p¹ = W_d¹ ReLU(u),   pˡ⁺¹ = W_dˡ⁺¹ ReLU((W_uˡ pˡ) ⊙ u),

    each an n × n matrix whose rows a softmax makes into p̂ˡ; module i of layer l + 1 reads Σ_j p̂ˡ_ij ReLU(fˡ_j), and the
    outputs of the last layer are averaged.

    This is the variant of facebookresearch/mtrl, with which the published tables of the gradient methods were made. The
    four layers that its command asks for have no effect: there are always two, hence one matrix of routing weights, and
    W_u is never used. ``layers`` can be more here. A comment there says that a module divides its weight among those
    that follow; what its code computes, and this, is that the weights of a module's inputs sum to one.

    It differs from the authors' own code (RchalYang/Soft-Module, read at commit e6d7c8a): that applies ReLU after the
    combination, lets p depend on all matrices before it, after their softmax, and combines the last layer's outputs by
    weights of their own, through a common linear layer.

    Args:
        inputs: Size of x and e.
        hidden: Units of a module, and of the routing network.
        outputs: Size of the result.
        modules: n.
        layers: Two or more, the last of which gives the outputs.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, modules: int, layers: int) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(Experts(modules, sizes[i], sizes[i + 1], common=i == 0) for i in range(layers))
        self.before_routing = nn.Linear(inputs, hidden)
        self.down = nn.ModuleList(nn.Linear(hidden, modules**2) for _ in range(layers - 1))
        self.up = nn.ModuleList(nn.Linear(modules**2, hidden) for _ in range(layers - 2))
        self.modules_a_layer = modules

    def forward(self, x: Tensor, encoding: Tensor) -> Tensor:
        """The result (…, outputs) for x (…, inputs) and the task's encoding (…, inputs)."""
        out = self.layers[0](x)  # (…, n, hidden)
        for layer, weights in zip(self.layers[1:], self.routing(x, encoding), strict=True):
            out = layer(weights @ out.relu())
        return out.mean(-2)

    def routing(self, x: Tensor, encoding: Tensor) -> list[Tensor]:
        """The weights between each layer and the next, (…, n, n); row i is what module i of the next reads."""
        u = self.before_routing(x * encoding)
        logits = [self.down[0](u.relu())]
        for up, down in zip(self.up, self.down[1:], strict=True):
            logits.append(down((up(logits[-1]) * u).relu()))
        square = (self.modules_a_layer, self.modules_a_layer)
        return [each.unflatten(-1, square).softmax(-1) for each in logits]


class MixedEncoders(nn.Module):
    """E encoders of the state, state → size → size, and a softmax over them that depends on the task's encoding.

    The scores are a perceptron, size → size → size → E, of the encoding. Their gradient reaches the task encoder; in
    the published configuration the key that would stop it there is misspelt.
    """

    def __init__(self, state: int, size: int, experts: int) -> None:
        super().__init__()
        self.encoders = nn.Sequential(
            Experts(experts, state, size, common=True), nn.ReLU(), Experts(experts, size, size, common=False)
        )
        self.score = perceptron(size, size, size, experts)

    def forward(self, state: Tensor, encoding: Tensor) -> Tensor:
        """The mixture (…, size) for states (…, state) and encodings (…, size)."""
        return (self.attention(encoding)[..., None] * self.encoders(state)).sum(-2)

    def attention(self, encoding: Tensor) -> Tensor:
        """The weights of the encoders, (…, E), which sum to one."""
        return self.score(encoding).softmax(-1)
