"""A service that says what it understood: one line of JSON for each whole request, as its answer and on its output.

Headers are told twice: as http.server reads them, and as a WSGI application gets them (HTTP_X_TENANT_ID).
"""

import json
import os
import socketserver
from http.server import BaseHTTPRequestHandler
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer


class Service(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    handle = BaseHTTPRequestHandler.handle

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self):
        trailers = []
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self.chunks(trailers)
        else:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionError("the body is not whole")
        environ = [[name, str(value)] for name, value in self.get_environ().items() if name.startswith("HTTP_")]
        record = json.dumps({
            "method": self.command,
            "target": self.path,
            "headers": [list(pair) for pair in self.headers.items()] + environ,
            "trailers": trailers,
            "body": body.decode("latin-1"),
        })
        os.write(1, f"{record}\n".encode())  # at once, since there are several threads
        self.send_response(200)
        self.send_header("Content-Length", str(len(record)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else record.encode())

    def chunks(self, trailers):
        body = b""
        while size := int(self.line(), 16):
            body += self.rfile.read(size)
            if self.line():
                raise ConnectionError("a chunk does not end")
        while line := self.line():
            name, _, value = line.partition(":")
            trailers.append([name, value.strip()])
        return body

    def line(self):
        line = self.rfile.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the body is not whole")
        return line.strip().decode("latin-1")

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


server = Server(("127.0.0.1", 0), Service)
print(f"listening on {server.server_port}", flush=True)
server.serve_forever()
