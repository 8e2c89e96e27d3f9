"""An OTLP/HTTP receiver on the loopback interface: reads requests with the official protobuf definitions, which refuse what
they do not know, and writes each span as a line of JSON, "end" after each request. The first line is its port. The first
request of all is answered with 503, as a collector that is busy does.
"""

import base64
import http.server
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def with_bytes(node):
    """OTLP writes ids in hexadecimal digits where JSON of protobuf has base64: the only difference."""
    if isinstance(node, list):
        return [with_bytes(one) for one in node]
    if not isinstance(node, dict):
        return node
    ids = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
    for key in ids.keys() & node.keys():
        assert len(bytes.fromhex(node[key])) == ids[key], f"{key} {node[key]}"
    encode = lambda text: base64.b64encode(bytes.fromhex(text)).decode()
    return {key: encode(one) if key in ids else with_bytes(one) for key, one in node.items()}


def plain(value):
    kind = value.WhichOneof("value")
    return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def attributes(pairs):
    known = {pair.key: plain(pair.value) for pair in pairs}
    assert len(known) == len(pairs), f"an attribute twice: {pairs}"
    return known


def lines(request):
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "resource": attributes(resource.resource.attributes), "scope": scope.scope.name,
                    "trace": span.trace_id.hex(), "id": span.span_id.hex(), "parent": span.parent_span_id.hex(),
                    "name": span.name, "kind": span.kind, "flags": span.flags,
                    "start": span.start_time_unix_nano, "end": span.end_time_unix_nano,
                    "status": span.status.code, "message": span.status.message,
                    "attributes": attributes(span.attributes),
                    "events": [{"name": one.name, "at": one.time_unix_nano, "attributes": attributes(one.attributes)}
                               for one in span.events],
                }


class Receiver(http.server.BaseHTTPRequestHandler):
    busy = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = 200, {}
        if Receiver.busy:
            Receiver.busy, status = False, 503
        elif self.path != "/v1/traces" or self.headers["Content-Type"] != "application/json":
            status = 404
        elif self.headers.get("x-token") != "a b":
            status = 401
        else:
            try:
                for line in lines(json_format.ParseDict(with_bytes(json.loads(body)), ExportTraceServiceRequest())):
                    print(json.dumps(line))
            except Exception as error:
                print(json.dumps({"refused": repr(error)}))
                status = 400
            print(json.dumps("end"), flush=True)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
