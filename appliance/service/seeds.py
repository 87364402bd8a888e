"""Seeds of clones: what guests are told when they first boot, offered beside their disks."""

import logging
from dataclasses import dataclass, field

from appliance.catalog import Clone, NewSeed
from appliance.errors import NotFound
from appliance.images.seed import check_hostname, check_keys, check_user_data, hostname_of
from appliance.schema import SeedSpec
from appliance.service.clones import Clones
from appliance.service.core import Core
from appliance.service.exports import Exports

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants guests to be told; without a hostname, they have their clones' names."""

    hostname: str | None = None
    ssh_keys: tuple[str, ...] = ()
    user_data: str | None = field(default=None, repr=False)

    def checked(self) -> "Wish":
        """The same, without what is no key. Raises InvalidInput."""
        if self.hostname is not None:
            check_hostname(self.hostname)
        if self.user_data is not None:
            check_user_data(self.user_data)
        return Wish(self.hostname, check_keys(self.ssh_keys), self.user_data)

    def of(self, clone: str, number: int | None = None) -> NewSeed:
        """The seed of one clone; of many, the hostname is numbered as they are. Raises InvalidInput."""
        if self.hostname is None:
            name = hostname_of(clone)
        else:
            host, dot, domain = self.hostname.partition(".")
            name = self.hostname if number is None else f"{host}-{number}{dot}{domain}"
        return NewSeed(check_hostname(name), self.ssh_keys, self.user_data)


def wish(spec: SeedSpec) -> Wish:
    """What a request says."""
    secret = spec.user_data
    return Wish(spec.hostname, spec.ssh_keys, None if secret is None else secret.get_secret_value())


class Seeds:
    """The verbs on the seeds of clones that exist."""

    def __init__(self, core: Core, clones: Clones, exports: Exports) -> None:
        self._core = core
        self._clones = clones
        self._exports = exports

    def put(self, name: str, wish: Wish, *, force: bool) -> Clone:
        """Give a clone a seed, in place of one that it has; fine when it is the same.

        It is another instance to cloud-init then, which does all of a first boot again. Raises InvalidInput, NotFound,
        NotReady, InUse while somebody is connected to the old one, unless forced.
        """
        wanted = wish.checked().of(name)
        with self._core.lock:
            catalog = self._core.catalog
            clone = self._clones.ready(name)
            old = None if clone.seed is None else catalog.seed(clone.seed)
            if old is not None and old.given == wanted:
                return clone
            self._withdraw(clone, cut_off=force)
            catalog.put_seed(name, wanted)
            return self._changed(name, "seeded", f"as {wanted.hostname}")

    def remove(self, name: str, *, force: bool) -> bool:
        """Take a clone's seed away; false when it has none.

        Raises NotFound for the clone, NotReady, InUse while somebody is connected to the seed, unless forced.
        """
        with self._core.lock:
            clone = self._clones.ready(name)
            if clone.seed is None:
                return False
            self._withdraw(clone, cut_off=force)
            self._core.catalog.drop_seed(name)
            self._changed(name, "unseeded", "")
            return True

    def show(self, name: str) -> Clone:
        """A clone that has a seed. Raises NotFound."""
        clone = self._core.catalog.clone(name)
        if clone.seed is None:
            raise NotFound(
                f"clone {name} has no seed",
                why="it was made without one, or it was removed",
                hint=f"give it one: `hatchery clone seed set {name}`",
            )
        return clone

    def _withdraw(self, clone: Clone, *, cut_off: bool) -> None:
        if clone.client is not None:
            self._exports.withdraw_seed(clone.client, clone, cut_off=cut_off)

    def _changed(self, name: str, state: str, words: str) -> Clone:
        clone = self._core.catalog.clone(name)
        if clone.client is not None:
            self._exports.offer_seed(clone.client, clone)
        log.info("clone %s is %s", name, f"{state} {words}".rstrip())
        self._core.events.tell("clone", name, state, words)
        return clone
