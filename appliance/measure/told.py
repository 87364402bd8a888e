"""What the appliance is told of a measurement of boots, for its status page and metrics."""

from collections.abc import Callable

from appliance.client import Client
from appliance.errors import HatcheryError
from appliance.measure.result import Phase, Summary, summary
from appliance.measure.session import Measurement
from appliance.schema import BootTimes, Measured


def measured(result: Measurement) -> Measured | None:
    """What is worth remembering; None without any boot. Pure."""
    found = [summary(result.boots, phase) for phase in Phase]
    phases = tuple(_times(each) for each in found if each is not None)
    on = f"{result.facts.host}; {result.facts.guests}"[:300]
    return Measured(on=on, phases=phases) if phases else None


def _times(found: Summary) -> BootTimes:
    return BootTimes(
        phase=found.phase.value,
        boots=found.boots,
        seconds_least=found.seconds.least,
        seconds_median=found.seconds.median,
        seconds_most=found.seconds.most,
        io_seconds=None if found.io_seconds is None else found.io_seconds.median,
        read_bytes=found.read_bytes,
        backend_bytes=found.backend_bytes,
        hit_ratio=min(1.0, found.hit_rate_bytes),
    )


def tell(connection: Client, result: Measurement, say: Callable[[str], object]) -> None:
    """Tell the appliance. One that cannot take it, as an older one, costs nobody the measurement."""
    told = measured(result)
    if told is None:
        return
    try:
        connection.add_measurement(result.template, told)
    except HatcheryError as error:
        say(f"the appliance does not remember this measurement: {error.what}")
