"""Traces go through Sidegate, and its spans reach a collector (`[tracing]`, OTLP over HTTP).

Client and backend make their spans with OpenTelemetry's own library for Python, and the collector here decodes what all
three send with OpenTelemetry's protobuf. Rotel, a collector for OpenTelemetry, takes spans and passes them on to it.
Sidegate is the binary with the feature `otlp`.
"""

import asyncio
import gzip
import http.client
import http.server
import os
import ssl
import sys
import threading
import time
from pathlib import Path

import harness
import rotel
from harness import Authority, Place, Sidegate, await_that, figure, free_port, listening, need, note, replace
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

REFUSED = "127.0.0.66"


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans at /v1/traces, and keeps each with the name of its service."""

    def __init__(self, pem=None):
        self.spans, self.services, self.status, self.rejects = [], {}, 200, 0
        self.scheme, self.answers = "http", threading.Event()
        self.answers.set()
        super().__init__(("127.0.0.1", 0), Answer)
        if pem:
            self.scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
            # The handshake belongs to the thread of the connection.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def of(self, service, name=""):
        """The spans of a service whose names begin so."""
        return [span for own, span in list(self.spans) if own == service and span.name.startswith(name)]

    def handle_error(self, request, client):
        pass  # a client that does not trust the certificate

    def close(self):
        self.shutdown()
        self.server_close()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        need(self.path == "/v1/traces", f"{self.path} is where a collector takes spans")
        self.server.answers.wait()
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        if self.server.status == 200:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                facts = attributes(resource.resource)
                self.server.services[facts["service.name"]] = facts
                for scope in resource.scope_spans:
                    self.server.spans += [(facts["service.name"], span) for span in scope.spans]
        answer = ExportTraceServiceResponse()
        if self.server.rejects:
            answer.partial_success.rejected_spans = self.server.rejects
            answer.partial_success.error_message = "too old"
        answer = answer.SerializeToString()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

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


class Page(http.server.BaseHTTPRequestHandler):
    """Plain HTTP with keep-alive; the page is the `traceparent` of its request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        page = (self.headers["traceparent"] or "").encode()
        self.send_response(503 if self.path.endswith("/down") else 200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


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
    [request] = collector.of("sidegate", "GET /chat")
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
    told = [facts[name] for name in ("http.request.method", "url.scheme", "http.route", "sidegate.kind")]
    need(told == ["GET", "http", "/chat", "upgrade"], f"{facts}")
    need(attributes(end)["sidegate.messages_from_client"] == 1, f"{attributes(end)}")
    need(collector.services["sidegate"]["service.version"], "the resource has the version")
    figure(f"request {(request.end_time_unix_nano - request.start_time_unix_nano) / 1e6:.2f} ms")


async def check_refusal(place, collector, sidegate, ours):
    """A refusal is a span that has its reason, and is no failure."""
    try:
        await talk(place, sidegate, ours, REFUSED)
    except InvalidStatus as refused:
        need(refused.response.status_code == 403, "the client is refused")
    await asyncio.to_thread(await_that, "the refusal is exported", lambda: len(collector.of("sidegate", "GET")) == 2)
    span = collector.of("sidegate", "GET /chat")[1]
    facts = attributes(span)
    need((facts["sidegate.reason"], facts["sidegate.result"]) == ("network", "refused"), f"{facts}")
    need(span.status.code == 0, "a refusal is no error of Sidegate's")


def check_pages(collector, sidegate):
    """A request of plain HTTP and its end are spans, and no request has the trace of another."""
    connection = http.client.HTTPConnection("127.0.0.1", sidegate.plain_port, timeout=10)
    traces, sent = ["1" * 32, "2" * 32], []
    for trace in (*traces, None, "3" * 32):
        fields = {"Host": "localhost", **({"traceparent": f"00-{trace}-{'a' * 16}-01"} if trace else {})}
        connection.request("GET", "/page/down" if trace == "3" * 32 else "/page/", headers=fields)
        sent.append(connection.getresponse().read().decode().split("-"))
    connection.close()
    need([one[1] for one in sent[:2]] == traces, f"each request has its own trace: {sent}")
    need(sent[2][1] not in traces and len(sent[2][1]) == 32, f"and one without a trace gets another: {sent}")
    ends = await_that("the ends are exported", lambda: (found := collector.of("sidegate", "end page"))[3:] and found)
    requests = {span.span_id: span for span in collector.of("sidegate", "GET /page")}
    need(len(requests) == 4 and {span.hex() for span in requests} == {one[2] for one in sent}, "each request is a span")
    for end in ends:
        request = requests[end.links[0].span_id]
        need(end.trace_id == request.trace_id and end.parent_span_id == request.span_id, "an end is of its request's trace")
        need(attributes(end)["http.response.body.size"] == 55, f"{attributes(end)}")
        facts, is_down = attributes(request), request.trace_id.hex() == "3" * 32
        need(request.status.code == (2 if is_down else 0), "a status from 500 on is an error")
        need(facts.get("error.type") == ("503" if is_down else None), f"{facts}")
    note("requests of plain HTTP and their ends are spans")


def changed(sidegate, other, more=""):
    """Exports to another collector from now on; the text of the file before that."""
    before = sidegate.config.read_text()
    url = before.split('otlp = "')[1].split('"')[0]
    replace(sidegate.config, before.replace(f'otlp = "{url}"', f'otlp = "{other}"\n{more}'))
    sidegate.reload()
    return before


async def check_real(place, sidegate, ours):
    """A collector that others have written takes the spans, and passes on what they say."""
    behind, taken, other = Collector(), free_port(), free_port()
    process = place.start(
        "rotel", Path(rotel.__file__).parent / "rotel-agent", "start",
        "--otlp-http-endpoint", f"127.0.0.1:{taken}", "--otlp-grpc-endpoint", f"127.0.0.1:{other}",
        "--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", behind.url(),
    )  # fmt: skip
    await asyncio.to_thread(await_that, "Rotel listens", lambda: process.alive() and listening(taken))
    before = await asyncio.to_thread(changed, sidegate, f"http://127.0.0.1:{taken}")
    context = await talk(place, sidegate, ours)
    await asyncio.to_thread(await_that, "both spans come through", lambda: len(behind.of("sidegate")) == 2)
    [request], [end] = behind.of("sidegate", "GET /chat"), behind.of("sidegate", "close chat")
    need(request.trace_id == context.trace_id.to_bytes(16) and end.links[0].span_id == request.span_id, "they are whole")
    need(request.kind == 2 and len(request.events) == 4, "kind and moments are passed on")
    replace(sidegate.config, before)
    await asyncio.to_thread(sidegate.reload)
    process.end()
    behind.close()
    note("Rotel takes the spans")


async def check_tls(place, collector, sidegate, ours):
    """TLS to a collector: of a private authority, and of one that is not trusted."""
    authority = Authority(place)
    secure = Collector(authority.issue("collector"))
    before = await asyncio.to_thread(changed, sidegate, secure.url())
    await talk(place, sidegate, ours)
    said = "its certificate is not signed by a trusted CA"
    await asyncio.to_thread(await_that, "the fault is named", lambda: said in sidegate.process.err.read_text(), 40)
    need(not secure.spans, "nothing is sent")
    replace(sidegate.config, before)
    await asyncio.to_thread(changed, sidegate, secure.url(), f'otlp_ca = "{authority.ca}"')
    await talk(place, sidegate, ours)
    await asyncio.to_thread(await_that, "spans come over TLS", lambda: secure.of("sidegate", "close"), 40)
    replace(sidegate.config, before)
    await asyncio.to_thread(sidegate.reload)
    secure.close()
    note("a collector over TLS is verified")


async def check_partly(place, collector, sidegate, ours):
    """Spans that the collector rejects alone are counted."""
    collector.rejects = 2
    await talk(place, sidegate, ours)
    said = '"message":"the collector of `[tracing] otlp` rejects spans"'
    line = await asyncio.to_thread(
        await_that, "it is reported", lambda: [one for one in sidegate.process.err.read_text().splitlines() if said in one]
    )
    need('"error":"too old"' in line[0] and '"spans":2' in line[0], f"{line}")
    collector.rejects = 0


async def check_slow(place, sidegate):
    """A collector that does not answer delays no request."""
    slow = Collector()
    slow.answers.clear()
    before = await asyncio.to_thread(changed, sidegate, slow.url())
    began = time.monotonic()
    for _ in range(20):
        async with connect(f"ws://localhost:{sidegate.plain_port}/chat", proxy=None) as socket:
            await socket.send("hello")
            need(await socket.recv() == "hello", "the echo comes back")
    need(time.monotonic() - began < 5, "requests do not wait for the collector")
    slow.answers.set()
    await asyncio.to_thread(await_that, "they come late", lambda: len(slow.of("sidegate", "close")) == 20, 40)
    replace(sidegate.config, before)
    await asyncio.to_thread(sidegate.reload)
    slow.close()


async def check_away(place, collector, sidegate, ours):
    """A collector that is away costs no request, and is reported once."""
    collector.status = 400
    for _ in range(3):
        await talk(place, sidegate, ours)
    told = "the collector of `[tracing] otlp` takes no spans"
    await asyncio.to_thread(await_that, "it is reported", lambda: told in sidegate.process.err.read_text(), 40)
    collector.status = 200
    before = len(collector.of("sidegate"))
    await talk(place, sidegate, ours)
    await asyncio.to_thread(await_that, "spans are exported again", lambda: len(collector.of("sidegate")) > before, 40)
    again = "spans are exported again: some are lost"
    await asyncio.to_thread(await_that, "the lost ones are counted", lambda: again in sidegate.process.err.read_text())
    log = sidegate.process.err.read_text()
    need(log.count(told) == 1, "once")
    need('"error":"it answers 400"' in log, "with its status")


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
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    sidegate.route("page", "/page/", f"http://127.0.0.1:{pages.server_port}", http="forward")
    sidegate.policy("open", f'[client]\nallow = ["any"]\ndeny = ["{REFUSED}"]\n')
    sidegate.certificate(Authority(place).issue("localhost"))
    sidegate.settings = f'[tracing]\ntraceparent = "make"\notlp = "{collector.url()}"\n[shutdown]\nspread = "0s"\n'
    await asyncio.to_thread(sidegate.run)
    ours = tracer("client", collector.url())
    context = await talk(place, sidegate, ours)
    await asyncio.to_thread(check_attempt, collector, context)
    await check_refusal(place, collector, sidegate, ours)
    await asyncio.to_thread(check_pages, collector, sidegate)
    await check_partly(place, collector, sidegate, ours)
    await check_slow(place, sidegate)
    await check_away(place, collector, sidegate, ours)
    await check_moves(place, collector, sidegate, ours)
    await check_real(place, sidegate, ours)
    await check_tls(place, collector, sidegate, ours)
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
