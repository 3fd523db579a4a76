"""From a request to an answer: the routes of the local HTTP interface."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from edgekit_agent.http import (
    JSON_LENGTH,
    Request,
    RequestError,
    Response,
    busy_response,
    json_response,
)
from edgekit_agent.metrics import CONTENT_TYPE, MetricsPage
from edgekit_agent.open_inference import (
    InferRequest,
    describe_tensors,
    parse_infer_request,
    render_infer_response,
)
from edgekit_agent.plain_bodies import is_media, read_media, read_raw
from edgekit_runtime.errors import EdgekitError, UsageError

if TYPE_CHECKING:
    from edgekit_agent.hosted import HostedModel

_log = logging.getLogger(__name__)
_MODEL_PARTS: Final = 3


class Application:
    """Answers requests with the models that it holds; safe for use by several threads."""

    def __init__(
        self,
        models: Mapping[str, HostedModel],
        *,
        version: str,
        metrics: MetricsPage | None = None,
    ) -> None:
        """Serve these models.

        Args:
            models: By the name of their bundle.
            version: Of the agent.
            metrics: What `/metrics` shows; None for no such page.
        """
        self._metrics = metrics
        self._models = models
        self._version = version

    def answer(self, request: Request) -> Response:
        """Answer one request; every failure is an answer too."""
        try:
            return self._route(request)
        except RequestError as error:
            return json_response({"error": error.what}, status=error.status)
        except UsageError as error:
            text = f"{error.what}; {error.fix}" if error.fix else error.what
            return json_response({"error": text}, status=HTTPStatus.BAD_REQUEST)
        except EdgekitError as error:
            retry_seconds = getattr(error, "retry_seconds", 0)
            if retry_seconds:
                return busy_response(error.what, retry_seconds=retry_seconds)
            return json_response({"error": error.what}, status=HTTPStatus.INTERNAL_SERVER_ERROR)
        except Exception:  # noqa: BLE001 - numerics may raise anything; there must be an answer
            _log.exception("a request failed")
            return json_response(
                {"error": "the request could not be answered"},
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
            )

    def _route(self, request: Request) -> Response:
        parts = [unquote(part) for part in request.path.strip("/").split("/")]
        match parts:
            case ["v2"]:
                return self._get(request, self._about)
            case ["v2", "health", "live" | "ready"]:
                # A server opens its doors only when every model is loaded and warm.
                return self._get(request, lambda: json_response({"live": True, "ready": True}))
            case ["metrics"] if self._metrics is not None:
                page = self._metrics.render(self._models.values())
                return self._get(
                    request, lambda: Response(body=page, headers={"Content-Type": CONTENT_TYPE})
                )
            case ["v2", "models"]:
                return self._get(request, self._list)
            case ["v2", "models", name, *rest]:
                model = self._models.get(name)
                if model is None:
                    known = ", ".join(sorted(self._models)) or "none"
                    raise RequestError(
                        f"there is no model {name[:80]!r}; there are: {known}",
                        status=HTTPStatus.NOT_FOUND,
                    )
                return self._model(request, model, rest)
            case _:
                raise RequestError("there is nothing here", status=HTTPStatus.NOT_FOUND)

    def _model(self, request: Request, model: HostedModel, rest: list[str]) -> Response:
        if rest[:1] == ["versions"] and len(rest) > 1:
            if rest[1] != model.plan.version:
                raise RequestError(
                    f"version {model.plan.version} is served, not {rest[1][:80]}",
                    status=HTTPStatus.NOT_FOUND,
                )
            rest = rest[2:]
        match rest:
            case []:
                return self._get(request, lambda: self._describe(model))
            case ["ready"]:
                return self._get(
                    request, lambda: json_response({"name": model.plan.bundle, "ready": True})
                )
            case ["infer"]:
                if request.method != "POST":
                    raise RequestError("use POST", status=HTTPStatus.METHOD_NOT_ALLOWED)
                return self._infer(request, model)
            case _:
                raise RequestError("there is nothing here", status=HTTPStatus.NOT_FOUND)

    def _infer(self, request: Request, model: HostedModel) -> Response:
        asked = _read(request, model)
        outputs = model.infer(asked.inputs)
        return render_infer_response(
            asked,
            outputs,
            model=model.plan.bundle,
            version=model.plan.version,
            variant=model.variant.id,
        )

    def _about(self) -> Response:
        return json_response(
            {
                "name": "edgekit-agent",
                "version": self._version,
                "extensions": ["binary_tensor_data"],
            }
        )

    def _list(self) -> Response:
        return json_response(
            {
                "models": [
                    {"name": name, "version": model.plan.version, "state": "READY"}
                    for name, model in sorted(self._models.items())
                ]
            }
        )

    def _describe(self, model: HostedModel) -> Response:
        return json_response(
            {
                "name": model.plan.bundle,
                "versions": [model.plan.version],
                "platform": model.platform,
                "parameters": {"variant": model.variant.id},
                "inputs": describe_tensors(model.manifest.inputs),
                "outputs": describe_tensors(model.manifest.outputs),
            }
        )

    @staticmethod
    def _get(request: Request, answer: Callable[[], Response]) -> Response:
        if request.method != "GET":
            raise RequestError("use GET", status=HTTPStatus.METHOD_NOT_ALLOWED)
        return answer()


def _read(request: Request, model: HostedModel) -> InferRequest:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if is_media(content_type):
        inputs = read_media(model, content_type, request.body)
    elif request.headers.get(JSON_LENGTH) == "0":
        # The extension's raw request: nothing but the tensor.
        inputs = read_raw(model, request.body)
    else:
        return parse_infer_request(request.body, request.headers)
    return InferRequest(id="", inputs=inputs, outputs={}, binary=False)
