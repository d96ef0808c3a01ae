"""What a method means here: the options ``net=`` and ``compile=``, and what balances the actor."""

from __future__ import annotations

from dataclasses import replace

from accord.balancers.registry import suggest
from accord.bench.rl.networks import NAMES
from accord.bench.rl.sac import SACSettings
from accord.bench.spec import MethodSpec
from accord.errors import OptionError, UnknownNameError


def settings_of(method: MethodSpec, default: SACSettings) -> tuple[MethodSpec, SACSettings]:
    """The method without the options of this experiment, and the learner's settings with them.

    ``ls:net=multi-head`` is linear scalarization of a network with a head for each task, ``nash-mtl:net=care`` balances
    CARE's gradients, and ``nash-mtl:compile=True`` compiles the learner.

    Raises:
        UnknownNameError: There is no such network; the nearest is suggested.
        OptionError: ``compile`` is neither True nor False.
    """
    options = dict(method.options)
    name = str(options.pop("net", default.network.name))
    compiled = options.pop("compile", default.compile)
    if name not in NAMES:
        raise UnknownNameError(f"method {str(method)!r}: there is no network {name!r}{suggest(name, NAMES)}")
    if not isinstance(compiled, bool):
        raise OptionError(f"method {str(method)!r}: compile={compiled!r} must be True or False")
    settings = replace(default, network=replace(default.network, name=name), compile=compiled)
    return MethodSpec(method.name, options), settings


BY_LOSS = ("uw", "si", "dwa", "famo", "gls", "stch", "gradnorm")
"""Methods that weigh by the size of losses, which they need to be positive: an actor's are not."""


def actor_method(method: MethodSpec) -> MethodSpec:
    """What balances the actor's losses: the method itself, or linear scalarization for those that go by losses.

    The critic's losses are squares; the actor's have the sign of the returns. FAMO's code, too, balances the critic
    alone.
    """
    return MethodSpec("ls") if method.name in BY_LOSS else method
