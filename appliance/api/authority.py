"""The routes of the authority that signs certificates."""

from typing import Annotated

from fastapi import APIRouter, Query

from appliance import schema
from appliance.service.service import Service

Force = Annotated[bool, Query(description="Even if that ends certificates which are good, and cuts their guests off")]


def routes(service: Service) -> APIRouter:
    """What is asked of the authority."""
    router = APIRouter(tags=["clients"], prefix="/authority")

    @router.get("")
    def show() -> schema.AuthorityView:
        """Who signs certificates."""
        return service.authorities.show()

    @router.put("")
    def use(request: schema.AuthoritySpec, force: Force = False) -> schema.AuthorityView:
        """Have an operator's own authority."""
        return service.authorities.use(request, force=force)

    @router.post("/renewal")
    def renew(force: Force = False) -> schema.AuthorityView:
        """Have a new authority of the appliance's own."""
        return service.authorities.renew(force=force)

    return router
