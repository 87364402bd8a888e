"""The API for modules: they use Hatchery's own client, where it is installed.

It is on every appliance; on the machine that runs Ansible it is in the environment that ``script/bootstrap`` makes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from appliance.client import Client
    from appliance.errors import HatcheryError

try:
    from pydantic import ValidationError

    from appliance import client as _client
    from appliance import errors as _errors
except ImportError:
    MISSING: str | None = traceback.format_exc()
else:
    MISSING = None


def explain(module: AnsibleModule, error: HatcheryError) -> NoReturn:
    """End the task with an error of Hatchery: what failed, why, and what to do."""
    words = {"code": error.code, "what": error.what, "why": error.why, "hint": error.hint}
    module.fail_json(msg=str(error), error=words)
    raise AssertionError("fail_json returned")


@contextmanager
def appliance(module: AnsibleModule, host: str | None = None) -> Iterator[Client]:
    """A client of the appliance, on this machine or through SSH on ``host``; its errors end the task.

    In check mode an appliance that was not deployed yet has no API to ask: the task would change it, is all one knows.
    """
    if MISSING is not None:
        module.fail_json(
            msg="Hatchery's Python package is not installed beside this Python: run script/bootstrap and use"
            " .venv/bin/ansible-playbook",
            exception=MISSING,
        )
    try:
        with _client.connect(host=host or None) as opened:
            yield opened
    except _errors.NotReady as error:
        if module.check_mode:
            module.warn(f"what would change cannot be told: {error}")
            module.exit_json(changed=True)
        explain(module, error)
    except _errors.HatcheryError as error:
        explain(module, error)
    except ValidationError as error:
        module.fail_json(msg=str(error))
