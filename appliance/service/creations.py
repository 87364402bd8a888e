"""Clones as somebody asks for them: within the request, or of many as an operation."""

from appliance.catalog import Clone
from appliance.schema import CloneCreate
from appliance.service.clones import Clones, names_of
from appliance.service.operations import Job, Operations
from appliance.service.seeds import wish


class Creations:
    """The verb that makes clones, both ways."""

    def __init__(self, clones: Clones, operations: Operations) -> None:
        self._clones = clones
        self._operations = operations

    def make(self, request: CloneCreate, job: Job | None = None) -> tuple[Clone, ...]:
        """Make clones. Raises as ``Clones.create``."""
        return self._clones.create(
            request.name,
            request.template,
            request.count,
            request.client,
            kind=request.kind,
            lease=request.expires_in,
            limits=request.limits.value(),
            learn=request.learn,
            seed=None if request.seed is None else wish(request.seed).checked().of,
            job=job,
        )

    def begin(self, request: CloneCreate) -> Job:
        """Begin to make clones. Raises InvalidInput for their names; the job fails as ``make``."""
        names = names_of(request.name, request.count)
        subject = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        job = self._operations.begin("create", subject, "waiting for its turn")
        job.cancellable(lambda: None)  # it asks between two steps

        def work(job: Job) -> None:
            job.succeed(f"{len(self.make(request, job))} clone(s) made")

        self._operations.run(job, work)
        return job
