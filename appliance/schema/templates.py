"""Templates."""

from typing import Annotated, Literal

from pydantic import Field

from appliance.model import ImageFormat, TemplateState
from appliance.schema.base import Model, Removal
from appliance.schema.boot_sets import BootSetSummary, PrefetchView
from appliance.schema.learning import LearningView


class UploadSource(Model):
    """The image comes as the body of ``PUT /templates/{name}/content``; ``TemplateCreate.size`` is required."""

    kind: Literal["upload"] = "upload"


class UrlSource(Model):
    """The appliance fetches the image from an http or https URL."""

    kind: Literal["url"] = "url"
    url: str


class PathSource(Model):
    """The image is a file on the appliance."""

    kind: Literal["path"] = "path"
    path: str


Source = Annotated[UploadSource | UrlSource | PathSource, Field(discriminator="kind")]


class TemplateCreate(Model):
    """A template to import. ``size`` is the image file's own size, required for uploads, else checked when given."""

    name: str
    format: ImageFormat
    source: Source
    size: int | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="Of the image file as it is sent")
    boot_set: str | None = Field(default=None, description="A boot set as a file, to be prefetched from the beginning")


class TemplateView(Model):
    """A template version."""

    ref: str = Field(description="NAME@VERSION")
    name: str
    version: int
    state: TemplateState
    size: int = Field(description="Virtual size: what a guest sees; 0 until known")
    mapped_bytes: int | None = Field(description="Space that it occupies in the pool; None while it is not active")
    format: ImageFormat = Field(description="Format of the source")
    source: str = Field(description="Where it came from, in words: 'upload', a URL or a path")
    sha256: str | None = Field(description="Of the source's bytes; None until imported")
    created: float
    clones: int = Field(description="How many clones depend on it")
    retired: bool = Field(description="It is cloned no more, and goes with the last of its clones")
    device: str
    boot_set: BootSetSummary | None = Field(description="None until one was learned or given")
    prefetch: PrefetchView | None = Field(description="The last one; None since the service began")
    learning: LearningView | None = Field(default=None, description="None when no boots are wanted")


class TemplateRemoval(Removal):
    """Answer to DELETE of a template."""

    retired: bool = Field(default=False, description="It goes later, with the last clone that depends on it")


class TemplateList(Model):
    """Templates by name and version."""

    templates: tuple[TemplateView, ...]
