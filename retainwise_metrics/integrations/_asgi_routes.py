"""
The template of the route that took a request, as Starlette and FastAPI leave it in the scope.

It is put together from declarations alone, of the route and of the mounts above it: nothing of the request's path gets into it.
Neither framework is imported; their objects are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._http import ENDPOINT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, MutableMapping

    Scope = MutableMapping[str, Any]

REMEMBERED_PREFIXES = 256
"""Mounts whose template is remembered; those with parameters are not, because their paths never end."""


class RouteTemplates:
    """
    Finds templates, and remembers those of mounts.
    """

    def __init__(self) -> None:
        self._prefixes: dict[str, str] = {}

    def template_of(self, scope: Scope) -> str | None:
        """
        The template of the route that took this request; None if none did.
        """
        route = scope.get("route")
        if route is None:
            return _left_by_the_application(scope) or _matched_again(scope)
        if hasattr(route, "routes"):  # a mount, or a host
            return None if route.routes else self._prefix(scope) + "/*"
        path: str | None = _path_of(route, scope)
        if path is not None and "app_root_path" in scope:
            return self._prefix(scope) + path
        return path

    def _prefix(self, scope: Scope) -> str:
        """The template of the mounts around the route; `app_root_path` is what was there before the first of them."""
        mounted = scope["root_path"][len(scope["app_root_path"]) :]
        found = self._prefixes.get(mounted)
        if found is None:
            found = _mount_template(_routes_of(scope), mounted)
            if found is None:
                found = "/*"
            elif found == mounted and len(self._prefixes) < REMEMBERED_PREFIXES:
                self._prefixes[mounted] = found
        return found


def _left_by_the_application(scope: Scope) -> str | None:
    found: str | None = scope.get(ENDPOINT_KEY)
    return found


def _path_of(route: Any, scope: Scope) -> str | None:
    fastapi = scope.get("fastapi")
    if fastapi:
        # A router that is included under a prefix shares its routes with others; the prefix is in the context.
        context = fastapi.get("effective_route_context")
        if context is not None and context.original_route is route:
            route = context
    return getattr(route, "path_format", None) or getattr(route, "path", None)


def _routes_of(scope: Scope) -> Iterable[Any]:
    """The outermost router's: it was there first, and stays."""
    return getattr(scope.get("router"), "routes", ())


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    """The routes, with those of FastAPI's included routers in their place."""
    for route in routes:
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is None:
            yield route
        else:
            for context in contexts():
                yield getattr(context, "starlette_route", None) or context


def _mount_template(routes: Iterable[Any], mounted: str) -> str | None:
    """
    The template of nested mounts from the path they matched.
    """
    if not mounted:
        return ""
    for route in _flat(routes):
        regex = getattr(route, "path_regex", None)
        if not hasattr(route, "routes"):
            continue
        match = None if regex is None else regex.match(mounted + "/")
        if regex is None:  # a host: its routes start from here
            found, own = _mount_template(route.routes, mounted), ""
        elif match is not None:
            rest = ("/" + match.group("path")).removesuffix("/")
            found, own = _mount_template(route.routes, rest), _mount_path(route)
        else:
            continue
        if found is not None:
            return own + found
    return None


def _mount_path(route: Any) -> str:
    path: str = route.path_format
    return path.removesuffix("/{path}")


def _matched_again(scope: Scope) -> str | None:
    """
    Routes that leave no trace but their endpoint (before Starlette 1.0, and plain ones in FastAPI) are looked for as the router did.
    """
    if "endpoint" not in scope:
        return None
    root_path = scope.get("app_root_path", scope.get("root_path", ""))
    return _first_match(_routes_of(scope), {**scope, "root_path": root_path, "path_params": {}})


def _first_match(routes: Iterable[Any], scope: Scope) -> str | None:
    partial = None
    for route in _flat(routes):
        match, child_scope = route.matches(scope)
        if match.value == 0:
            continue
        if hasattr(route, "routes"):
            own = _mount_path(route) if hasattr(route, "path_format") else ""
            if not route.routes:
                return own + "/*"
            inner = _first_match(route.routes, {**scope, **child_scope})
            return None if inner is None else own + inner
        path: str | None = getattr(route, "path_format", None)
        if match.value == 2:
            return path
        partial = partial or path
    return partial
