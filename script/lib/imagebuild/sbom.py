"""A bill of materials of an image, in CycloneDX 1.6, out of the list of packages that mkosi leaves beside it.

Sources: https://cyclonedx.org/docs/1.6/json/, and for names of packages the purl specification's type `deb`.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imagebuild.command import BuildError

NAMESPACE = uuid.UUID("a5b0c7c6-9d8c-5a9c-8b63-5f2f3c1f7a10")
"""Serial numbers are made of it and of the content, so that the same packages give the same file."""


def bill(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The bill of materials for a manifest of mkosi's. The same manifest gives the same bill. Pure.

    Raises:
        BuildError: the manifest is of a form that this does not know.
    """
    if manifest.get("manifest_version") != 1:
        raise _unknown(f"its version is {manifest.get('manifest_version')}")
    try:
        config = manifest["config"]
        packages = sorted(manifest["packages"], key=lambda package: (package["name"], package["architecture"]))
        components = [_component(package, config) for package in packages]
        about = {
            "type": "operating-system",
            "bom-ref": f"{config['name']}@{config['version']}",
            "name": config["name"],
            "version": config["version"],
            "description": f"{config['distribution']} {config['release']}, {config['architecture']}",
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _unknown(repr(error)) from error
    content = {"metadata": {"component": about}, "components": components}
    serial = uuid.uuid5(NAMESPACE, json.dumps(content, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        **content,
    }


def _unknown(why: str) -> BuildError:
    hint = "was mkosi updated? see script/lib/imagebuild/sbom.py"
    return BuildError("mkosi's list of packages cannot be read", why, hint)


def _component(package: Mapping[str, str], config: Mapping[str, str]) -> dict[str, str]:
    if package["type"] != "deb":
        raise ValueError(f"a package of type {package['type']}")
    name, version, architecture = package["name"], package["version"], package["architecture"]
    distribution = config["distribution"]
    place = f"pkg:deb/{distribution}/{quote(name, safe='')}@{quote(version, safe='')}"
    purl = f"{place}?arch={architecture}&distro={distribution}-{config['release']}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def write(manifest: Path, target: Path) -> None:
    """Write the bill of materials beside an image.

    Raises:
        BuildError: there is no manifest, or it cannot be read.
    """
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError("mkosi left no list of packages", str(error), "is ManifestFormat=json set?") from error
    target.write_text(json.dumps(bill(found), indent=2) + "\n", encoding="utf-8")
