"""
Which route took a request, for the middlewares around a Django application: the first line of `settings.MIDDLEWARE`.

    MIDDLEWARE = ["retainwise_metrics.integrations.django.endpoint_middleware", ...]

Django tells nobody outside but its own middlewares. This one leaves the route's template where `wsgi.MetricsMiddleware` around
`get_wsgi_application()`, or `asgi.MetricsMiddleware` around `get_asgi_application()`, finds it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction  # comes with Django
from django.contrib.admindocs.views import simplify_regex  # type: ignore[import-untyped, unused-ignore]
from django.utils.decorators import sync_and_async_middleware  # type: ignore[import-untyped, unused-ignore]

from ._http import ENDPOINT_KEY
from .wsgi import template_of_rule

if TYPE_CHECKING:
    from collections.abc import Callable


@sync_and_async_middleware  # type: ignore[untyped-decorator, unused-ignore]  # Django has no types
def endpoint_middleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """
    A Django middleware that notes the template of the route that took a request.
    """

    def middleware(request: Any) -> Any:
        try:
            return get_response(request)
        finally:
            _note(request)

    async def async_middleware(request: Any) -> Any:
        """The same for an application that awaits."""
        try:
            return await get_response(request)
        finally:
            _note(request)

    return async_middleware if iscoroutinefunction(get_response) else middleware


def _note(request: Any) -> None:
    match = request.resolver_match
    if match is not None:
        # Under WSGI `META` is the environ itself.
        (request.scope if hasattr(request, "scope") else request.META)[ENDPOINT_KEY] = _template(match.route)


@functools.lru_cache(maxsize=1024)
def _template(route: str) -> str:
    """`items/<int:pk>/` and `^items/(?P<pk>[0-9]+)/$` are both `/items/{pk}/`."""
    found: str = simplify_regex(route) if "(" in route or "^" in route else "/" + route
    return template_of_rule(found)
