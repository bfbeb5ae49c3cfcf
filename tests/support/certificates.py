"""Certificates for servers of the tests."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest


def localhost_certificate(folder: Path) -> Path:
    """A certificate for `localhost` that vouches for itself, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    made = folder / "localhost.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost -keyout - -out -"
    )
    made.write_bytes(subprocess.run(command.split(), check=True, capture_output=True, timeout=30).stdout)
    return made


def server_tls(certificate: Path) -> ssl.SSLContext:
    """What a server presents itself with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
