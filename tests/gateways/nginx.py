"""Debian's nginx, which asks the platform before it lets a request through to the model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

import httpx

from tests.running import PATIENCE, free_port

PROGRAM = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")

# The two locations are those of docs/api.md; here the client's own word says who it is.
CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            auth_request /ask;
            auth_request_set $cause $upstream_http_x_cause;
            auth_request_set $remaining $upstream_http_x_tokens_remaining;
            auth_request_set $top_up $upstream_http_x_top_up_url;
            add_header X-Cause $cause always;
            add_header X-Tokens-Remaining $remaining always;
            add_header X-Top-Up-Url $top_up always;
            proxy_pass {upstream};
        }}
        location = /ask {{
            internal;
            proxy_pass {platform}/api/v1/authorize?refuse_with=403;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Authorization "Bearer {key}";
            proxy_set_header X-Subject $http_x_user;
            proxy_set_header X-Model $http_x_model;
        }}
    }}
}}
"""


class Nginx:
    """nginx in front of the model, in a `with` block."""

    def __init__(self, folder: Path, *, upstream: str, platform: str, key: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "error.log"
        self._config = folder / "nginx.conf"
        self._config.write_text(
            CONFIG.format(
                folder=folder,
                user="user root;" if os.getuid() == 0 else "",
                port=port,
                upstream=upstream,
                platform=platform,
                key=key,
            )
        )

    def __enter__(self) -> Self:
        assert PROGRAM
        self._process = subprocess.Popen(
            [PROGRAM, "-c", str(self._config), "-p", str(self._config.parent), "-e", str(self.log)],
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"nginx does not start: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def _answers(self) -> bool:
        try:
            httpx.get(self.url, timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        return True
