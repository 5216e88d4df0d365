"""A receiver of logs by OTLP over HTTP that decodes with the Python package opentelemetry-proto. It prints the port that it
listens on, and then each request with log records as JSON, one per line, whatever its encoding was. It accepts a request
after it has printed it."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

printing = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        assert self.path == "/v1/logs", self.path
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        content_type = self.headers["Content-Type"]
        if content_type == "application/json":
            # Fields with unknown names are errors.
            request = json_format.Parse(body, ExportLogsServiceRequest())
            response = json_format.MessageToJson(ExportLogsServiceResponse()).encode()
        else:
            assert content_type == "application/x-protobuf", content_type
            request = ExportLogsServiceRequest.FromString(body)
            response = ExportLogsServiceResponse().SerializeToString()
        if request.resource_logs:
            decoded = json_format.MessageToDict(request, use_integers_for_enums=True)
            with printing:
                print(json.dumps(decoded), flush=True)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def log_message(self, *_):
        pass


with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
