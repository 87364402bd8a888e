"""The routes of the store."""

from fastapi import APIRouter

from appliance import schema
from appliance.service.service import Service


def routes(service: Service) -> APIRouter:
    """What is asked of the store as a whole."""
    router = APIRouter(tags=["store"], prefix="/store")

    @router.get("/reconcile")
    def plan() -> schema.Reconciliation:
        """What a reconciliation would do."""
        return service.plan()

    @router.post("/reconcile")
    def reconcile() -> schema.Reconciliation:
        """Make the kernel match the catalog."""
        return service.reconcile()

    @router.post("/reserve/release")
    def release() -> schema.ReserveReleased:
        """Give the durable pool what is held back from it."""
        return service.release_reserve()

    return router
