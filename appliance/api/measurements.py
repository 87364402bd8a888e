"""The routes of boots that were measured."""

from fastapi import APIRouter, status

from appliance import schema
from appliance.service.service import Service


def routes(service: Service) -> APIRouter:
    """What is told of measurements, and asked for."""
    router = APIRouter(tags=["templates"])

    @router.get("/measurements")
    def measurements() -> schema.MeasurementList:
        """The last measurements of each template, newest first."""
        return service.measurements.list()

    @router.post("/templates/{ref}/measurements", status_code=status.HTTP_201_CREATED)
    def add(ref: str, request: schema.Measured) -> schema.MeasurementView:
        """Remember what a measurement of a template's boots came to."""
        return service.measurements.add(ref, request)

    return router
