"""Templates: removed, now or later."""

import logging
from collections.abc import Callable
from enum import Enum

from appliance.errors import InUse, Refused
from appliance.model import TemplateRef, TemplateState
from appliance.schema import TemplateRemoval
from appliance.service.core import Core

log = logging.getLogger(__name__)


class Removing(Enum):
    """When a template goes."""

    NOW = "now"
    WHEN_UNUSED = "when unused"


class Templates:
    """The verbs on templates that exist."""

    def __init__(self, core: Core, is_read: Callable[[int], bool], end_fetch: Callable[[int], bool]) -> None:
        """``is_read`` tells whether the template with that thin id is being read into the cache, or copied out.

        ``end_fetch`` ends the fetch of one that was removed, which then deletes its volume; false when there is none.
        """
        self._core = core
        self._is_read = is_read
        self._end_fetch = end_fetch

    def remove(self, text: str, when: Removing = Removing.NOW) -> TemplateRemoval:
        """Remove a template version, now or when its last clone has gone; fine when there is none.

        Raises InUse while clones depend on it and it is to go now, and while it is imported, warmed or exported;
        Refused for a bare name that has several versions.
        """
        ref = TemplateRef.parse(text)
        with self._core.lock:
            catalog = self._core.catalog
            template = catalog.find_template(ref)
            if template is None:
                return TemplateRemoval(name=text, removed=False)
            versions = catalog.versions(ref.name)
            if ref.version is None and len(versions) > 1:
                raise Refused(
                    f"template {ref} has {len(versions)} versions",
                    why=f"they are {', '.join(version.ref for version in reversed(versions))}",
                    hint=f"say which one: {template.ref}",
                )
            if template.state is TemplateState.IMPORTING or self._is_read(template.thin_id):
                why = "it is being imported, warmed or exported"
                raise InUse(f"template {template.ref} is in use", why=why, hint="wait until that is done")
            if when is Removing.WHEN_UNUSED and not catalog.retire_template(template.thin_id, self._core.now()):
                log.info("template %s goes with the last of its clones", template.ref)
                self._core.events.tell("template", template.ref, "retired", "it goes with the last of its clones")
                return TemplateRemoval(name=template.ref, removed=False, retired=True)
            if when is Removing.NOW:
                catalog.remove_template(template.thin_id, f"template {template.ref} was removed", self._core.now())
            if not self._end_fetch(template.thin_id):
                self._core.discard_quietly([template.thin_id])
        log.info("removed template %s", template.ref)
        self._core.events.tell("template", template.ref, "removed")
        return TemplateRemoval(name=template.ref, removed=True)
