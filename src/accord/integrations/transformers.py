"""The Trainer of transformers: a mixin for models whose output has one loss a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from accord.balancers import Balance, Balancer
from accord.balancers.grammar import suggest
from accord.errors import DataError, OptionError, ShapeError, UnknownNameError
from accord.integrations.deferred import Deferred, check_balancer, forget_look, names_known, total
from accord.integrations.logs import Means, check_names, scalars
from accord.integrations.packages import require
from accord.jacobian import Losses, Shared

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object

require("transformers", "transformers")

from transformers.trainer_callback import TrainerCallback  # noqa: E402 - with the extra missing, the line above says so
from transformers.trainer_utils import get_last_checkpoint  # noqa: E402

STATE = "balancer.pt"
"""The balancer's state in a checkpoint's folder."""

OPTIONS = ("heads", "engine", "reduce")
"""Arguments of ``Balancer.backward`` that ``balance_options`` takes."""

Place = str | Shared | Callable[[nn.Module], Shared]
"""Where shared parameters are: the dotted name of a submodule, the parameters, or a function of the model."""


class MultiTaskTrainer(_Base):
    """What a ``Trainer`` inherits beside it, and before it, to balance the losses that its model returns by task.

    The model's output has a field ``losses``, a dict of scalars by task; ``loss`` is not needed. Gradient accumulation,
    mixed precision, clipping, ``DistributedDataParallel`` under ``torchrun`` and checkpoints are the Trainer's.
    With ``gradient_accumulation_steps=n`` each micro-batch is balanced by itself and the n gradients are averaged.
    The training loss that is reported, and the one of an evaluation, is the plain sum of the tasks' losses.

    Args:
        args: For the ``Trainer``.
        balancer: The balancer. Its state is saved into each checkpoint and taken up again when one is resumed; its own
            parameters, where it has any, are trained with the model's.
        shared: The shared parameters: the dotted name of a submodule, parameters, or a function of the model.
        log_balance: What goes to ``log`` beside the loss, as means over the steps since the last: all (True), nothing
            (False), or names as in ``accord.integrations.logs.scalars``. They are checked here; those of tasks that
            the first losses name, at the first step.
        balance_options: ``heads`` (in any form that ``shared`` has), ``engine`` and ``reduce`` of
            ``Balancer.backward``.
        options: For the ``Trainer``.

    Attributes:
        balancer: The balancer.
        last_balance: The last step's ``Balance``.

    Raises:
        OptionError: No balancer, an option that is none or that cannot be used together with balancing, one string
            for ``log_balance``, or ``Trainer`` before this class among the bases.
        UnknownNameError: A name in ``log_balance`` is not logged.

    Examples:
        >>> from transformers import Trainer
        >>> from accord.integrations.transformers import MultiTaskTrainer
        >>> class BalancedTrainer(MultiTaskTrainer, Trainer):
        ...     '''``BalancedTrainer(model, args, ..., balancer=accord.NashMTL(tasks=2), shared="encoder")``.'''
    """

    last_balance: Balance | None = None
    _waiting: Deferred | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        names = [base.__name__ for base in cls.__mro__]
        if "Trainer" in names and names.index("Trainer") < names.index("MultiTaskTrainer"):
            raise OptionError(
                f"class {cls.__name__}: Trainer comes before MultiTaskTrainer, so that nothing would be balanced; "
                f"write class {cls.__name__}(MultiTaskTrainer, Trainer)"
            )

    def __init__(
        self,
        *args: Any,
        balancer: Balancer,
        shared: Place | None = None,
        log_balance: bool | Sequence[str] = True,
        balance_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        check_balancer(type(self).__name__, balancer)
        for name in balance_options or {}:
            if name not in OPTIONS:
                raise OptionError(f"{type(self).__name__}: balance_options: {name!r} is none{suggest(name, OPTIONS)}")
        if not isinstance(log_balance, bool):
            check_names(log_balance, names_known(balancer))
        super().__init__(*args, **options)
        self.model_accepts_loss_kwargs = False  # so that the Trainer divides by the number of micro-batches itself
        self._refuse()
        self.balancer = balancer.to(self.args.device)
        self.shared, self.log_balance, self.balance_options = shared, log_balance, dict(balance_options or {})
        self._means = Means()
        self._inputs: dict[str, Any] | None = None
        self.add_callback(_AfterStep(self))

    # ------------------------------------------------------------------ one step

    def task_losses(self, outputs: Any) -> Losses:
        """The losses by task in a model's output; override it for a model that keeps them elsewhere.

        Raises:
            ShapeError: There is no field ``losses``.
        """
        losses = outputs.get("losses") if isinstance(outputs, Mapping) else getattr(outputs, "losses", None)
        if losses is not None:
            return losses
        caller, model = type(self).__name__, type(self.model).__name__
        has = list(outputs) if isinstance(outputs, Mapping) else [type(outputs).__name__]
        summed = "its 'loss' is one number, in which the tasks are added up already" if "loss" in has else "no losses"
        raise ShapeError(
            f"{caller}: the output of {model} has {', '.join(has)}: {summed}. Return a dict with "
            "'losses': {'task': loss, ...}, one scalar a task, or override task_losses(outputs)"
        )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The scalar for the Trainer; in training its backward stops here, and ``training_step`` goes on."""
        del num_items_in_batch
        outputs = model(**inputs)
        losses = self.task_losses(outputs)
        caller = type(self).__name__
        if model.training and torch.is_grad_enabled():
            self._waiting = Deferred(caller, self.balancer, losses, **self._options())
            loss = self._waiting.loss
        else:
            loss = total(caller, losses)
        if not return_outputs:
            return loss
        if isinstance(outputs, tuple):
            return loss, (loss, *outputs)  # the Trainer takes the first away again
        items = outputs.items() if isinstance(outputs, Mapping) else ()
        return loss, {"loss": loss, **{key: value for key, value in items if key not in ("loss", "losses")}}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Tensor:
        """The Trainer's step, then the balanced gradients, at the factor that the Trainer put on the loss."""
        self._waiting = None
        loss = super().training_step(model, inputs, *args, **options)
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            raise OptionError(
                f"{type(self).__name__}: compute_loss is overridden, so that nothing was balanced; override "
                "task_losses(outputs) instead"
            )
        if self._inputs is not None:  # no optimiser's step since the last micro-batch
            forget_look(self.balancer)
        scaler = self.accelerator.scaler
        self.last_balance = waiting.run(scaled=scaler is not None and scaler.is_enabled())
        if type(self.balancer).after_step is not Balancer.after_step:
            self._inputs = self._prepare_inputs(inputs)
        if self.log_balance:
            self._means.add(scalars(self.last_balance, None if self.log_balance is True else self.log_balance))
        return loss

    def after_step(self) -> None:
        """Called after the optimiser's step: the balancer's own gradients are emptied, and FAMO looks back.

        What it looks at is the last micro-batch; the losses of those before it, at which no step was made, are
        forgotten.
        """
        self.balancer.zero_grad()  # the Trainer empties those of the model
        inputs, self._inputs = self._inputs, None
        if inputs is not None:
            self.balancer.after_step(lambda: self.task_losses(self._model()(**inputs)))

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log, and with each training loss the means of what the balancer did."""
        if "loss" in logs:
            logs.update(self._means.take())
        super().log(logs, *args, **options)

    # ------------------------------------------------------------------ optimiser and checkpoints

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """The Trainer's optimiser, with the balancer's own parameters where it has any."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(*args, **options)
        own = list(self.balancer.parameters())
        if made and own:
            optimizer.add_param_group({"params": own, "weight_decay": 0.0})
        return optimizer

    def save_model(self, output_dir: str | None = None, *args: Any, **options: Any) -> None:
        """Save the model, and the balancer's state beside it, as each checkpoint does."""
        super().save_model(output_dir, *args, **options)
        if self.args.should_save:
            folder = Path(str(self.args.output_dir) if output_dir is None else output_dir)
            torch.save(self.balancer.state_dict(), folder / STATE)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """Train; from a checkpoint with the balancer's state in it, or with ``model_init`` from a balancer reset.

        Raises:
            DataError: The checkpoint has none.
        """
        self._means.take()
        found = resume_from_checkpoint
        if found is True:
            found = get_last_checkpoint(str(self.args.output_dir))
        if found:
            state = Path(found) / STATE
            if not state.is_file():
                raise DataError(
                    f"{type(self).__name__}: the checkpoint {found} has no {STATE}, so it was not written with a "
                    "balancer and cannot be resumed with one; start anew from its weights, with "
                    "from_pretrained(checkpoint) and train()"
                )
            self.balancer.load_state_dict(torch.load(state, map_location="cpu", weights_only=True))
        elif self.model_init is not None:  # a new model, of which the balancer knows nothing
            self.balancer.reset()
        return super().train(resume_from_checkpoint, *args, **options)

    # ------------------------------------------------------------------ the rest

    def _options(self) -> dict[str, Any]:
        """Arguments of ``Balancer.backward``, with places looked up in the model that is trained now."""
        given = {"shared": self.shared, **self.balance_options}
        return {name: self._place(value) if name in ("shared", "heads") else value for name, value in given.items()}

    def _place(self, place: Any) -> Any:
        model = self._model()
        if isinstance(place, str):
            try:
                return model.get_submodule(place)
            except AttributeError:
                near = suggest(place, [name for name, _ in model.named_modules() if name])
                raise UnknownNameError(f"{type(self).__name__}: the model has no submodule {place!r}{near}") from None
        return place(model) if callable(place) and not isinstance(place, nn.Module) else place

    def _model(self) -> nn.Module:
        if self.model is None:
            raise OptionError(f"{type(self).__name__}: there is no model yet; give model= or model_init=")
        return self.model

    def _refuse(self) -> None:
        """Raise OptionError where the Trainer is asked for what balancing cannot be combined with."""
        args, caller = self.args, type(self).__name__
        refused = {
            "compute_loss_func": (self.compute_loss_func is not None, "override task_losses(outputs) instead"),
            "label_smoothing_factor": (self.label_smoother is not None, "smooth in the model, loss by loss"),
            "several devices in one process": (args.n_gpu > 1, "start one process a device, with torchrun"),
            "deepspeed": (self.is_deepspeed_enabled, "it keeps gradients for itself; use DistributedDataParallel"),
            "fsdp": (self.is_fsdp_enabled, "use DistributedDataParallel, or fully_shard in a loop of your own"),
            "parallelism_config": (
                getattr(self.accelerator, "parallelism_config", None) is not None,
                "use DistributedDataParallel",
            ),
            f"optim={str(args.optim)!r}": ("lomo" in str(args.optim).lower(), "it steps inside the backward"),
        }
        for what, (present, remedy) in refused.items():
            if present:
                raise OptionError(f"{caller}: {what} cannot be combined with a balancer: {remedy}")


class _AfterStep(TrainerCallback):
    """Tells the Trainer that the optimiser has made its step."""

    def __init__(self, trainer: MultiTaskTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, *args: Any, **options: Any) -> None:
        del args, options
        self._trainer.after_step()
