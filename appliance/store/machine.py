"""What the store's steps are applied to: the programs and the kernel of this machine."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from appliance.config import Config
from appliance.host.dm import Dm
from appliance.reconcile import Step
from appliance.run import Runner


@dataclass
class Machine:
    """The Runner, the settings, and device-mapper once it is needed."""

    config: Config
    runner: Runner = field(default_factory=Runner)

    @cached_property
    def dm(self) -> Dm:
        """The control device. Raises NotReady."""
        return Dm()


StoreStep: TypeAlias = Step[Machine]
StoreSteps: TypeAlias = tuple[StoreStep, ...]
