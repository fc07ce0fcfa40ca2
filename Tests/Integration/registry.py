"""A registry on loopback that serves one image: a small layer of its own on top of what `docker save` wrote.

    registry.py PORT SAVED.tar NAME

Only what a pull needs of the OCI distribution specification: manifests and blobs, read-only, without credentials.
"""
import hashlib, http.server, io, json, os, sys, tarfile

port, saved, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
blobs = {}


def keep(data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"digest": digest, "size": len(data)}


with tarfile.open(saved) as tar:
    entry = json.load(tar.extractfile("manifest.json"))[0]
    config = json.load(tar.extractfile(entry["Config"]))
    layers = [tar.extractfile(layer).read() for layer in entry["Layers"]]

# Random bytes, so that no engine has them already.
own = io.BytesIO()
with tarfile.open(fileobj=own, mode="w") as tar:
    info = tarfile.TarInfo("pulled")
    info.size = 4 << 20
    tar.addfile(info, io.BytesIO(os.urandom(info.size)))
layers.append(own.getvalue())
config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(layers[-1]).hexdigest())
config.setdefault("history", []).append({"created_by": "registry.py"})

manifest = json.dumps({
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **keep(json.dumps(config).encode())},
    "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar", **keep(layer)} for layer in layers],
}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind, body = "application/json", b"{}"
        if self.path.startswith(f"/v2/{name}/manifests/"):
            kind, body = "application/vnd.docker.distribution.manifest.v2+json", manifest
        elif self.path.startswith(f"/v2/{name}/blobs/"):
            kind, body = "application/octet-stream", blobs.get(self.path.rsplit("/", 1)[1])
        elif self.path != "/v2/":
            body = None
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body or b"")))
        if kind.endswith("v2+json"):
            self.send_header("Docker-Content-Digest", "sha256:" + hashlib.sha256(manifest).hexdigest())
        self.end_headers()
        if self.command == "GET" and body:
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *words):
        pass


print("ready", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
