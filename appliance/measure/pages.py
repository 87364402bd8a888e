"""Pages of measurements: templates of this folder, each filled into one HTML file that needs no other."""

from appliance.measure import plots
from appliance.measure.histogram import ascii_form


def render(name: str, **values: object) -> str:
    """A page."""
    import jinja2  # A host of guests may have none: plots.require() asked for it, where a page is wanted.

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("appliance.measure", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(colours=plots.COLOURS, ascii_form=ascii_form)
    return environment.get_template(name).render(**values)
