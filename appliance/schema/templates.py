"""Templates."""

from typing import Annotated, Literal

from pydantic import Field

from appliance.model import Compression, ImageFormat, TemplateState
from appliance.schema.base import Model, Removal, Revealed
from appliance.schema.boot_sets import BootSetSummary, PrefetchView
from appliance.schema.learning import LearningView


class UploadSource(Model):
    """The image comes as the body of ``PUT /templates/{name}/content``; ``TemplateCreate.size`` is required."""

    kind: Literal["upload"] = "upload"


Packed = Compression | Literal["auto"] | None

_PACKED = Field(
    default=None,
    description="What the image is packed with, None when it is not; `auto`: whatever its first bytes say, or else the"
    " end of its name",
)


class UrlSource(Model):
    """The appliance fetches the image from an http or https URL."""

    kind: Literal["url"] = "url"
    url: str
    compression: Packed = _PACKED


class PathSource(Model):
    """The image is a file on the appliance."""

    kind: Literal["path"] = "path"
    path: str
    compression: Packed = _PACKED


class ClientIdentity(Model):
    """What an NBD server with TLS is shown, and believed by; in PEM."""

    authority: str
    certificate: str
    key: Revealed


class NbdSource(Model):
    """A disk of another NBD server, another appliance above all; its boot set travels with it if that offers one."""

    kind: Literal["nbd"] = "nbd"
    uri: str = Field(description="nbd://HOST[:PORT]/EXPORT, or nbds:// for TLS")
    identity: ClientIdentity | None = Field(default=None, description="Needed for nbds://")
    lazy: bool = Field(
        default=False, description="It can be cloned at once, while its rest is fetched; it must be served read-only"
    )


Source = Annotated[UploadSource | UrlSource | PathSource | NbdSource, Field(discriminator="kind")]


class TemplateCreate(Model):
    """A template to import. ``size`` is the image file's own size, required for uploads, else checked when given.

    Of a packed image it is the size of what was packed.
    """

    name: str
    format: ImageFormat
    source: Source
    size: int | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="Of the image file as it is sent")
    boot_set: str | None = Field(default=None, description="A boot set as a file, to be prefetched from the beginning")


class FetchView(Model):
    """How far a template is that is cloned already while its rest is fetched."""

    done_bytes: int = Field(description="Of its virtual size")
    waiting: str | None = Field(description="Why it does not get on; None while it does")


class OfferView(Model):
    """A template that a client may read; another appliance fetches it from there."""

    template: str = Field(description="NAME@VERSION")
    client: str
    uri: str = Field(description="NBD URI; under its name with `:boot-set` behind it is the boot set, if there is one")
    boot_set: bool = Field(description="Whether a boot set goes with it: that of the moment of the offer")


class TemplateView(Model):
    """A template version."""

    ref: str = Field(description="NAME@VERSION")
    name: str
    version: int
    state: TemplateState
    size: int = Field(description="Virtual size: what a guest sees; 0 until known")
    mapped_bytes: int | None = Field(description="Space that it occupies in the pool; None while it is not active")
    format: ImageFormat = Field(description="Format of the source")
    source: str = Field(
        description="Where it came from, in words: 'upload', a URL without its login and its query, or a path"
    )
    sha256: str | None = Field(description="Of the source's bytes; None until imported")
    created: float
    clones: int = Field(description="How many clones depend on it")
    retired: bool = Field(description="It is cloned no more, and goes with the last of its clones")
    device: str
    boot_set: BootSetSummary | None = Field(description="None until one was learned or given")
    prefetch: PrefetchView | None = Field(description="The last one; None since the service began")
    learning: LearningView | None = Field(default=None, description="None when no boots are wanted")
    fetch: FetchView | None = Field(default=None, description="None when all of it is here")
    offered_to: tuple[str, ...] = Field(default=(), description="Clients that may read it, to fetch it")


class TemplateRemoval(Removal):
    """Answer to DELETE of a template."""

    retired: bool = Field(default=False, description="It goes later, with the last clone that depends on it")


class TemplateList(Model):
    """Templates by name and version."""

    templates: tuple[TemplateView, ...]
