"""The routes of stills: disks to be copied out."""

from fastapi import APIRouter, status

from appliance import schema
from appliance.service.service import Service


def routes(service: Service) -> APIRouter:
    """What makes stills, and ends them."""
    router = APIRouter(tags=["stills"])

    @router.post("/templates/{ref}/stills", status_code=status.HTTP_201_CREATED)
    def of_template(ref: str) -> schema.StillView:
        """Offer a template to be copied out."""
        return service.stills.of_template(ref)

    @router.post("/clones/{name}/stills", status_code=status.HTTP_201_CREATED)
    def of_clone(name: str) -> schema.StillView:
        """Offer a clone, as it is at this moment, to be copied out."""
        return service.stills.of_clone(name)

    @router.get("/stills")
    def stills() -> schema.StillList:
        """What is being copied out."""
        return service.stills.list()

    @router.delete("/stills/{number}")
    def end(number: str) -> schema.Removal:
        """End a still, whoever reads it."""
        return schema.Removal(name=number, removed=service.stills.end(number))

    return router
