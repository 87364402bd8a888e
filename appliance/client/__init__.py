"""The typed client of the API: what the CLI, the measuring tool and the tests speak with the appliance.

    with connect(host="root@box") as client:
        client.status()

Every problem that the service reports is raised as the same error class that the service raised.
"""

from appliance.client.answers import error_named, operation_error, problem
from appliance.client.client import Client
from appliance.client.connect import connect
from appliance.client.requests import Progress, quiet

__all__ = ["Client", "Progress", "connect", "error_named", "operation_error", "problem", "quiet"]
