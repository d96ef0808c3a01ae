"""What a problem says and returns, checked where it enters the harness, so that a mistake is told in its own words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from accord.bench.problem import Problem, Training
from accord.errors import NonFiniteError, OptionError, ShapeError

RESERVED = ("units", "metrics", "val_metrics", "score", "epoch", "steps", "seconds_per_step", "warnings")
"""Names in a result that are the harness's own."""


def check_problem(name: str, problem: Problem) -> None:
    """Check the settings, before ``build``.

    Raises:
        OptionError: One is out of range, or two contradict each other.
    """
    for setting in ("epochs", "eval_every", "average_last"):
        value = getattr(problem, setting, None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise OptionError(f"{name}: {setting}={value!r} must be a whole number from 1 up; set it in the class")
    if problem.average_last > problem.epochs:
        raise OptionError(f"{name}: average_last={problem.average_last} is more than the {problem.epochs} epochs")
    rate = problem.method_lr
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < float(rate) < math.inf:
        raise OptionError(f"{name}: method_lr={rate!r} must be a number above 0")
    own = type(problem)
    if own.state_dict is not Problem.state_dict and own.load_state_dict is Problem.load_state_dict:
        raise OptionError(
            f"{name}: {own.__name__} has a state_dict() but no load_state_dict(state), so that an interrupted run "
            "could not go on: write both"
        )


def check_training(name: str, training: Any) -> Training:
    """Check what ``build`` returned.

    Raises:
        OptionError: It is no Training, or its parts are of the wrong kind or do not belong together.
    """
    if not isinstance(training, Training):
        raise OptionError(
            f"{name}: build() returned a {type(training).__name__}; it must return accord.Training(model=…, batches=…, "
            "shared=…)"
        )
    model = training.model
    if not isinstance(model, nn.Module):
        raise OptionError(f"{name}: build() returned model={_a(model)}; it must be a torch.nn.Module")
    _check_batches(name, training.batches)
    _check_optimizer(name, training)
    every = {id(parameter) for parameter in model.parameters()}
    shared = training.shared
    tensors: list[Any] = list(shared.parameters() if isinstance(shared, nn.Module) else shared)
    tensors = [pair[1] if isinstance(pair, tuple) else pair for pair in tensors]
    outside = sum(id(tensor) not in every for tensor in tensors)
    if outside:
        raise OptionError(
            f"{name}: build() returned {outside} shared parameters (of {len(tensors)}) that are not part of model, so "
            "that they would not be saved: put the shared part and the heads into one module"
        )
    features = training.features
    if features is not None and not any(features is module for module in model.modules()):
        raise OptionError(
            f"{name}: build() returned features={_a(features)}; it must be a module inside model, whose output is the "
            "shared representation"
        )
    return training


def _check_batches(name: str, batches: Any) -> None:
    if isinstance(batches, Iterator):
        raise OptionError(
            f"{name}: build() returned batches={_a(batches)}, which can be gone through only once, and each epoch goes "
            "through it: give a DataLoader, a list, or an object whose __iter__ begins anew"
        )
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
        raise OptionError(
            f"{name}: build() returned batches={_a(batches)}, which is not iterable: give a DataLoader, a list, or an "
            "object with __iter__"
        )


def _check_optimizer(name: str, training: Training) -> None:
    optimizer, schedule = training.optimizer, training.schedule
    if schedule is not None and (hasattr(schedule, "step") or not callable(schedule)):
        raise OptionError(
            f"{name}: build() returned schedule={_a(schedule)}; give a function that makes the scheduler, as in "
            "schedule=lambda optimizer: StepLR(optimizer, 10): the harness adds a method's own parameters first"
        )
    if optimizer is None:
        return
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise OptionError(
            f"{name}: build() returned optimizer={_a(optimizer)}; give an optimizer of model.parameters(), or None"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise OptionError(f"{name}: LBFGS evaluates the losses several times a step, which no balancer can follow")
    names = {id(parameter): key for key, parameter in training.model.named_parameters()}
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    strange = sum(each not in names for each in held)
    if strange:
        raise OptionError(
            f"{name}: the optimizer of build() has {strange} parameters that are not part of model, so that they would "
            "not be saved: put all that is trained into one module"
        )
    idle = [names[id(p)] for p in training.model.parameters() if p.requires_grad and id(p) not in set(held)]
    if idle:
        raise OptionError(
            f"{name}: the optimizer of build() leaves out {_some(idle)}: give it model.parameters(), or freeze what is "
            "not to be trained with requires_grad_(False)"
        )


def check_strays(name: str, problem: Problem, model: nn.Module) -> None:
    """After a step: raise OptionError if a module outside the model had gradients.

    Such a module is neither trained by the default optimiser nor saved.
    """
    inside = {id(parameter) for parameter in model.parameters()}
    for attribute, value in vars(problem).items():
        modules = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else (value,)
        )
        for module in modules:
            if isinstance(module, nn.Module) and any(
                parameter.grad is not None and id(parameter) not in inside for parameter in module.parameters()
            ):
                raise OptionError(
                    f"{name}: the losses depend on {attribute} ({type(module).__name__}), which is not part of the "
                    "model that build() returned, so that it would be neither trained nor saved: put all that is "
                    "trained into one module, such as a torch.nn.ModuleDict, or freeze it with requires_grad_(False)"
                )


def check_names(name: str, method: str, found: Any, needed: Iterable[str], known: Sequence[str]) -> None:
    """Raise ShapeError unless ``found`` maps all needed names, and known ones alone."""
    if not isinstance(found, Mapping):
        raise ShapeError(f"{name}: {method}() returned a {type(found).__name__}; return a dict with {list(known)}")
    missing = [each for each in needed if each not in found]
    unknown = [each for each in found if each not in known]
    if missing or unknown:
        wrong = [f"lacks {missing}"] * bool(missing)
        wrong += [f"has {unknown}, which tasks does not name (known: {list(known)})"] * bool(unknown)
        raise ShapeError(f"{name}: {method}() returned {list(found)}: it {' and '.join(wrong)}")


def check_loss(name: str, task: str, loss: Any) -> Tensor:
    """Raise ShapeError unless a loss is one number that can be differentiated."""
    if not isinstance(loss, Tensor):
        raise ShapeError(f"{name}: losses()[{task!r}] is a {type(loss).__name__}; return the tensor, without .item()")
    if loss.numel() != 1:
        raise ShapeError(
            f"{name}: losses()[{task!r}] has shape {tuple(loss.shape)}; a loss is one number, such as the mean over "
            "the batch"
        )
    if torch.is_grad_enabled() and not loss.requires_grad:  # FAMO asks for losses without gradients
        raise ShapeError(
            f"{name}: losses()[{task!r}] depends on no parameter: it was detached, or computed under torch.no_grad()"
        )
    return loss


def number(name: str, what: str, value: Any) -> float:
    """A metric as a float.

    Raises:
        ShapeError: It is not one number.
    """
    if (isinstance(value, Tensor) and value.numel() == 1) or (isinstance(value, np.ndarray) and value.size == 1):
        value = value.item()
    if not isinstance(value, Real):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise ShapeError(f"{name}: {what} is a {type(value).__name__}{shape}; return one number")
    return float(value)


def metrics(name: str, method: str, found: Any, needed: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """The needed metrics that ``evaluate`` or ``validate`` returned, in order.

    Raises:
        ShapeError: Some are missing, unknown or not one number.
        NonFiniteError: Some are not finite.
    """
    check_names(name, method, found, needed, known)
    values = {each: number(name, f"{method}()[{each!r}]", found[each]) for each in needed}
    bad = [f"{each} = {value}" for each, value in values.items() if not math.isfinite(value)]
    if bad:
        raise NonFiniteError(
            f"{name}: {method}() returned {', '.join(bad)}: training has diverged, and a lower learning rate may help, "
            "or the metric is a mean over nothing"
        )
    return values


def check_details(name: str, details: Any) -> dict[str, Any]:
    """Raise ShapeError unless ``details`` is plain data under names that are free."""
    if not isinstance(details, Mapping):
        raise ShapeError(f"{name}: details() returned a {type(details).__name__}; return a dict")
    taken = [each for each in details if each in RESERVED]
    if taken:
        raise ShapeError(f"{name}: details() has {taken}, which the result has already: choose other names")
    try:
        json.dumps(details)
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"{name}: details() is not plain JSON data ({error}): numbers, strings, lists, dicts"
        ) from error
    return dict(details)


def _a(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
