"""Requests to the Hub that end in time, are repeated while it is overloaded, and show no token when they fail."""

import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from threading import Event, Thread

import httpx2
from huggingface_hub import constants, get_token, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _http, parse_ratelimit_headers

from .tokens import hide_tokens

__all__ = ["Requests", "open_requests"]

logger = logging.getLogger(__name__)

ANSWER, COMMIT = 30.0, 90.0  # seconds from a request to the end of its answer; the Hub takes its time for a commit
SLOWEST = 10_000  # bytes per second of an upload
TRANSIENT = (408, 429, 500, 502, 503, 504)
ATTEMPTS, LONGEST_WAIT = 4, 60.0  # seconds


class SlowAnswer(OSError):
    """The Hub has not answered in time; the request is not repeated, because the next would not be faster."""


class Requests:
    """Calls of the client, whose failures all become an `OSError` of one line without credentials.

    Args:
        token: Hidden in messages, besides what looks like a token.
    """

    def __init__(self, token: str | None):
        self.tokens = (token, token and token.strip(), get_token())

    def __call__(self, call: Callable):
        """The result of `call`, repeated while the Hub is overloaded or briefly broken.

        The client itself repeats uploads; this covers requests that it makes once, and those it has given up.

        Raises:
            OSError: with the Hub's reason.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call()
            except Exception as error:  # of the client, which lets through what its libraries raise
                if attempt == ATTEMPTS or not _is_transient(error):
                    raise OSError(self.describe(error)) from None  # whose message may hold a token
                time.sleep(_wait(error, attempt))

    def describe(self, error: BaseException) -> str:
        """The error and its cause in one line."""
        parts = [str(one) or type(one).__name__ for one in (error, error.__cause__) if one is not None]
        if isinstance(error, httpx2.TransportError):
            parts.insert(0, f"{constants.ENDPOINT} cannot be reached:")
        elif isinstance(error, (LookupError, TypeError, AttributeError, json.JSONDecodeError)):
            parts.insert(0, f"{constants.ENDPOINT} does not answer as a Hub does:")
            logger.debug(self.hide("".join(traceback.format_exception(error))))  # or it is an error of ours
        line = self.hide(" ".join(" ".join(dict.fromkeys(parts)).split()))
        return line if line.endswith(".") else f"{line}."

    def hide(self, text: str) -> str:
        return hide_tokens(text, *self.tokens)


@contextmanager
def open_requests(token: str | None) -> Iterator[Requests]:
    """[`Requests`] whose client, and the log of it, keep to the limits and hide credentials within the context."""
    requests, factory = Requests(token), _http._GLOBAL_CLIENT_FACTORY  # the user's, if there is one
    loggers = [logging.getLogger(name) for name in (_http.__name__, httpx2.__name__)]

    def hide(record: logging.LogRecord) -> bool:
        record.msg, record.args = requests.hide(record.getMessage()), None
        return True

    set_client_factory(lambda: _limit(factory()))
    for logger in loggers:
        logger.addFilter(hide)
    try:
        yield requests
    finally:
        for logger in loggers:
            logger.removeFilter(hide)
        set_client_factory(factory)


def _limit(client: httpx2.Client) -> httpx2.Client:
    """The client with a limit on the time of a whole answer; its own limits are on the time between two bytes."""
    send = client.send
    client.timeout = httpx2.Timeout(ANSWER)

    def send_in_time(request: httpx2.Request, **options) -> httpx2.Response:
        sent, future = Event(), Future()

        def trace(event: str, _) -> None:
            if event.endswith("send_request_body.complete"):
                sent.set()

        request.extensions["trace"] = trace
        future.add_done_callback(lambda _: sent.set())
        Thread(target=_run, args=(future, lambda: send(request, **options)), daemon=True).start()
        limit = COMMIT if "/commit/" in request.url.path else ANSWER
        if sent.wait(limit + int(request.headers.get("Content-Length", 0)) / SLOWEST):
            wait([future], limit)
        if not future.done():
            raise SlowAnswer(f"No whole answer to {request.method} {request.url} within {limit:.0f} s.")
        response = future.result()
        limits = parse_ratelimit_headers(response.headers)
        asked = str(limits.reset_in_seconds) if limits else response.headers.get("Retry-After", "")
        response.headers.pop("RateLimit", None)
        if asked.isdecimal():  # the client would sleep for as long
            response.headers["Retry-After"] = f"{min(int(asked), LONGEST_WAIT):.0f}"
        return response

    client.send = send_in_time
    return client


def _run(future: Future, call: Callable) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT
    # a gateway's own page, where an answer in JSON is due, is a Hub that is down
    down = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException, json.JSONDecodeError)
    return isinstance(error, down)


def _wait(error: Exception, attempt: int) -> float:
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(float(asked) if asked.isdecimal() else 2.0 ** (attempt - 1), LONGEST_WAIT)
