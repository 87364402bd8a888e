"""Boots that somebody asked for, to learn from them."""

from collections.abc import Sequence

from appliance.catalog import Template
from appliance.service.operations import Job
from appliance.service.recording import Recording


class Asked:
    """So many ``runs`` of a template, of which some are ``done``."""

    def __init__(self, template: Template, job: Job, runs: int) -> None:
        self.template = template
        self.job = job
        self.runs = runs
        self.done = 0

    def tell(self, recordings: Sequence[Recording]) -> None:
        """Say how far it is. ``recordings`` are those of the template."""
        booting = [each for each in recordings if each.begun]
        said = (
            f"recording {', '.join(each.clone.name for each in booting)}" if booting else "waiting for a clone to boot"
        )
        words = f"{said}, {self.done} of {self.runs} boots recorded"
        self.job.at(words, self.done, self.runs, "boots")
        self.job.progress(sum(each.total for each in booting))
