"""Where a bundle is offered: in a folder of this machine, or at the URL of one."""

import errno
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from appliance.errors import InvalidInput, NoSpace, NotReady, Refused, Unhealthy
from appliance.images.sources import Manner, Opener, check_url
from appliance.progress import QUIET, Bar
from appliance.run import Runner
from appliance.update import bundle, spool
from appliance.update.bundle import SUMS, Bundle, Contents
from appliance.update.spool import Patience, Place, Spool

_PATIENCE = Patience()


class Offer(Protocol):
    """A bundle that is offered."""

    def read(self) -> Bundle:
        """What it is, once its signature counts. Raises what ``bundle.read`` raises, and NotReady, NotFound."""

    def check(self) -> None:
        """See that all of it can be had. Raises HatcheryError."""

    def complete(self, bar: Bar = QUIET) -> None:
        """Have all of it in the bundle's folder, verified. Raises HatcheryError."""


class Folder:
    """A bundle on this machine."""

    def __init__(self, folder: Path, allowed: str, runner: Runner, contents: Contents) -> None:
        """``allowed`` is what ``bundle.signers`` returned."""
        self._folder = folder
        self._allowed = allowed
        self._runner = runner
        self._contents = contents

    def read(self) -> Bundle:
        """See Offer. Looks at as much as is wanted."""
        return bundle.read(self._folder, self._allowed, self._runner, self._contents)

    def check(self) -> None:
        """See Offer. It is here."""

    def complete(self, bar: Bar = QUIET) -> None:
        """See Offer. It is here."""


class Web:
    """A bundle at a URL. Its description lies in ``folder``, and all of it after ``complete``."""

    def __init__(
        self, place: Place, kept: Spool, folder: Path, allowed: str, runner: Runner, patience: Patience
    ) -> None:
        """``kept`` is where bundles are fetched to; ``folder`` is that of it, or one for a look."""
        self._place = place
        self._kept = kept
        self._folder = folder
        self._allowed = allowed
        self._runner = runner
        self._patience = patience
        self.broke_off = False

    def read(self) -> Bundle:
        """See Offer. Asks for the description alone."""
        with self._asking():
            description = spool.describe(self._place)
            if self._folder == self._kept.folder:
                self._kept.begin(description)
            else:
                spool.write(self._folder, description)
        return bundle.read(self._folder, self._allowed, self._runner, Contents.IGNORE)

    def check(self) -> None:
        """See Offer. Asks how large the files are, and sees whether there is room for them."""
        self._kept.check_room(self._sizes())

    def complete(self, bar: Bar = QUIET) -> None:
        """See Offer."""
        with self._asking():
            wanted = self._sizes()
            self._kept.check_room(wanted)
            self._kept.fetch(self._place, wanted, self._sums(), self._patience, bar)
        bar.begin("verifying what was fetched")
        bundle.read(self._folder, self._allowed, self._runner, Contents.VERIFY)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Remember that it can be gone on with what is here, if it was the server or the network that failed."""
        try:
            yield
        except NotReady:
            self.broke_off = True
            raise
        except OSError as error:
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unhealthy
            raise kind(
                f"the bundle cannot be written to {self._folder}",
                why=str(error),
                hint="is there room, and is it writable?",
            ) from error

    def _sizes(self) -> dict[str, int]:
        made = bundle.read(self._folder, self._allowed, self._runner, Contents.IGNORE)
        return spool.sizes(self._place, spool.limits(made, self._sums()))

    def _sums(self) -> dict[str, str]:
        return bundle.parse_sums((self._folder / SUMS).read_text(encoding="utf-8"))


@contextmanager
def fetched(place: Place, kept: Spool, allowed: str, runner: Runner, patience: Patience = _PATIENCE) -> Iterator[Web]:
    """A bundle at a URL, to be applied. Afterwards nothing of it is left, unless its fetching broke off."""
    offer = Web(place, kept, kept.folder, allowed, runner, patience)
    try:
        yield offer
    except KeyboardInterrupt:
        offer.broke_off = True
        raise
    finally:
        if not offer.broke_off:
            kept.clear()


@contextmanager
def looked_at(place: Place, kept: Spool, allowed: str, runner: Runner) -> Iterator[Web]:
    """A bundle at a URL of which only the description is fetched, to a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hatchery-update-") as folder:
        yield Web(place, kept, Path(folder), allowed, runner, _PATIENCE)


def is_url(text: str) -> bool:
    """Whether a bundle is named by a URL, and not by the path of a folder."""
    return re.match("[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def place(url: str, open_url: Opener, *, authority: str = "", plain_http: bool = False) -> Place:
    """Where the bundle at a URL is; ``authority`` is in PEM. Raises InvalidInput, Refused."""
    parts = urlsplit(check_url(url))
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidInput(
            "the URL is none of a bundle's folder",
            why="it has a query, a fragment or a login, which would be seen in logs",
            hint="give https://HOST/PATH of the folder that `script/image bundle` made",
        )
    if parts.scheme == "http" and not plain_http:
        raise Refused(
            f"{url} is not asked",
            why="http shows to everybody on the way what this appliance runs, and lets them hold newer versions back",
            hint="give an https URL, or say --plain-http; the bundle's signature is verified in any case",
        )
    return Place(
        url if url.endswith("/") else f"{url}/", Manner(encrypted=not plain_http, authority=authority), open_url
    )
