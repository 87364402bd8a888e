"""The routes of the collector."""

from fastapi import APIRouter, status

from appliance import schema
from appliance.service.service import Service


def routes(service: Service) -> APIRouter:
    """What is asked of the collector."""
    router = APIRouter(tags=["store"], prefix="/gc")

    @router.get("")
    def report() -> schema.GarbageReport:
        """What a collection would give back."""
        return service.garbage()

    @router.post("", status_code=status.HTTP_202_ACCEPTED)
    def collect() -> schema.Operation:
        """Begin a collection."""
        return service.collect().operation

    return router
