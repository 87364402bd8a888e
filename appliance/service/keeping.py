"""What is kept in the cache unasked: when it came to be, at start-up, and when the cache has lost it.

Boot sets come first. A template whose clones have not taught a boot set yet is kept as a whole beside them, as far as
there is room, so that its first boots are warm too; what it was given or inherited is a guess, and not enough for that.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from time import monotonic

from appliance.catalog import Template
from appliance.errors import HatcheryError, InUse
from appliance.model import Extent
from appliance.schema import PrefetchView, StoreView
from appliance.service.bootsets import BootSets
from appliance.service.core import Core
from appliance.service.ports import CacheWatch
from appliance.service.prefetching import Prefetching
from appliance.service.setbacks import CHECK_SECONDS, Part
from appliance.service.shares import Room, Shares

log = logging.getLogger(__name__)

NO_ROOM = "half of the cache has no room for it beside others"
NO_ROOM_WHOLE = "it has no boot set of its own, and half of the cache has no room for all of it beside others"
BY_ITSELF = ", and it has no boot set of its own"
"""Why a template is read as a whole, besides what for."""


class Keeping:
    """Looks at the cache every now and then, and has read what is missing."""

    def __init__(self, core: Core, boot_sets: BootSets, prefetching: Prefetching, ports: CacheWatch) -> None:
        self._core = core
        self._boot_sets = boot_sets
        self._prefetching = prefetching
        self._setbacks = prefetching.setbacks
        self._ports = ports
        self._shares = Shares(core, boot_sets)
        self._mark = ports.cold_marks()
        self._back = threading.Event()
        """The cache came back, and what that asks for was not done yet."""
        self._next_check = 0.0
        self._looking: threading.Thread | None = None
        self._told: set[int] = set()

    # --- what has just come to be

    def begin_unasked(self, template: Template, why: str) -> None:
        """As ``begin_quietly``, unless the cache was emptied by command: then a later look fetches it."""
        if self._prefetching.held():
            log.info("template %s is not prefetched now: the cache was emptied by command", template.ref)
        else:
            self.begin_quietly(template, why, unasked=True)

    def begin_quietly(self, template: Template, why: str, *, unasked: bool = False) -> None:
        """Have a template read of which a boot set, or all, has just come to be; what stands against it is logged.

        While it is being read, that comes after it. What the cache has no room for is left out, loudly.
        """
        if self._prefetching.after(template.thin_id, lambda: self.begin_unasked(template, why)):
            return
        room = self._rooms()
        try:
            if self._core.catalog.boot_set(template.thin_id) is None:
                self._begin_whole(template, why)
            elif template.thin_id in room.outside:
                self._leave_out(template)
            else:
                self._prefetching.begin(template, why, unasked=unasked)
                # Having read what is likely to be wanted, all that it has, unless it learns by then what is.
                if not self._prefetching.after(template.thin_id, partial(self._begin_whole, template, why)):
                    self._begin_whole(template, why)
        except InUse:
            self.begin_quietly(template, why, unasked=unasked)  # another was faster
        except HatcheryError as error:
            log.warning("template %s is not prefetched: %s", template.ref, error)

    def _begin_whole(self, template: Template, why: str) -> None:
        """All of a template, if that is wanted and there is room for it."""
        try:
            if self._prefetching.held() or not self._prefetching.attached or self._boot_sets.has_own(template):
                return
            if template.thin_id in self._rooms().whole:
                self._prefetching.begin(template, why + BY_ITSELF, unasked=True, whole=True)
            else:
                self._leave_out_whole(template)
        except HatcheryError as error:
            log.warning("template %s is not prefetched: %s", template.ref, error)

    # --- what was lost

    def look(self, store: StoreView) -> None:
        """Be told how the store is, every few seconds. Starts what has to be done in a thread of its own."""
        before, self._mark = self._mark, self._ports.cold_marks()
        if self._mark % 2 or self._mark != before:
            return  # the cache is emptied on purpose, and must be cold afterwards
        attached = store.cache is not None and store.cache.attached
        if attached and self._prefetching.attached is False:
            self._back.set()
        self._prefetching.attached = attached
        if store.cache is None or not attached:
            return
        self._prefetching.reading.cache_size = store.cache.size
        if self._prefetching.held() or (self._looking is not None and self._looking.is_alive()):
            return
        if self._back.is_set() or monotonic() >= self._next_check:
            self._next_check = monotonic() + CHECK_SECONDS
            came_back = self._back.is_set()
            self._back.clear()
            self._looking = threading.Thread(target=self._look, args=(came_back,), name="boot sets", daemon=True)
            self._looking.start()

    def _look(self, came_back: bool) -> None:
        room = self._rooms()
        for template, part in self._wanted():
            if self._prefetching.closed or self._prefetching.held():
                if came_back:
                    self._back.set()  # the rest has to wait
                return
            try:
                self._look_at(template, part, room, came_back=came_back)
            except HatcheryError as error:
                log.warning("template %s is not prefetched: %s", template.ref, error)
                if came_back and self._prefetching.held():
                    self._back.set()

    def _wanted(self) -> Iterator[tuple[Template, Part]]:
        """What is to be in the cache if there is room for it, in the order in which that is given away."""
        templates = self._shares.by_use()
        yield from ((each, Part.BOOT_SET) for each in templates if self._core.catalog.boot_set(each.thin_id))
        yield from ((each, Part.WHOLE) for each in templates if not self._boot_sets.has_own(each))

    def _look_at(self, template: Template, part: Part, room: Room, *, came_back: bool) -> None:
        """Raises HatcheryError when it cannot be read."""
        if part is Part.WHOLE and template.thin_id not in room.whole:
            self._leave_out_whole(template)
        elif part is Part.BOOT_SET and template.thin_id in room.outside:
            if not self._was_told(template) and not self._prefetching.is_busy_with(template.thin_id):
                self._leave_out(template)
        elif (why := self._why(template, part, came_back=came_back)) is not None:
            log.info("template %s is read through the cache: %s", template.ref, why)
            self._prefetching.begin(template, why, unasked=True, whole=part is Part.WHOLE)
            if part is Part.BOOT_SET:
                self._prefetching.wait(template.thin_id)  # what is whole may take long, and lets others go first

    def _why(self, template: Template, part: Part, *, came_back: bool) -> str | None:
        """Why a part of a template is to be read now; None when it is not."""
        key, extents = (template.thin_id, part), self._extents(template, part)
        if not extents:
            return None
        rest = BY_ITSELF if part is Part.WHOLE else ""
        if came_back:
            return "the cache is back" + rest
        if self._setbacks.waits(key):
            return None
        if self._setbacks.fell_short(key):
            return "it did not get in the last time" + rest
        return "the cache was found without it" + rest if self._prefetching.lost(template, extents, part) else None

    def _extents(self, template: Template, part: Part) -> Sequence[Extent]:
        """What a part is now; none of what is not wanted any more, or is being read already."""
        if part is Part.BOOT_SET:
            found = self._boot_sets.find(template)
            return () if found is None else found.extents
        if self._boot_sets.has_own(template) or self._prefetching.is_busy_with(template.thin_id):
            return ()
        return (Extent(0, template.size),)

    # --- what has no room

    def _rooms(self) -> Room:
        return self._shares.rooms(self._prefetching.reading.cache_size)

    def _was_told(self, template: Template) -> bool:
        view = self._prefetching.view(template.thin_id)
        return view is not None and view.state in ("warm", "incomplete")

    def _leave_out(self, template: Template) -> None:
        total = self._boot_sets.size_of(template) or template.size
        log.warning("template %s is not prefetched: %s, and it has %d bytes", template.ref, NO_ROOM, total)
        self._setbacks.had_no_room((template.thin_id, Part.BOOT_SET))
        self._show(template, NO_ROOM, total)

    def _leave_out_whole(self, template: Template) -> None:
        """Said once, and shown of what has no boot set, of which more is to be told."""
        guessed = self._core.catalog.boot_set(template.thin_id) is not None
        known = template.thin_id in self._told if guessed else self._was_told(template)
        if known or self._boot_sets.has_own(template) or self._prefetching.is_busy_with(template.thin_id):
            return
        self._told.add(template.thin_id)
        total = self._shares.held(template)
        log.warning("template %s is not read whole: %s, and it has %d bytes", template.ref, NO_ROOM_WHOLE, total)
        self._setbacks.had_no_room((template.thin_id, Part.WHOLE))
        if not guessed:
            self._show(template, NO_ROOM_WHOLE, total)

    def _show(self, template: Template, why: str, total: int) -> None:
        view = PrefetchView(state="incomplete", why=why, total_bytes=total, left_bytes=total, began=time.time())
        self._prefetching.show(template, view)
