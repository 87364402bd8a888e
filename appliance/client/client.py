"""The verbs of the API, one method each."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import httpx

from appliance import schema
from appliance.client.answers import operation_error, problem
from appliance.client.requests import Requests
from appliance.errors import HatcheryError, NotReady
from appliance.model import Protocol

AT_ONCE = 8
"""So many clones are made within one request; more may take longer than one may."""

CREATE_DEADLINE = 3600.0
"""Seconds after which the making of many counts as hung."""


class Client(Requests):
    """One connection to an appliance's API. Not for use by two threads at once."""

    # -- looking -------------------------------------------------------------------------------------------------

    def status(self) -> schema.Status:
        """The appliance in one look."""
        return self._get("/status", schema.Status)

    def examine(self) -> schema.Examination:
        """The appliance held against the rules of its data path."""
        return self._get("/doctor", schema.Examination)

    def counters(self, *, clones: bool = True) -> schema.Counters:
        """Exact block statistics at this moment, those of clones if wanted."""
        return self._get("/counters" if clones else "/counters?clones=false", schema.Counters)

    def latencies(self, after: str = "", most: int | None = None) -> schema.CloneLatencies:
        """Latencies of clones that are attached, by name: from the first after ``after`` on, and so many at most."""
        wanted = {"after": after, **({} if most is None else {"most": str(most)})}
        return self._get(f"/latencies?{httpx.QueryParams(wanted)}", schema.CloneLatencies)

    def operations(self) -> tuple[schema.Operation, ...]:
        """All jobs that are remembered, newest first."""
        return self._get("/operations", schema.OperationList).operations

    def cancel(self, identity: str) -> schema.Operation:
        """Have a job break off; one that has ended stays as it is. Raises NotFound, Refused where it cannot be."""
        return self._send("POST", f"/operations/{identity}/cancel", schema.Operation)

    def plan(self) -> schema.Reconciliation:
        """What ``reconcile`` would do."""
        return self._get("/store/reconcile", schema.Reconciliation)

    def reconcile(self) -> schema.Reconciliation:
        """Make the kernel's volumes match the catalog."""
        return self._send("POST", "/store/reconcile", schema.Reconciliation)

    def garbage(self) -> schema.GarbageReport:
        """What ``collect`` would give back."""
        return self._get("/gc", schema.GarbageReport)

    def collect(self) -> schema.Operation:
        """Begin to give back what nobody needs."""
        return self._send("POST", "/gc", schema.Operation)

    def release_reserve(self) -> schema.ReserveReleased:
        """Give the durable pool what is held back from it."""
        return self._send("POST", "/store/reserve/release", schema.ReserveReleased)

    # -- templates -----------------------------------------------------------------------------------------------

    def templates(self) -> tuple[schema.TemplateView, ...]:
        """All template versions."""
        return self._get("/templates", schema.TemplateList).templates

    def template(self, ref: str) -> schema.TemplateView:
        """One template version; a bare name is the newest. Raises NotFound."""
        return self._get(f"/templates/{ref}", schema.TemplateView)

    def import_template(self, wanted: schema.TemplateCreate) -> schema.Operation:
        """Begin an import; for an upload, ``upload`` must follow."""
        return self._send("POST", "/templates", schema.Operation, wanted)

    def upload(self, name: str, size: int, blocks: Iterable[bytes], operation: schema.Operation) -> None:
        """Send the image of the import ``operation``: ``blocks`` with ``size`` bytes in all.

        Raises what the service found wrong with it, even when it stopped listening in the middle.
        """
        # Taking in a block can wait for slow disks, and the answer comes after the last one is on them.
        patient = httpx.Timeout(600.0, connect=10.0)
        try:
            response = self._http.put(
                f"/templates/{name}/content",
                content=blocks,
                headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
                timeout=patient,
            )
        except httpx.TransportError as error:
            state = self.operation(operation.id)
            if state.error is not None:
                raise operation_error(state.error) from error
            raise NotReady("the upload broke off", why=str(error), hint="try again") from error
        if not response.is_success:
            raise problem(response)

    def remove_template(self, ref: str, *, when_unused: bool = False) -> schema.TemplateRemoval:
        """Remove a template version, now or when its clones have gone. Raises InUse while there are some, if now."""
        return self._send("DELETE", f"/templates/{ref}", schema.TemplateRemoval, when_unused=when_unused)

    def offer_template(self, ref: str, client: str) -> schema.OfferView:
        """Let a client read a template, with its boot set. Raises NotFound, NotReady while it is not whole."""
        return self._send("PUT", f"/templates/{ref}/offers/{client}", schema.OfferView)

    def withdraw_template(self, ref: str, client: str, *, force: bool = False) -> schema.Removal:
        """Let a client read a template no more. Raises InUse while it is read, unless forced."""
        return self._send("DELETE", f"/templates/{ref}/offers/{client}", schema.Removal, force=force)

    def warm(self, ref: str) -> schema.Operation:
        """Begin to fetch a template's boot set into the cache; all of a template without one."""
        return self._send("POST", f"/templates/{ref}/warm", schema.Operation)

    def boot_set(self, ref: str) -> schema.BootSetView:
        """A template's boot set. Raises NotFound when it has none."""
        return self._get(f"/templates/{ref}/boot-set", schema.BootSetView)

    def export_boot_set(self, ref: str) -> str:
        """The same as a file. Raises NotFound."""
        response = self._http.get(f"/templates/{ref}/boot-set/file")
        if not response.is_success:
            raise problem(response)
        return response.text

    def boot_trace(self, ref: str, boot: int = 1) -> str:
        """A recorded boot of a template as a trace; 1 is the last one. Raises NotFound."""
        response = self._http.get(f"/templates/{ref}/boot-set/trace", params={"boot": boot})
        if not response.is_success:
            raise problem(response)
        return response.text

    def import_boot_set(self, ref: str, content: str) -> schema.BootSetView:
        """Give a template the boot set of a file; it is prefetched at once. Raises InvalidInput, NotFound."""
        response = self._http.put(f"/templates/{ref}/boot-set/file", content=content.encode())
        if not response.is_success:
            raise problem(response)
        return schema.BootSetView.model_validate_json(response.content)

    def remove_boot_set(self, ref: str) -> schema.Removal:
        """Forget a template's boot set."""
        return self._send("DELETE", f"/templates/{ref}/boot-set", schema.Removal)

    def learn(self, ref: str, runs: int) -> schema.Operation:
        """Ask that the next ``runs`` boots of a template's clones are recorded. Raises NotReady where it cannot be."""
        return self._send("POST", f"/templates/{ref}/learn", schema.Operation, schema.LearnRequest(runs=runs))

    # -- clones --------------------------------------------------------------------------------------------------

    def clones(self, *, brief: bool = False) -> tuple[schema.CloneView, ...]:
        """All clones; briefly, without what QEMU and libvirt want to hear of each, and what was written."""
        return self._get("/clones?brief=true" if brief else "/clones", schema.CloneList).clones

    def clone(self, name: str) -> schema.CloneView:
        """One clone. Raises NotFound."""
        return self._get(f"/clones/{name}", schema.CloneView)

    def create_clones(self, wanted: schema.CloneCreate) -> tuple[schema.CloneView, ...]:
        """Make clones, all or none; returns the new ones."""
        return self._send("POST", "/clones", schema.CloneList, wanted).clones

    def begin_clones(self, wanted: schema.CloneCreate) -> schema.Operation:
        """Begin to make many clones, all or none: what may take longer than a request."""
        return self._send("POST", "/creations", schema.Operation, wanted)

    def made_clones(self, wanted: schema.CloneCreate) -> tuple[schema.CloneView, ...]:
        """Those that were asked for, in their order, once they are there."""
        numbers = {f"{wanted.name}-{number}": number for number in range(1, (wanted.count or 0) + 1)}
        names = numbers or {wanted.name: 1}
        return tuple(sorted((v for v in self.clones() if v.name in names), key=lambda view: names[view.name]))

    def make_clones(self, wanted: schema.CloneCreate) -> tuple[schema.CloneView, ...]:
        """As ``create_clones``, however long it takes. Who is interrupted meanwhile has none."""
        if (wanted.count or 1) <= AT_ONCE:
            return self.create_clones(wanted)
        begun = self.begin_clones(wanted)
        try:
            self.finish(begun, deadline=CREATE_DEADLINE)
        except BaseException:
            with suppress(HatcheryError):
                self.cancel(begun.id)
            raise
        return self.made_clones(wanted)

    def remove_clone(self, name: str, *, force: bool = False) -> schema.Removal:
        """Remove a clone. Raises InUse while somebody is connected, unless forced."""
        return self._send("DELETE", f"/clones/{name}", schema.Removal, force=force)

    def share(self, name: str, client: str, seconds: float = schema.SHARED_SECONDS) -> schema.CloneView:
        """Let a second client write to a clone for a time. Raises InUse when another one is that already."""
        wanted = schema.Attachment(client=client, shared=True, seconds=seconds)
        return self._send("PUT", f"/clones/{name}/attachment", schema.CloneView, wanted)

    def attach(self, name: str, client: str, protocol: Protocol = Protocol.NBD) -> schema.CloneView:
        """Export a clone to ``client``. Raises InUse when another client has it, or this one otherwise."""
        wanted = schema.Attachment(client=client, protocol=protocol)
        return self._send("PUT", f"/clones/{name}/attachment", schema.CloneView, wanted)

    def detach(self, name: str, *, client: str | None = None, force: bool = False) -> schema.CloneView:
        """Stop exporting a clone; of two clients that share it, to one of them.

        Raises InUse while somebody is connected, unless forced.
        """
        return self._send("DELETE", f"/clones/{name}/attachment", schema.CloneView, force=force, client=client)

    def move_clones(self, names: Sequence[str], client: str, *, force: bool = False) -> tuple[schema.CloneView, ...]:
        """Give clones to ``client``, all or none. Raises InUse while somebody is connected, unless forced."""
        wanted = schema.Move(clones=tuple(names), client=client)
        return self._send("POST", "/moves", schema.CloneList, wanted, force=force).clones

    def resize_clone(self, name: str, size: int) -> schema.CloneView:
        """Make a clone larger, to ``size`` bytes. Raises InUse while somebody is connected."""
        return self._send("PUT", f"/clones/{name}/size", schema.CloneView, schema.Resize(size=size))

    def renew_clone(self, name: str, seconds: float | None) -> schema.CloneView:
        """Let a clone stay for so long from now on, or for ever."""
        return self._send("PUT", f"/clones/{name}/lease", schema.CloneView, schema.Lease(seconds=seconds))

    def limit_clone(self, name: str, limits: schema.CloneLimits) -> schema.CloneView:
        """Hold a clone to these limits from now on, also while somebody is connected."""
        return self._send("PUT", f"/clones/{name}/limits", schema.CloneView, limits)

    def seed(self, name: str) -> schema.SeedView:
        """A clone's seed. Raises NotFound when it has none."""
        return self._get(f"/clones/{name}/seed", schema.SeedView)

    def put_seed(self, name: str, seed: schema.SeedSpec, *, force: bool = False) -> schema.SeedView:
        """Give a clone a seed. Raises InUse while somebody is connected to the one that it has, unless forced."""
        return self._send("PUT", f"/clones/{name}/seed", schema.SeedView, seed, force=force)

    def remove_seed(self, name: str, *, force: bool = False) -> schema.Removal:
        """Take a clone's seed away. Raises InUse while somebody is connected to it, unless forced."""
        return self._send("DELETE", f"/clones/{name}/seed", schema.Removal, force=force)

    def reset_clone(self, name: str, *, force: bool = False) -> schema.CloneView:
        """Give a clone its template's content again. Raises InUse while somebody is connected, unless forced."""
        return self._send("POST", f"/clones/{name}/reset", schema.CloneView, force=force)

    def promote_clone(self, name: str, template: str | None = None) -> schema.Operation:
        """Begin to make a template version of a clone. Raises InUse while somebody is connected."""
        wanted = schema.Promotion(template=template)
        return self._send("POST", f"/clones/{name}/promotion", schema.Operation, wanted)

    # -- stills --------------------------------------------------------------------------------------------------

    def stills(self) -> tuple[schema.StillView, ...]:
        """What is being copied out, the oldest first."""
        return self._get("/stills", schema.StillList).stills

    def still_of_template(self, ref: str) -> schema.StillView:
        """Have a template offered, read-only, to be copied out. Raises NotFound, NotReady."""
        return self._send("POST", f"/templates/{ref}/stills", schema.StillView)

    def still_of_clone(self, name: str) -> schema.StillView:
        """Have a clone offered as it is now, read-only, whoever writes to it. Raises NotFound, NotReady, NoSpace."""
        return self._send("POST", f"/clones/{name}/stills", schema.StillView)

    def end_still(self, identity: str) -> schema.Removal:
        """It was copied: a clone's snapshot goes."""
        return self._send("DELETE", f"/stills/{identity}", schema.Removal)

    # -- clients -------------------------------------------------------------------------------------------------

    def clients(self) -> tuple[schema.ClientView, ...]:
        """All clients."""
        return self._get("/clients", schema.ClientList).clients

    def client(self, name: str) -> schema.ClientView:
        """One client. Raises NotFound."""
        return self._get(f"/clients/{name}", schema.ClientView)

    def issue_certificate(self, name: str, request: schema.CertificateRequest) -> schema.CertificateBundle:
        """Make a certificate for a client; nobody but the caller has its key. Raises AlreadyExists, Refused."""
        return self._send("POST", f"/clients/{name}/certificates", schema.CertificateBundle, request)

    def revoke(self, name: str, request: schema.Revocation) -> schema.ClientView:
        """Let certificates in no more, and cut off who is connected. Raises NotFound, Refused."""
        return self._send("POST", f"/clients/{name}/revocations", schema.ClientView, request)

    def authority(self) -> schema.AuthorityView:
        """Who signs certificates."""
        return self._get("/authority", schema.AuthorityView)

    def use_authority(self, spec: schema.AuthoritySpec, *, force: bool = False) -> schema.AuthorityView:
        """Have an operator's own authority. Raises InvalidInput, InUse while certificates are good, unless forced."""
        return self._send("PUT", "/authority", schema.AuthorityView, spec, force=force)

    def renew_authority(self, *, force: bool = False) -> schema.AuthorityView:
        """Have a new authority of the appliance's own. Raises InUse while certificates are good, unless forced."""
        return self._send("POST", "/authority/renewal", schema.AuthorityView, force=force)

    def put_nvme(self, name: str, spec: schema.NvmeSpec) -> schema.ClientView:
        """Reach a client over NVMe/TCP, too. Raises InUse for a port, AlreadyExists for a host that another one is."""
        return self._send("PUT", f"/clients/{name}/nvme", schema.ClientView, spec)

    def remove_nvme(self, name: str) -> schema.Removal:
        """Reach a client over NVMe/TCP no more. Raises InUse while clones are attached to it so."""
        return self._send("DELETE", f"/clients/{name}/nvme", schema.Removal)

    def issue_nvme_key(self, name: str, request: schema.NvmeKeyRequest) -> schema.NvmeKey:
        """Make the key of a client's host over NVMe/TCP. Raises NotReady, AlreadyExists."""
        return self._send("POST", f"/clients/{name}/nvme/keys", schema.NvmeKey, request)

    def put_client(self, name: str, spec: schema.ClientSpec) -> schema.ClientView:
        """Make a client, or change it to ``spec``."""
        return self._send("PUT", f"/clients/{name}", schema.ClientView, spec)

    def remove_client(self, name: str) -> schema.Removal:
        """Remove a client. Raises InUse while clones are attached to it."""
        return self._send("DELETE", f"/clients/{name}", schema.Removal)

    # -- measuring -----------------------------------------------------------------------------------------------

    def cold(self) -> schema.Operation:
        """Begin to empty the cache and drop the appliance's page caches."""
        return self._send("POST", "/cache/cold", schema.Operation)

    def histograms(self) -> schema.HistogramsStarted:
        """Who records latencies now. Raises NotFound when nobody does."""
        return self._get("/histograms", schema.HistogramsStarted)

    def measurements(self) -> tuple[schema.MeasurementView, ...]:
        """The last measurements of boots of each template, newest first."""
        return self._get("/measurements", schema.MeasurementList).measurements

    def add_measurement(self, ref: str, measured: schema.Measured) -> schema.MeasurementView:
        """Have the appliance remember what a measurement of a template's boots came to. Raises NotFound."""
        return self._send("POST", f"/templates/{ref}/measurements", schema.MeasurementView, measured)

    def start_histograms(self, wanted: schema.HistogramsRequest | None = None) -> None:
        """Record latencies from now on. Raises InUse when somebody does already."""
        self._send("POST", "/histograms", schema.HistogramsStarted, wanted)

    def stop_histograms(self) -> schema.Histograms:
        """Stop recording latencies, and get them. Raises NotFound when nobody started."""
        return self._send("DELETE", "/histograms", schema.Histograms)
