"""Templates that clients may read."""

from appliance.catalog.database import Row, integer, text
from appliance.catalog.rows import Offer
from appliance.catalog.templates import TemplateRows

_OFFER = (
    "SELECT o.number, o.template, t.name || '@' || t.version, o.client, o.boot_set"
    " FROM offers o JOIN templates t ON t.thin_id = o.template"
)


class OfferRows(TemplateRows):
    """The offers. A template that is offered stays."""

    def add_offer(self, template: int, client: str, boot_set: str | None) -> Offer:
        """Let a client read a template, with the boot set that goes with it from now on; an offer before it ends."""
        with self._transaction() as db:
            db.execute("DELETE FROM offers WHERE template = ? AND client = ?", (template, client))
            db.execute("INSERT INTO offers (template, client, boot_set) VALUES (?, ?, ?)", (template, client, boot_set))
            row = db.execute(f"{_OFFER} WHERE o.template = ? AND o.client = ?", (template, client)).fetchone()
            return _offer(row)

    def remove_offer(self, offer: Offer, now: float) -> tuple[int, ...]:
        """End an offer. Returns the ids of the retired templates that went with it."""
        with self._transaction() as db:
            db.execute("DELETE FROM offers WHERE number = ?", (offer.number,))
            return self._sweep(db, {offer.template}, now)

    def offer(self, template: int, client: str) -> Offer | None:
        """The offer of a template to a client; None when there is none."""
        row = self._row(f"{_OFFER} WHERE o.template = ? AND o.client = ?", template, client)
        return _offer(row) if row else None

    def offers_to(self, client: str) -> tuple[Offer, ...]:
        """What a client may read, the oldest offer first."""
        return tuple(_offer(row) for row in self._rows(f"{_OFFER} WHERE o.client = ? ORDER BY o.number", client))

    def offered_to(self, template: int) -> tuple[str, ...]:
        """The clients that may read a template, by name."""
        rows = self._rows("SELECT client FROM offers WHERE template = ? ORDER BY client", template)
        return tuple(str(row[0]) for row in rows)


def _offer(row: Row) -> Offer:
    number, template, ref, client, boot_set = row
    return Offer(integer(number), integer(template), str(ref), str(client), text(boot_set))
