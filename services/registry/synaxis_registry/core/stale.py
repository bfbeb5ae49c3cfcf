"""Which plans and leases of the gateways a change of the catalog makes wrong."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import chain
from typing import Final

from synaxis_common.contracts.leases import EndpointName, PlansStale
from synaxis_common.slices import Steps
from synaxis_registry.core.catalog import Catalog, Endpoint, EndpointKey

NAMED_AT_MOST: Final = 200
"""With more endpoints than this to be left out, gateways are told to ask anew for everything."""


def stale(old: Catalog, new: Catalog, tenants: Collection[str]) -> Steps[PlansStale | None]:
    """What gateways must hear when `new` takes the place of `old`, in steps of one endpoint. None: nothing.

    `tenants`: those with a key or a limit that has changed, who had better ask again for everything.
    """
    gone: set[EndpointKey] = set()
    is_better = old.models is not new.models
    changed = set(new.providers.differing(old.providers))
    moved = changed & old.providers.keys()
    theirs = chain(new.endpoints, old.endpoints) if changed else ()
    for key in chain(
        new.endpoints.differing(old.endpoints),
        (key if key[0] in changed else None for key in theirs),
    ):
        if key is not None:
            before, after = old.endpoints.get(key), new.endpoints.get(key)
            was, is_now = _takes_requests(old, before), _takes_requests(new, after)
            if was and not is_now:
                gone.add(key)
            elif is_now and (not was or key[0] in moved or _is_different(before, after)):
                is_better = True
        yield
    too_many = len(gone) > NAMED_AT_MOST
    if not (gone or is_better or tenants):
        return None
    return PlansStale(
        tenants=tuple(sorted(tenants)),
        endpoints=()
        if too_many
        else tuple(
            EndpointName(provider_id=provider_id, provider_model_id=model_id)
            for provider_id, model_id in sorted(gone)
        ),
        everything=too_many or is_better,
    )


def _takes_requests(catalog: Catalog, endpoint: Endpoint | None) -> bool:
    """Whether plans may have it. Of what trouble it is in, gateways tell each other."""
    if endpoint is None or not (endpoint.enabled and endpoint.is_available):
        return False
    provider = catalog.providers.get(endpoint.provider_id)
    return provider is not None and provider.is_on


def _is_different(before: Endpoint | None, after: Endpoint | None) -> bool:
    """Whether another order, or other candidates, may follow. How it has done lately is not asked."""
    if before is None or after is None or before is after:
        return before is not after
    return replace(before, health=after.health) != after
