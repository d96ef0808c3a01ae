"""Lightning: ``training_step`` names its losses, everything else stays Lightning's.

Works with ``pytorch_lightning`` and ``lightning.pytorch`` alike, because neither is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from accord.balancers import Balance
from accord.errors import EngineError, OptionError
from accord.integrations.deferred import Deferred, forget_look, names_known, total
from accord.integrations.logs import check_names, scalars
from accord.integrations.packages import require
from accord.jacobian import Losses, Shared

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule as _Base
else:
    _Base = object

require("lightning", "pytorch_lightning", "lightning")

REFUSED = {
    "DeepSpeedStrategy": "DeepSpeed runs its own backward and keeps gradients in buffers of its own",
    "FSDPStrategy": "it flattens parameters, so that those of the trunk cannot be told from the others",
}
"""Strategies, by class, under which gradients of tasks cannot be had."""


class MultiTaskModule(_Base):
    """What a ``LightningModule`` inherits beside it, and before it, to have its losses balanced.

    The module stores a balancer as ``self.balancer``, and ``training_step`` returns
    ``self.balance(losses, shared=...)``; in manual optimisation this goes to ``self.manual_backward``. Precision
    plugins, gradient accumulation and clipping, ``DistributedDataParallel`` and checkpoints work as with any loss: the
    balancer is a submodule, its state is part of the module's. With ``accumulate_grad_batches=n`` each micro-batch is
    balanced by itself and the n gradients are averaged.

    Attributes:
        log_balance: What goes to ``self.log_dict`` every ``log_every_n_steps`` of the trainer, by names as in
            ``accord.integrations.logs.scalars``: all (True), nothing (False), or some (``["weight", "residual"]``).
            Names are checked before the first step, those of tasks that the first losses name after it.
        last_balance: The last step's ``Balance``.

    Examples:
        >>> import accord, pytorch_lightning as pl, torch
        >>> from accord.integrations.lightning import MultiTaskModule
        >>> class Net(MultiTaskModule, pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.trunk, self.heads = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        ...         self.balancer = accord.NashMTL(tasks=["size", "sign"])
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         size, sign = (self.heads(self.trunk(batch)) - 1).square().mean(0)
        ...         return self.balance({"size": size, "sign": sign}, shared=self.trunk)
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters())
    """

    log_balance: bool | Sequence[str] = True
    last_balance: Balance | None = None
    _waiting: Deferred | None = None
    _balanced_at: int = -1

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        names = [base.__name__ for base in cls.__mro__]
        if "LightningModule" in names and names.index("LightningModule") < names.index("MultiTaskModule"):
            raise OptionError(
                f"class {cls.__name__}: LightningModule comes before MultiTaskModule, so that its backward would be "
                f"called and nothing balanced; write class {cls.__name__}(MultiTaskModule, LightningModule)"
            )

    def balance(self, losses: Losses, shared: Shared | None = None, **options: Any) -> Tensor:
        """The loss to return from ``training_step``, or to give to ``manual_backward``.

        Its backward balances the losses and fills ``.grad``. Its value is their plain sum. Where no gradients are
        recorded, as in validation, it is that sum and no more.

        Args:
            losses: K scalars: a dict by task name, a list, a tuple, or a tensor of shape (K,).
            shared: The shared parameters, as for ``Balancer.backward``.
            options: ``features``, ``heads``, ``engine``, ``second``, ``part`` and ``reduce`` of ``Balancer.backward``.

        Returns:
            A scalar; its graph ends at once, so it can be added to another loss but not differentiated twice.

        Raises:
            OptionError: The module has no ``self.balancer``, or an option is not one of these.
            ShapeError: There is no loss.
            EngineError: A loss from before still waits for its backward.
        """
        caller = f"{type(self).__name__}.balance"
        if not torch.is_grad_enabled():
            return total(caller, losses)
        if self._waiting is not None:
            self._waiting = None
            raise EngineError(
                f"{caller}: the loss that it returned before was never differentiated. Return it from training_step, "
                "or give it to self.manual_backward in manual optimisation, and make one for each backward: the sum "
                "of two is none"
            )
        self._waiting = Deferred(caller, getattr(self, "balancer", None), losses, shared=shared, **options)
        return self._waiting.loss

    def backward(self, loss: Tensor, *args: Any, **options: Any) -> None:
        """Called by Lightning: its own backward, which stops at what ``balance`` returned, then the balanced one."""
        waiting, self._waiting = self._waiting, None
        if waiting is None and self.automatic_optimization:
            raise OptionError(
                f"{type(self).__name__}.training_step returned a loss in which the tasks are added up already; return "
                "self.balance({'task': loss, ...}, shared=self.trunk), with one loss a task"
            )
        super().backward(loss, *args, **options)
        if waiting is not None and waiting.loss.grad is None and not self.automatic_optimization:
            self._waiting = waiting  # this was the backward of another loss; its own is still to come
        elif waiting is not None:
            self._balanced_at = self.trainer.global_step
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            self.last_balance = waiting.run(scaled=scaler is not None and scaler.is_enabled())

    def after_step(self, losses: Callable[[], Losses]) -> None:
        """``balancer.after_step`` at the trainer's precision, for ``on_train_batch_end``; methods but FAMO ignore it.

        That hook lies outside the trainer's autocast, where losses would not compare with those of the step. With
        ``accumulate_grad_batches=n`` the last micro-batch before the optimiser's step is looked at, the others are not.

        Args:
            losses: Computes the losses of the same batch, as ``training_step`` does; it is called without gradients.
        """
        balancer: Any = self.balancer
        if self.automatic_optimization and self.trainer.global_step == self._balanced_at:
            forget_look(balancer)
            return

        def again() -> Losses:
            with self.trainer.precision_plugin.forward_context():
                return losses()

        balancer.after_step(again)

    def on_train_start(self) -> None:
        """Refuse strategies that hide gradients and unknown names; forget what an interrupted fit left."""
        super().on_train_start()
        self._waiting = None
        if self.log_balance and self.log_balance is not True:
            check_names(self.log_balance, names_known(getattr(self, "balancer", None)))
        for base in type(self.trainer.strategy).__mro__:
            if base.__name__ in REFUSED:
                raise EngineError(
                    f"{type(self).__name__}: tasks cannot be balanced under {base.__name__}: {REFUSED[base.__name__]}; "
                    "use strategy='ddp', or fully_shard in a loop of your own (accord's guide on several processes)"
                )

    def on_after_backward(self) -> None:
        """Log the balance at the steps that loggers record; a module with this hook of its own calls ``super()``'s."""
        super().on_after_backward()
        if not self.log_balance or self.last_balance is None:
            return
        names = None if self.log_balance is True else self.log_balance
        if self._records():
            self.log_dict(scalars(self.last_balance, names), on_step=True, on_epoch=False)
        elif names is not None:  # tasks that the first losses named
            check_names(names, self.last_balance.tasks)

    def _records(self) -> bool:
        """Whether loggers record this step; ``self.log`` is not cheap, so it is not called in between."""
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        step = trainer.global_step if self.automatic_optimization else trainer.fit_loop.total_batch_idx
        return every > 0 and (step + 1) % every == 0
