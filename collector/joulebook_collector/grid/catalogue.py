"""The providers that are installed: ours and other packages', by entry point."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

from joulebook.errors import BadInput

from joulebook_collector.grid import Provider, ProviderError
from joulebook_collector.near import near

GROUP: Final = "joulebook.grid_providers"


def names() -> list[str]:
    """Names of all providers, sorted; none is imported."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def find(name: str) -> Provider:
    """The provider of that name. Raises BadInput with near names, ProviderError where it cannot be used."""
    found: list[EntryPoint] = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        meant = near(name, names()) or names()
        raise BadInput(f"there is no grid provider {name!r}", f"use one of {', '.join(meant)}")
    try:
        provider = found[0].load()
    except (ImportError, AttributeError) as error:
        raise ProviderError(
            f"the provider {name} cannot be loaded: {error}", f"mend or remove its package ({found[0].value})"
        ) from error
    if not isinstance(provider, Provider) or provider.name != name:
        raise ProviderError(f"{found[0].value} is no provider of the name {name}", "mend or remove its package")
    return provider
