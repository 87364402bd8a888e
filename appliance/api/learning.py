"""The route by which boots are asked to be recorded."""

from fastapi import APIRouter, status

from appliance import schema
from appliance.service.service import Service


def routes(service: Service) -> APIRouter:
    """They."""
    router = APIRouter(tags=["templates"])

    @router.post("/templates/{ref}/learn", status_code=status.HTTP_202_ACCEPTED)
    def learn(ref: str, request: schema.LearnRequest) -> schema.Operation:
        """Record the next boots of a template's clones."""
        return service.learning.learn(ref, request.runs).operation

    return router
