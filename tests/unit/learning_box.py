"""A box that listens to the clones of its template, and boots of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.model import TemplateRef
from appliance.schema import LearningView
from tests.unit import service_harness
from tests.unit.service_harness import Box


@contextmanager
def learner(folder: Path) -> Iterator[Box]:
    """It has the template ``debian``."""
    with service_harness.box(folder) as made:
        assert made.add_template("debian").state == "succeeded"
        made.service.learning.begin()
        yield made


def attach(box: Box, name: str, count: int | None = None) -> list[str]:
    """New clones that are exported; their devices."""
    made = box.service.clones.create(name, "debian", count, "local")
    return [f"254:{clone.thin_id}" for clone in made]


def boot(box: Box, name: str, megabytes: int = 2) -> None:
    """A clone comes, boots, and it is noticed that it has booted."""
    [device] = attach(box, name)
    box.tracer.boot(device, megabytes=megabytes)
    box.service.learning.look()


def view(box: Box) -> LearningView | None:
    return box.service.show_template("debian").learning


def recorded(box: Box) -> list[str]:
    """The clones whose boots are kept."""
    template = box.service.core.catalog.template(TemplateRef("debian"))
    return [run.clone for run in box.service.core.catalog.boot_runs(template.thin_id)]
