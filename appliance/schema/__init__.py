"""What goes over the API: one definition for the server, the client, the CLI, the roles and the tests.

HTTP over a unix socket, everything below ``/v1``. Sizes and offsets are bytes, times are seconds since the epoch
(UTC), latencies are microseconds. Errors are ``application/problem+json`` with the body ``ProblemDetails``.

    GET    /status                          -> Status
    GET    /doctor                          -> Examination
    GET    /counters?clones=BOOL            -> Counters, those of clones if wanted (the default)
    GET    /events?follow=BOOL              -> a stream (text/event-stream) whose data are Events; Last-Event-ID goes on
    POST   /cache/cold                      -> Operation (202)
    GET    /histograms                      -> HistogramsStarted; not-found when none run
    POST   /histograms      HistogramsRequest -> HistogramsStarted (201); in-use when they run already
    DELETE /histograms                      -> Histograms (stops them); not-found when none run
    GET    /latencies?after=NAME&most=N     -> CloneLatencies: some of them, if there are more than wanted
    GET    /operations                      -> OperationList, newest first
    GET    /operations/{id}                 -> Operation
    POST   /operations/{id}/cancel          -> Operation, which ends soon; refused where it cannot be (any more)
    GET    /templates                       -> TemplateList
    POST   /templates          TemplateCreate -> Operation (202)
    PUT    /templates/{name}/content  octets  -> Operation, after the last byte was taken in; for an upload
    GET    /templates/{ref}                 -> TemplateView
    DELETE /templates/{ref}?when_unused=BOOL -> TemplateRemoval; in-use while clones of it exist, unless it may go later
    POST   /templates/{ref}/warm            -> Operation (202)
    PUT    /templates/{ref}/offers/{client} -> OfferView: the client may read it; again, with the boot set of now
    DELETE /templates/{ref}/offers/{client}?force=BOOL -> Removal; in-use while it is read, unless forced
    POST   /templates/{ref}/learn  LearnRequest -> Operation (202), until that many boots were recorded
    GET    /templates/{ref}/boot-set        -> BootSetView; not-found when it has none
    GET    /templates/{ref}/boot-set/file   -> the boot set as a file, to be put elsewhere
    PUT    /templates/{ref}/boot-set/file  such a file -> BootSetView
    GET    /templates/{ref}/boot-set/trace?boot=N -> the last recorded boot but N-1, as a trace
    DELETE /templates/{ref}/boot-set        -> Removal
    POST   /templates/{ref}/measurements  Measured -> MeasurementView (201)
    GET    /measurements                    -> MeasurementList, newest first: the last 20 of each template
    GET    /store/reconcile                 -> Reconciliation: what a POST would do
    POST   /store/reconcile                 -> Reconciliation: what was done
    POST   /store/reserve/release           -> ReserveReleased
    GET    /gc                              -> GarbageReport: what a POST would give back
    POST   /gc                              -> Operation (202)
    GET    /clones?brief=BOOL               -> CloneList; briefly, without words for QEMU, libvirt and what was written
    POST   /clones             CloneCreate  -> CloneList (201), exactly the new ones
    POST   /creations          CloneCreate  -> Operation (202): the same for many, which takes long
    GET    /clones/{name}                   -> CloneView
    DELETE /clones/{name}?force=BOOL        -> Removal; in-use while somebody is connected, unless forced
    PUT    /clones/{name}/attachment  Attachment -> CloneView; in-use when another client has it, unless shared
    DELETE /clones/{name}/attachment?force=BOOL&client=NAME  -> CloneView; with a client, one of two lets go of it
    POST   /moves?force=BOOL   Move         -> CloneList: all or none; in-use while somebody is connected, unless forced
    PUT    /clones/{name}/size  Resize      -> CloneView; only larger; in-use while somebody is connected
    PUT    /clones/{name}/lease  Lease      -> CloneView
    GET    /clones/{name}/seed              -> SeedView; not-found when it has none
    PUT    /clones/{name}/seed?force=BOOL  SeedSpec -> SeedView; in-use while somebody is connected to the old one
    DELETE /clones/{name}/seed?force=BOOL   -> Removal; in-use while somebody is connected to it, unless forced
    PUT    /clones/{name}/limits  CloneLimits -> CloneView; at once, also while somebody is connected
    POST   /clones/{name}/reset?force=BOOL  -> CloneView; in-use while somebody is connected, unless forced
    POST   /clones/{name}/promotion  Promotion -> Operation (202); in-use while somebody is connected
    POST   /templates/{ref}/stills          -> StillView (201)
    POST   /clones/{name}/stills            -> StillView (201), of this moment, whoever is connected
    GET    /stills                          -> StillList
    DELETE /stills/{number}                 -> Removal, whoever reads it
    GET    /clients                         -> ClientList
    GET    /clients/{name}                  -> ClientView
    POST   /clients/{name}/certificates  CertificateRequest -> CertificateBundle (201), with a key that is kept nowhere
    GET    /authority                       -> AuthorityView
    PUT    /authority?force=BOOL  AuthoritySpec -> AuthorityView; in-use while certificates are good, unless forced
    POST   /authority/renewal?force=BOOL    -> AuthorityView
    POST   /clients/{name}/revocations  Revocation -> ClientView; who is connected is cut off
    PUT    /clients/{name}/nvme  NvmeSpec   -> ClientView: it is reached over NVMe/TCP, too
    DELETE /clients/{name}/nvme             -> Removal; in-use while clones are attached to it so
    POST   /clients/{name}/nvme/keys  NvmeKeyRequest -> NvmeKey (201), which is not shown again
    PUT    /clients/{name}     ClientSpec   -> ClientView (201 when new, 200 when changed or as it was)
    DELETE /clients/{name}                  -> Removal; in-use while clones are attached to it

Upload of a template: ``POST /templates`` with ``source.kind = "upload"`` and the size; then ``PUT .../content`` with
exactly that many bytes; then follow the operation. A short or aborted upload leaves nothing behind.
Of ``source.kind = "nbd"`` with ``lazy`` the operation ends when the template can be cloned; another one, of the kind
``fetch``, ends when all of it is here.
DELETE of what is not there succeeds with ``removed = false``.

To copy a disk out: ``POST .../stills``, read what is at the still's URI, and delete it. A still that nobody reads goes
by itself after a minute, and all of them do when the service starts again.
"""

from appliance.schema.base import (
    API_PREFIX,
    LOCAL_CLIENT,
    PROBLEM_TYPE,
    Model,
    Operation,
    OperationError,
    OperationKind,
    OperationList,
    OperationState,
    ProblemDetails,
    Removal,
)
from appliance.schema.boot_sets import BootSetSummary, BootSetView, PrefetchView
from appliance.schema.clients import (
    CERTIFICATE_SECONDS,
    FIRST_PORT,
    MOST_CONNECTIONS,
    PEM_MOST,
    AuthoritySpec,
    AuthorityView,
    CertificateBundle,
    CertificateKind,
    CertificateRequest,
    CertificateView,
    ClientList,
    ClientSpec,
    ClientView,
    ConnectionView,
    NvmeDoorView,
    NvmeKey,
    NvmeKeyRequest,
    NvmeSpec,
    Revocation,
    RevocationKind,
    Transport,
)
from appliance.schema.clones import (
    LEAST_BANDWIDTH,
    LEAST_IOPS,
    MOST_BANDWIDTH,
    MOST_IOPS,
    MOST_SHARED_SECONDS,
    SHARED_SECONDS,
    Attachment,
    CloneCreate,
    CloneLimits,
    CloneList,
    CloneView,
    Lease,
    Move,
    NvmeView,
    Promotion,
    Resize,
    SeedSpec,
    SeedView,
    SharedView,
)
from appliance.schema.doctor import CheckState, CheckView, Examination
from appliance.schema.events import HEARTBEAT, Event, EventKind
from appliance.schema.gc import GarbageReport, GivenBack, VolumeState, VolumeView
from appliance.schema.learning import LearningView, LearnRequest
from appliance.schema.measure import (
    CacheCounters,
    CloneHistogram,
    CloneLatencies,
    Counters,
    DeviceCounters,
    DiskHistogram,
    Histograms,
    HistogramsRequest,
    HistogramsStarted,
    HistogramView,
)
from appliance.schema.measured import BootTimes, Measured, MeasuredPhase, MeasurementList, MeasurementView
from appliance.schema.stills import StillList, StillView
from appliance.schema.store import (
    PARTS,
    ArrayView,
    CacheView,
    MemberView,
    PoolView,
    ProblemView,
    Reconciliation,
    ReserveReleased,
    Status,
    StepView,
    StoreView,
)
from appliance.schema.templates import (
    ClientIdentity,
    FetchView,
    NbdSource,
    OfferView,
    Packed,
    PathSource,
    Source,
    TemplateCreate,
    TemplateList,
    TemplateRemoval,
    TemplateView,
    UploadSource,
    UrlSource,
)

__all__ = [
    "API_PREFIX",
    "CERTIFICATE_SECONDS",
    "FIRST_PORT",
    "HEARTBEAT",
    "LEAST_BANDWIDTH",
    "LEAST_IOPS",
    "LOCAL_CLIENT",
    "MOST_BANDWIDTH",
    "MOST_CONNECTIONS",
    "MOST_IOPS",
    "MOST_SHARED_SECONDS",
    "PARTS",
    "PEM_MOST",
    "PROBLEM_TYPE",
    "SHARED_SECONDS",
    "ArrayView",
    "Attachment",
    "AuthoritySpec",
    "AuthorityView",
    "BootSetSummary",
    "BootSetView",
    "BootTimes",
    "CacheCounters",
    "CacheView",
    "CertificateBundle",
    "CertificateKind",
    "CertificateRequest",
    "CertificateView",
    "CheckState",
    "CheckView",
    "ClientIdentity",
    "ClientList",
    "ClientSpec",
    "ClientView",
    "CloneCreate",
    "CloneHistogram",
    "CloneLatencies",
    "CloneLimits",
    "CloneList",
    "CloneView",
    "ConnectionView",
    "Counters",
    "DeviceCounters",
    "DiskHistogram",
    "Event",
    "EventKind",
    "Examination",
    "FetchView",
    "GarbageReport",
    "GivenBack",
    "HistogramView",
    "Histograms",
    "HistogramsRequest",
    "HistogramsStarted",
    "LearnRequest",
    "LearningView",
    "Lease",
    "Measured",
    "MeasuredPhase",
    "MeasurementList",
    "MeasurementView",
    "MemberView",
    "Model",
    "Move",
    "NbdSource",
    "NvmeDoorView",
    "NvmeKey",
    "NvmeKeyRequest",
    "NvmeSpec",
    "NvmeView",
    "OfferView",
    "Operation",
    "OperationError",
    "OperationKind",
    "OperationList",
    "OperationState",
    "Packed",
    "PathSource",
    "PoolView",
    "PrefetchView",
    "ProblemDetails",
    "ProblemView",
    "Promotion",
    "Reconciliation",
    "Removal",
    "ReserveReleased",
    "Resize",
    "Revocation",
    "RevocationKind",
    "SeedSpec",
    "SeedView",
    "SharedView",
    "Source",
    "Status",
    "StepView",
    "StillList",
    "StillView",
    "StoreView",
    "TemplateCreate",
    "TemplateList",
    "TemplateRemoval",
    "TemplateView",
    "Transport",
    "UploadSource",
    "UrlSource",
    "VolumeState",
    "VolumeView",
]
