"""The HTTP API as the bridge uses it, for tests of the protocol alone: two hosts, one script that adds
numbers. Prints its address."""

import http.server
import json
import socketserver

SCRIPT = {
    "name": "add", "path": "/opt/add", "executable": True, "schema_version": "1",
    "schema": {
        "version": "1", "description": "Adds two numbers.", "read_only": True,
        "arguments": {
            "type": "object", "additionalProperties": False, "required": ["a", "b"],
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        },
        "argv": [{"arg": "a"}, {"arg": "b"}],
    },
}
HOSTS = ("r1", "r2")


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {"ok": True, "agents": [], "runs": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        if self.path == "/discovery":
            hosts = {h: {"host": h, "status": "ok", "tags": {"site": "lab"}, "scripts": [SCRIPT]} for h in HOSTS}
            return self.answer(200, {"ok": True, "hosts": hosts})
        if self.path != "/run":
            return self.answer(404, {"ok": False, "error": "not found"})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.event("start", {"reqid": "1f", "hosts": body["hosts"]})
        total = sum(float(word) for word in body["args"])
        for host in body["hosts"]:
            self.event("end", {"host": host, "exit": 0, "stdout": f"{total:g}\n", "stderr": ""})
        self.event("done", {"ok": True, "reqid": "1f"})

    def event(self, name, data):
        self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Api)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
