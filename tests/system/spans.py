"""Traces go through Sidegate, and its spans reach a collector (`[tracing]`, OTLP over HTTP).

Client and backend make their spans with OpenTelemetry's own library for Python, and the collector here decodes what all
three send with OpenTelemetry's protobuf. Sidegate is the binary with the feature `otlp`.
"""

import asyncio
import http.server
import os
import sys
import threading

import harness
from harness import Authority, Place, Sidegate, await_that, figure, need, replace
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

REFUSED = "127.0.0.66"


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans at /v1/traces, and keeps each with the name of its service."""

    def __init__(self, port=0):
        self.spans, self.services, self.status = [], {}, 200
        super().__init__(("127.0.0.1", port), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def of(self, service, name=""):
        """The spans of a service whose names begin so."""
        return [span for own, span in list(self.spans) if own == service and span.name.startswith(name)]

    def close(self):
        self.shutdown()
        self.server_close()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        need(self.path == "/v1/traces", f"{self.path} is where a collector takes spans")
        if self.server.status == 200:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                facts = attributes(resource.resource)
                self.server.services[facts["service.name"]] = facts
                for scope in resource.scope_spans:
                    self.server.spans += [(facts["service.name"], span) for span in scope.spans]
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def attributes(told):
    """The attributes of a span, an event or a resource."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in told.attributes}


def tracer(service, url):
    """A tracer of OpenTelemetry's library, which exports each span as it ends."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{url}/v1/traces")))
    return provider.get_tracer(service)


async def backend(url, ready, done):
    """Echoes, and makes a span of each attempt as a child of the one that its head names."""
    ours = tracer("backend", url)

    async def echo(socket):
        with ours.start_as_current_span("accept", context=propagate.extract(dict(socket.request.headers.raw_items()))):
            pass
        async for message in socket:
            await socket.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        ready(server.sockets[0].getsockname()[1])
        await done.wait()


async def talk(place, sidegate, ours, source="127.0.0.1"):
    """One message there and back within a span of the client's."""
    with ours.start_as_current_span("talk") as span:
        sent = {}
        propagate.inject(sent)
        async with connect(
            f"ws://localhost:{sidegate.plain_port}/chat", additional_headers=sent, proxy=None, local_addr=(source, 0)
        ) as socket:
            await socket.send("hello")
            need(await socket.recv() == "hello", "the echo comes back")
    return span.get_span_context()


def check_attempt(collector, context):
    """Client, Sidegate and backend are one trace, each the parent of the next."""
    trace = context.trace_id.to_bytes(16)
    await_that("Sidegate exports the request and its end", lambda: len(collector.of("sidegate")) >= 2)
    [client] = collector.of("client", "talk")
    [request] = collector.of("sidegate", "upgrade chat")
    [end] = collector.of("sidegate", "close chat")
    [accept] = collector.of("backend", "accept")
    need({one.trace_id for one in (client, request, end, accept)} == {trace}, "all spans are of one trace")
    need(request.parent_span_id == client.span_id, "the client's span is the parent of Sidegate's")
    need(accept.parent_span_id == request.span_id, "Sidegate's span is the parent of the backend's")
    need([link.span_id for link in end.links] == [request.span_id], "the end is linked to its request")
    names = [event.name for event in request.events]
    need(names == ["head", "judged", "dial", "answered"], f"a request without TLS has these moments: {names}")
    times = [request.start_time_unix_nano, *(one.time_unix_nano for one in request.events), request.end_time_unix_nano]
    need(times == sorted(times), f"its moments are in order: {times}")
    need(request.end_time_unix_nano <= end.start_time_unix_nano, "it ends at the 101, and not with its tunnel")
    facts = attributes(request)
    need(facts["http.response.status_code"] == 101 and facts["sidegate.result"] == "permitted", f"{facts}")
    need(attributes(end)["sidegate.messages_from_client"] == 1, f"{attributes(end)}")
    need(collector.services["sidegate"]["service.version"], "the resource has the version")
    figure(f"request {(request.end_time_unix_nano - request.start_time_unix_nano) / 1e6:.2f} ms")


async def check_refusal(place, collector, sidegate, ours):
    """A refusal is a span that has its reason, and is no failure."""
    try:
        await talk(place, sidegate, ours, REFUSED)
    except InvalidStatus as refused:
        need(refused.response.status_code == 403, "the client is refused")
    await asyncio.to_thread(await_that, "the refusal is exported", lambda: len(collector.of("sidegate", "upgrade")) == 2)
    span = collector.of("sidegate", "upgrade chat")[1]
    facts = attributes(span)
    need((facts["sidegate.reason"], facts["sidegate.result"]) == ("network", "refused"), f"{facts}")
    need(span.status.code == 0, "a refusal is no error of Sidegate's")


async def check_away(place, collector, sidegate, ours):
    """A collector that is away costs no request, and is reported once."""
    collector.status = 500
    for _ in range(3):
        await talk(place, sidegate, ours)
    told = "the collector of `[tracing] otlp` takes no spans"
    await asyncio.to_thread(await_that, "it is reported", lambda: told in sidegate.process.err.read_text(), 40)
    collector.status = 200
    before = len(collector.of("sidegate"))
    await talk(place, sidegate, ours)
    await asyncio.to_thread(await_that, "spans are exported again", lambda: len(collector.of("sidegate")) > before, 40)
    log = sidegate.process.err.read_text()
    need(log.count(told) == 1, "once")
    need("spans are exported again: some are lost" in log, "the lost ones are counted")


async def check_moves(place, collector, sidegate, ours):
    """A reload moves the export, and turns it off."""
    other = Collector()
    text = sidegate.config.read_text()
    replace(sidegate.config, text.replace(collector.url(), other.url()))
    await asyncio.to_thread(sidegate.reload)
    await talk(place, sidegate, ours)
    await asyncio.to_thread(await_that, "the other collector gets spans", lambda: other.of("sidegate", "close"))
    replace(sidegate.config, text.replace(f'otlp = "{collector.url()}"', 'otlp = "off"'))
    await asyncio.to_thread(sidegate.reload)
    count = len(other.spans) + len(collector.of("sidegate"))
    await talk(place, sidegate, ours)
    replace(sidegate.config, text)
    await asyncio.to_thread(sidegate.reload)
    await talk(place, sidegate, ours)
    await asyncio.to_thread(await_that, "it is on again", lambda: len(other.spans) + len(collector.of("sidegate")) >= count + 2)
    need(len(other.spans) + len(collector.of("sidegate")) == count + 2, "nothing of what came while it was off")
    other.close()


async def check_end(place, collector, sidegate, ours):
    """The last spans are exported before the process ends."""
    ended = len(collector.of("sidegate", "close"))
    async with connect(f"ws://localhost:{sidegate.plain_port}/chat", additional_headers={}, proxy=None) as socket:
        sidegate.process.popen.terminate()
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            need(closed.rcvd.code == 1001, f"the drain closes it: {closed}")
    await asyncio.to_thread(await_that, "the process ends", lambda: not sidegate.process.running())
    need(len(collector.of("sidegate", "close")) == ended + 1, "the span of the last tunnel has come")


async def session(place):
    collector, done, port = Collector(), asyncio.Event(), asyncio.get_running_loop().create_future()
    server = asyncio.create_task(backend(collector.url(), port.set_result, done))
    sidegate = Sidegate(place).route("chat", "/chat", f"http://127.0.0.1:{await port}", policy="open")
    sidegate.policy("open", f'[client]\nallow = ["any"]\ndeny = ["{REFUSED}"]\n')
    sidegate.certificate(Authority(place).issue("localhost"))
    sidegate.settings = f'[tracing]\ntraceparent = "make"\notlp = "{collector.url()}"\n[shutdown]\nspread = "0s"\n'
    await asyncio.to_thread(sidegate.run)
    ours = tracer("client", collector.url())
    context = await talk(place, sidegate, ours)
    await asyncio.to_thread(check_attempt, collector, context)
    await check_refusal(place, collector, sidegate, ours)
    await check_away(place, collector, sidegate, ours)
    await check_moves(place, collector, sidegate, ours)
    await check_end(place, collector, sidegate, ours)
    done.set()
    await server
    collector.close()


def main():
    harness.SIDEGATE = os.environ["SIDEGATE_OTLP"]
    with Place() as place:
        asyncio.run(session(place))


if __name__ == "__main__":
    sys.exit(main())
