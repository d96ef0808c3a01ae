"""Slow, readable twins of the methods, written from their formulas with torch's autograd and optimisers, or NumPy.

A twin that is called with a network and a step fills the network's ``.grad``.
"""

import numpy as np
import torch

from support.nets import flat_grad, project_by_bisection, rows_of, write, write_heads


class SlowSTCH:
    """The published training: log-losses during the warm-up, then the smooth maximum relative to their mean."""

    def __init__(self, tasks, mu, warmup, nadir=None):
        self.tasks, self.mu, self.warmup, self.nadir, self.seen = tasks, mu, warmup, nadir, []

    def __call__(self, losses):
        if self.nadir is None:
            if len(self.seen) < self.warmup:
                self.seen.append([loss.item() for loss in losses])
                return sum(loss.log() for loss in losses)
            self.nadir = np.mean(self.seen or [[loss.item() for loss in losses]], axis=0)
        terms = [torch.exp(torch.log(loss / n) / self.mu) for loss, n in zip(losses, self.nadir, strict=True)]
        return self.tasks * self.mu * torch.log(sum(terms))


class SlowFAMO:
    """The published class: logits under torch's Adam with L2 decay, moved by the fall of the log-losses."""

    def __init__(self, tasks, gamma, lr, minima=0.0, max_norm=None):
        self.logits = torch.zeros(tasks, dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=lr, weight_decay=gamma)
        self.minima = torch.as_tensor(minima, dtype=torch.float64)
        self.max_norm = max_norm

    def __call__(self, net, step):
        losses = torch.stack(net.losses(step))
        self.before = losses.detach()
        z = torch.softmax(self.logits, -1).detach()
        d = losses - self.minima + 1e-8
        c = (z / d).sum().detach()
        (d.log() * z / c).sum().backward()
        if self.max_norm is not None:  # without the 1e-6 that torch's clipping adds to the norm
            factor = min(1.0, self.max_norm / float(flat_grad(net.shared).norm()))
            for p in net.shared:
                p.grad *= factor

    def after(self, net, step):
        now = torch.stack(net.losses(step)).detach()
        delta = (self.before - self.minima + 1e-8).log() - (now - self.minima + 1e-8).log()
        gradient = torch.autograd.grad(torch.softmax(self.logits, -1), self.logits, grad_outputs=delta)[0]
        self.optimizer.zero_grad()
        self.logits.grad = gradient
        self.optimizer.step()


class SlowGradNorm:
    """Algorithm 1 with the weights K·softmax(v): v follows torch's Adam on Σ|G_i − Ḡ r_i^α| by autograd."""

    def __init__(self, tasks, alpha, lr):
        self.tasks, self.alpha = tasks, alpha
        self.logits = torch.zeros(tasks, dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=lr)
        self.first = None

    def __call__(self, net, step):
        losses = torch.stack(net.losses(step))
        self.first = losses.detach() if self.first is None else self.first
        weights = self.tasks * self.logits.softmax(0)
        norms = torch.stack(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(w * loss, net.shared, create_graph=True)]).norm()
                for w, loss in zip(weights, losses, strict=True)
            ]
        )
        rate = losses.detach() / self.first
        target = (norms.mean() * (rate / rate.mean()) ** self.alpha).detach()
        objective = (norms - target).abs().sum()
        own = torch.autograd.grad(objective, self.logits, retain_graph=True)[0]
        (weights.detach() * losses).sum().backward()
        self.optimizer.zero_grad()
        self.logits.grad = own
        self.optimizer.step()


class SlowMoCo:
    """y ← y − β_t (y − g̃), λ ← Π(λ − γ_t (yyᵀ + ρI) λ), d = yᵀλ; heads take their own gradients."""

    def __init__(self, beta=0.5, beta_sigma=0.5, gamma=0.1, gamma_sigma=0.5, rho=0.0, scale_to_loss=False):
        self.beta, self.beta_sigma, self.gamma, self.gamma_sigma = beta, beta_sigma, gamma, gamma_sigma
        self.rho, self.scale_to_loss = rho, scale_to_loss
        self.y, self.weights, self.t = 0.0, None, 0

    def __call__(self, net, step, features=False):
        z = net.features(step)
        losses = net.losses(step, z)
        g = rows_of(losses, [z] if features else net.shared).numpy()
        k = len(g)
        self.weights = np.ones(k) / k if self.weights is None else self.weights
        if self.scale_to_loss:
            g = np.stack([row / np.linalg.norm(row) * loss.item() for row, loss in zip(g, losses, strict=True)])
        self.t += 1
        self.y = self.y - self.beta / self.t**self.beta_sigma * (self.y - g)
        slope = (self.y @ self.y.T + self.rho * np.eye(k)) @ self.weights
        self.weights = project_by_bisection(self.weights - self.gamma / self.t**self.gamma_sigma * slope)
        write_heads(net, losses, np.ones(k))
        self.send(net, z, self.weights @ self.y, features)

    @staticmethod
    def send(net, z, direction, features):
        if features:
            shared = torch.autograd.grad(z, net.shared, torch.from_numpy(direction).reshape(z.shape))
            direction = torch.cat([g.flatten() for g in shared])
        write(net.shared, direction)


class SlowDBMTL:
    """b ← b + (1 − β_t)(∇log l − b), d = Σ_k (max_j ‖b_j‖ / ‖b_k‖) b_k; heads take the log-losses' gradients."""

    def __init__(self, beta=0.9, beta_sigma=0.0):
        self.beta, self.beta_sigma = beta, beta_sigma
        self.b, self.t = 0.0, 0

    def __call__(self, net, step, features=False):
        z = net.features(step)
        logs = [loss.log() for loss in net.losses(step, z)]
        g = rows_of(logs, [z] if features else net.shared).numpy()
        self.t += 1
        self.b = g + self.beta / self.t**self.beta_sigma * (self.b - g)
        norms = np.linalg.norm(self.b, axis=1)
        write_heads(net, logs, np.ones(len(g)))
        SlowMoCo.send(net, z, sum(norms.max() / n * row for n, row in zip(norms, self.b, strict=True)), features)


class SlowMoDo:
    """λ ← Π(λ − γ (J₁J₂ᵀλ + ρλ)), d = J₁ᵀλ."""

    def __init__(self, gamma=0.1, rho=0.0):
        self.gamma, self.rho, self.weights = gamma, rho, np.ones(3) / 3

    def __call__(self, one, two):
        slope = one @ (two.T @ self.weights) + self.rho * self.weights
        self.weights = project_by_bisection(self.weights - self.gamma * slope)
        return self.weights


class SlowSDMGrad:
    """Steps of torch's SGD with momentum on J₁(J₂ᵀw + λ g₀) over the squared mean norm; w stays over steps."""

    def __init__(self, lam=0.3, lr=10.0, momentum=0.5, inner_steps=20, times_k=False):
        self.lam, self.lr, self.momentum, self.inner_steps, self.times_k = lam, lr, momentum, inner_steps, times_k
        self.w = np.ones(3) / 3

    def __call__(self, one, two):
        products = one @ two.T
        scale = np.sqrt(np.maximum(np.diag(products), 0.0)).mean()
        one, two = one / scale, two / scale
        w = torch.tensor(self.w, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=self.lr, momentum=self.momentum)
        for _ in range(self.inner_steps):
            w.grad = torch.from_numpy(one @ (two.T @ w.detach().numpy() + self.lam * two.mean(0)))
            optimizer.step()
            w.data = torch.from_numpy(project_by_bisection(w.detach().numpy()))
        self.w = w.detach().numpy().copy()
        weights = (self.w + self.lam / 3) / (1 + self.lam)
        return 3 * weights if self.times_k else weights
