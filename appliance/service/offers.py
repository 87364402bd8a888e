"""Templates that a client may read: it fetches them, boot set and all; another appliance clones them meanwhile.

The client's own storage daemon offers the sealed volume read-only under the version's name, ``debian-13@1``, and the
boot set of that moment beside it, ``debian-13@1:boot-set``: a file, in the folder that the daemon may read.
"""

import logging

from appliance.catalog import Client, Offer
from appliance.errors import NotReady
from appliance.model import Access, TemplateRef, TemplateState
from appliance.schema import OfferView, Removal
from appliance.service import addresses
from appliance.service.core import Core
from appliance.service.exports import Exports

log = logging.getLogger(__name__)


class Offers:
    """The verbs on offers."""

    def __init__(self, core: Core, exports: Exports) -> None:
        self._core = core
        self._exports = exports

    def put(self, text: str, name: str) -> OfferView:
        """Let a client read a template from now on, with its boot set as it is now.

        Raises NotFound, NotReady while the template is not whole, Unhealthy.
        """
        with self._core.lock:
            catalog = self._core.catalog
            client, template = catalog.client(name), catalog.template(TemplateRef.parse(text))
            if template.state is not TemplateState.READY:
                raise NotReady(
                    f"template {template.ref} cannot be offered",
                    why=f"it is {template.state}",
                    hint=f"wait until it is ready: `hatchery template show {template.ref}`",
                )
            stored = catalog.boot_set(template.thin_id)
            boot_set, known = None if stored is None else stored.text, catalog.offer(template.thin_id, name)
            if known is None or known.boot_set != boot_set:
                if known is not None:
                    self._withdraw(known, cut_off=True)
                self._core.pool.activate_template(template.thin_id, template.size, Access.READ_ONLY)
                offer = catalog.add_offer(template.thin_id, name, boot_set)
                self._exports.offer_template(offer)
                log.info("template %s is offered to client %s", template.ref, name)
            return self._view(client, template.ref, boot_set is not None)

    def remove(self, text: str, name: str, *, force: bool) -> Removal:
        """Offer a template no more; fine when it is not. Raises NotFound, InUse while it is read, unless forced."""
        with self._core.lock:
            template = self._core.catalog.template(TemplateRef.parse(text))
            offer = self._core.catalog.offer(template.thin_id, name)
            if offer is not None:
                self._core.discard_quietly(self._withdraw(offer, cut_off=force))
                log.info("template %s is not offered to client %s any more", template.ref, name)
            return Removal(name=template.ref, removed=offer is not None)

    def _withdraw(self, offer: Offer, *, cut_off: bool) -> tuple[int, ...]:
        self._exports.withdraw_template(offer, cut_off=cut_off)
        return self._core.catalog.remove_offer(offer, self._core.now())

    def _view(self, client: Client, ref: str, with_boot_set: bool) -> OfferView:
        uri = addresses.uri(self._exports.listen(client), ref)
        return OfferView(template=ref, client=client.name, uri=uri, boot_set=with_boot_set)
