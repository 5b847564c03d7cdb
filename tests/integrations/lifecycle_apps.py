"""
What test_server_lifecycles.py serves: a WSGI application that says which process has answered.

It reads variables of its environment: RECORD_AT_IMPORT records a value before any worker is forked, UWSGI_ATEXIT leaves the delivery to
uWSGI's own hook, TLS_AT_EXIT says at the end whether there is still TLS.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, Any

from retainwise_metrics import get_metrics_client
from retainwise_metrics.integrations import wsgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def _item(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    wsgi.current_metrics().increment_counter("ItemsSeen")
    environ["retainwise_metrics.endpoint"] = "/items/{item_id}"
    answer = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


_counted = wsgi.ObservabilityMiddleware(_item)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """An item, counted; or, uncounted, what a flush has delivered and whether the host runs threads."""
    if environ["PATH_INFO"] != "/flush":
        return _counted(environ, start_response)
    import uwsgi

    delivered = get_metrics_client().flush(30.0).delivered
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{delivered} {uwsgi.has_threads}".encode()]


def _say_tls() -> None:
    import ssl

    try:
        ssl.create_default_context()
    except ssl.SSLError as error:
        sys.stderr.write(f"no TLS: {error}\n")
    else:
        sys.stderr.write("TLS works\n")
    sys.stderr.flush()


if os.environ.get("TLS_AT_EXIT"):
    atexit.register(_say_tls)
if os.environ.get("RECORD_AT_IMPORT"):
    get_metrics_client().increment_counter("AtImport")
if os.environ.get("UWSGI_ATEXIT"):
    import uwsgi

    uwsgi.atexit = lambda: get_metrics_client().stop()
