"""What a method means here: the option ``net=``, and what balances the actor."""

from __future__ import annotations

import dataclasses

from accord.balancers.registry import suggest
from accord.bench.rl.networks import NAMES, NetworkSettings
from accord.bench.spec import MethodSpec
from accord.errors import UnknownNameError


def network_of(method: MethodSpec, default: NetworkSettings) -> tuple[MethodSpec, NetworkSettings]:
    """The method without ``net``, and the network's settings.

    ``ls:net=multi-head`` is linear scalarization of a network with a head for each task; ``nash-mtl:net=care``
    balances CARE's gradients.

    Raises:
        UnknownNameError: There is no such network; the nearest is suggested.
    """
    options = dict(method.options)
    name = str(options.pop("net", default.name))
    if name not in NAMES:
        raise UnknownNameError(f"method {str(method)!r}: there is no network {name!r}{suggest(name, NAMES)}")
    return MethodSpec(method.name, options), dataclasses.replace(default, name=name)


BY_LOSS = ("uw", "si", "dwa", "famo", "gls", "stch", "gradnorm")
"""Methods that weigh by the size of losses, which they need to be positive: an actor's are not."""


def actor_method(method: MethodSpec) -> MethodSpec:
    """What balances the actor's losses: the method itself, or linear scalarization for those that go by losses.

    The critic's losses are squares; the actor's have the sign of the returns. FAMO's code, too, balances the critic
    alone.
    """
    return MethodSpec("ls") if method.name in BY_LOSS else method
