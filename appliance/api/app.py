"""The routes. Each calls one use case; the table of them is in ``appliance.schema``.

Routes that are plain functions run in worker threads, so a slow one does not hold up the others.
"""

from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request, Response, status
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from appliance import __version__, schema
from appliance.api import authority, boot_sets, description, events, gc, learning, measurements, problems, stills, store
from appliance.api.about import About
from appliance.api.problems import OperationFailed
from appliance.images.sources import UploadSource
from appliance.model import MIB
from appliance.schema import API_PREFIX
from appliance.service.operations import Job
from appliance.service.service import Service
from appliance.service.templates import Removing
from appliance.service.views import Detail

Force = Annotated[bool, Query(description="Even if somebody is connected")]

Brief = Annotated[bool, Query(description="Without `qemu`, `libvirt` and `written_bytes`: quicker for many clones")]

WithClones = Annotated[bool, Query(description="Those of clones, too; without them it takes the same with any number")]

Leaving = Annotated[str | None, Query(description="Of two clients that share it: who lets go of it")]

WhenUnused = Annotated[bool, Query(description="When the last clone that depends on it has gone")]

UPLOAD_PIECE = 1 * MIB
"""Bytes of an upload that are handed to its import at a time."""


def make_app(service: Service) -> FastAPI:
    """The application over ``service``."""
    app = description.Described(
        title="Hatchery",
        version=__version__,
        openapi_url=f"{API_PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    app.add_middleware(About)
    for router in (
        _appliance(service),
        events.routes(service),
        _templates(service),
        boot_sets.routes(service),
        learning.routes(service),
        measurements.routes(service),
        _clones(service),
        stills.routes(service),
        _clients(service),
        authority.routes(service),
        store.routes(service),
        gc.routes(service),
    ):
        app.include_router(router, prefix=API_PREFIX, responses=description.FAILS)
    return app


def _appliance(service: Service) -> APIRouter:
    router = APIRouter(tags=["appliance"])

    @router.get("/status")
    def show_status() -> schema.Status:
        """The appliance in one look."""
        return service.status()

    @router.get("/doctor")
    def examine() -> schema.Examination:
        """The appliance held against the rules of its data path."""
        return service.examine()

    @router.get("/counters")
    def counters(clones: WithClones = True) -> schema.Counters:
        """All counters."""
        return service.measure.counters(clones=clones)

    @router.post("/cache/cold", status_code=status.HTTP_202_ACCEPTED)
    def cold() -> schema.Operation:
        """Empty the cache."""
        return service.measure.cold().operation

    @router.get("/histograms")
    def histograms() -> schema.HistogramsStarted:
        """Who records latency histograms."""
        return service.measure.histograms()

    @router.post("/histograms", status_code=status.HTTP_201_CREATED)
    def start_histograms(request: schema.HistogramsRequest | None = None) -> schema.HistogramsStarted:
        """Begin to record latency histograms."""
        return service.measure.start_histograms(request or schema.HistogramsRequest())

    @router.delete("/histograms")
    def stop_histograms() -> schema.Histograms:
        """Stop recording and return the histograms."""
        return service.measure.stop_histograms()

    @router.get("/latencies")
    def latencies(after: str = "", most: Annotated[int | None, Query(ge=1)] = None) -> schema.CloneLatencies:
        """Latencies of clones that are attached, by their names: from the first after ``after`` on, and so many."""
        return service.measure.latencies(after, most)

    @router.get("/operations")
    def operations() -> schema.OperationList:
        """Operations, newest first."""
        return schema.OperationList(operations=service.operations.list())

    @router.get("/operations/{number}")
    def operation(number: str) -> schema.Operation:
        """One operation."""
        return service.operations.job(number).operation

    @router.post("/operations/{number}/cancel")
    def cancel(number: str) -> schema.Operation:
        """Have an operation break off and take back what it did. One that has ended stays as it is."""
        return service.operations.job(number).cancel()

    return router


def _templates(service: Service) -> APIRouter:
    router = APIRouter(tags=["templates"])

    @router.get("/templates")
    def templates() -> schema.TemplateList:
        """All templates."""
        return service.list_templates()

    @router.post("/templates", status_code=status.HTTP_202_ACCEPTED)
    def add(request: schema.TemplateCreate) -> schema.Operation:
        """Begin an import."""
        return service.import_template(request).operation

    @router.put("/templates/{name}/content", openapi_extra=description.body("application/octet-stream"))
    async def content(name: str, request: Request) -> schema.Operation:
        """The image's bytes, for an import whose source is an upload."""
        return await _receive(service, name, request)

    @router.get("/templates/{ref}")
    def template(ref: str) -> schema.TemplateView:
        """One template."""
        return service.show_template(ref)

    @router.delete("/templates/{ref}")
    def remove(ref: str, when_unused: WhenUnused = False) -> schema.TemplateRemoval:
        """Remove a template version."""
        return service.templates.remove(ref, Removing.WHEN_UNUSED if when_unused else Removing.NOW)

    @router.put("/templates/{ref}/offers/{client}")
    def offer(ref: str, client: str) -> schema.OfferView:
        """Let a client read a template, with its boot set."""
        return service.offers.put(ref, client)

    @router.delete("/templates/{ref}/offers/{client}")
    def withdraw(ref: str, client: str, force: Force = False) -> schema.Removal:
        """Let a client read a template no more."""
        return service.offers.remove(ref, client, force=force)

    @router.post("/templates/{ref}/warm", status_code=status.HTTP_202_ACCEPTED)
    def warm(ref: str) -> schema.Operation:
        """Read a template's boot set into the cache; all of a template that has none."""
        return service.prefetching.warm(ref).operation

    return router


async def _receive(service: Service, name: str, request: Request) -> schema.Operation:
    source, job = await run_in_threadpool(service.imports.upload, name)
    piece = bytearray()
    try:
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= UPLOAD_PIECE:
                if not await run_in_threadpool(source.put, bytes(piece)):
                    break
                piece.clear()
        else:
            await run_in_threadpool(source.put, bytes(piece))
    except ClientDisconnect:
        # What did come is too little: the import sees that and takes everything back.
        pass
    finally:
        await run_in_threadpool(source.end)
    return await run_in_threadpool(_settled, source, job)


def _settled(source: UploadSource, job: Job) -> schema.Operation:
    """The operation once all bytes were taken in; its error if the import did not want them all."""
    if not source.wait_taken():
        job.finished.wait()
    operation = job.operation
    if operation.error is not None:
        raise OperationFailed(operation.error)
    return operation


def _clones(service: Service) -> APIRouter:
    router = APIRouter(tags=["clones"])

    @router.get("/clones")
    def clones(brief: Brief = False) -> schema.CloneList:
        """All clones."""
        return service.list_clones(Detail.BRIEF if brief else Detail.ALL)

    @router.post("/clones", status_code=status.HTTP_201_CREATED)
    def create(request: schema.CloneCreate) -> schema.CloneList:
        """Make clones: all or none."""
        return service.create_clones(request)

    @router.post("/creations", status_code=status.HTTP_202_ACCEPTED)
    def begin_clones(request: schema.CloneCreate) -> schema.Operation:
        """Begin to make many clones: all or none."""
        return service.creations.begin(request).operation

    @router.get("/clones/{name}")
    def clone(name: str) -> schema.CloneView:
        """One clone."""
        return service.show_clone(name)

    @router.delete("/clones/{name}")
    def remove(name: str, force: Force = False) -> schema.Removal:
        """Remove a clone."""
        return schema.Removal(name=name, removed=service.clones.remove(name, force=force))

    @router.put("/clones/{name}/attachment")
    def attach(name: str, request: schema.Attachment) -> schema.CloneView:
        """Export a clone to a client, or to a second one while its guest migrates."""
        return service.attach(name, request)

    @router.delete("/clones/{name}/attachment")
    def detach(name: str, force: Force = False, client: Leaving = None) -> schema.CloneView:
        """Stop exporting a clone."""
        return service.detach(name, client, force=force)

    @router.post("/moves")
    def move(request: schema.Move, force: Force = False) -> schema.CloneList:
        """Give clones to another client: all or none."""
        return service.move_clones(request, force=force)

    @router.put("/clones/{name}/size")
    def resize(name: str, request: schema.Resize) -> schema.CloneView:
        """Make a clone larger."""
        service.life.resize(name, request.size)
        return service.show_clone(name)

    @router.put("/clones/{name}/lease")
    def renew(name: str, request: schema.Lease) -> schema.CloneView:
        """Say how long a clone stays."""
        service.life.renew(name, request.seconds)
        return service.show_clone(name)

    @router.put("/clones/{name}/limits")
    def limit(name: str, request: schema.CloneLimits) -> schema.CloneView:
        """Say what a clone may do in a second."""
        service.life.limit(name, request.value())
        return service.show_clone(name)

    @router.get("/clones/{name}/seed")
    def seed(name: str) -> schema.SeedView:
        """A clone's seed for cloud-init, without the user data."""
        return service.show_seed(name)

    @router.put("/clones/{name}/seed")
    def put_seed(name: str, request: schema.SeedSpec, force: Force = False) -> schema.SeedView:
        """Give a clone a seed."""
        return service.put_seed(name, request, force=force)

    @router.delete("/clones/{name}/seed")
    def remove_seed(name: str, force: Force = False) -> schema.Removal:
        """Take a clone's seed away."""
        return schema.Removal(name=name, removed=service.seeds.remove(name, force=force))

    @router.post("/clones/{name}/reset")
    def reset(name: str, force: Force = False) -> schema.CloneView:
        """Give a clone its template's content again."""
        service.life.reset(name, force=force)
        return service.show_clone(name)

    @router.post("/clones/{name}/promotion", status_code=status.HTTP_202_ACCEPTED)
    def promote(name: str, request: schema.Promotion) -> schema.Operation:
        """Make a template version of a clone."""
        return service.life.promote(name, request.template).operation

    return router


def _clients(service: Service) -> APIRouter:
    router = APIRouter(tags=["clients"])

    @router.get("/clients")
    def clients() -> schema.ClientList:
        """All clients."""
        return service.list_clients()

    @router.get("/clients/{name}")
    def client(name: str) -> schema.ClientView:
        """One client."""
        return service.show_client(name)

    @router.post("/clients/{name}/certificates", status_code=status.HTTP_201_CREATED)
    def issue(name: str, request: schema.CertificateRequest) -> schema.CertificateBundle:
        """Make a certificate for a client."""
        return service.issue_certificate(name, request)

    @router.post("/clients/{name}/revocations")
    def revoke(name: str, request: schema.Revocation) -> schema.ClientView:
        """Let certificates in no more, and cut off who is connected."""
        service.certificates.revoke(name, request.which, request.serials)
        return service.show_client(name)

    @router.put("/clients/{name}/nvme")
    def put_nvme(name: str, request: schema.NvmeSpec) -> schema.ClientView:
        """Reach a client over NVMe/TCP, too."""
        return service.put_nvme_door(name, request)

    @router.delete("/clients/{name}/nvme")
    def remove_nvme(name: str) -> schema.Removal:
        """Reach a client over NVMe/TCP no more."""
        return schema.Removal(name=name, removed=service.nvme_doors.remove(name))

    @router.post("/clients/{name}/nvme/keys", status_code=status.HTTP_201_CREATED)
    def issue_nvme(name: str, request: schema.NvmeKeyRequest) -> schema.NvmeKey:
        """Make a key for a client's host over NVMe/TCP."""
        return service.issue_nvme_key(name, request)

    @router.put("/clients/{name}", responses={201: {"model": schema.ClientView, "description": "It is new"}})
    def put(name: str, request: schema.ClientSpec, response: Response) -> schema.ClientView:
        """Make or change a client."""
        view, new = service.put_client(name, request)
        if new:
            response.status_code = status.HTTP_201_CREATED
        return view

    @router.delete("/clients/{name}")
    def remove(name: str) -> schema.Removal:
        """Remove a client."""
        return schema.Removal(name=name, removed=service.clients.remove(name))

    return router
