"""The self-test of an update, on a real store."""

from appliance.client import connect
from appliance.model import CloneState
from appliance.run import Runner
from appliance.schema import CloneCreate
from appliance.update import selftest


def run() -> bool:
    """Whether it could be done."""
    with connect() as client:
        return selftest.run(client, Runner())


def left_over(template: str) -> str:
    """A clone of the self-test that was broken off; its state."""
    with connect() as client:
        [made] = client.create_clones(CloneCreate(name=selftest.CLONE, template=template))
        assert made.state is CloneState.READY
        return made.name
