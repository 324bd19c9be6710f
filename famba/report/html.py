"""What every page is made with: templates that escape what they show, and a policy that lets the page load nothing."""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from famba import __version__

_TEMPLATES = PackageLoader("famba.report")


def source(name: str) -> str:
    """A file beside the templates, as it is."""
    return _TEMPLATES.get_source(Environment(), name)[0]


def render(template: str, style: str, script: str, filters: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """A page with its style and script inside; by its policy these two are all that it has."""
    environment = Environment(
        loader=_TEMPLATES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    policy = [
        "default-src 'none'", f"style-src '{_hash(style)}'", f"script-src '{_hash(script)}'", "img-src data:",
        "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip
    about = {
        "policy": "; ".join(policy), "style": Markup(style), "script": Markup(script), "version": __version__,
    }  # fmt: skip
    return environment.get_template(template).render({**about, **context})


def _hash(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()
