"""TLS of the sender: certificates are checked by the name of the receiver."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gevent import ssl as gevent_ssl

from qinling_falcon.webhooks.sender import NotDelivered
from tests.webhooks.receiver import receiver
from tests.webhooks.sending import post


def make_certificate(folder: Path, *names: str) -> Path:
    """A certificate of its own authority for DNS names and IP addresses, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.UTC)
    others: list[x509.GeneralName] = []
    for name in names:
        try:
            others.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            others.append(x509.DNSName(name))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(others), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "receiver.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize(
    ("host", "certified", "said"),
    [
        ("hooks.example", "hooks.example", None),
        ("hooks.example.", "hooks.example", None),
        ("127.0.0.1", "127.0.0.1", None),
        ("hooks.example", "other.example", "can't be reached.*hooks.example"),
        ("hooks.example", "127.0.0.1", "can't be reached"),
    ],
)
def test_tls_checks_the_certificate_by_the_name(
    tmp_path: Path, host: str, certified: str, said: str | None
) -> None:
    certificate = make_certificate(tmp_path, certified)
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda connection, name, context: asked.append(name)

    def trusting() -> Any:
        return gevent_ssl.create_default_context(cafile=str(certificate))

    def resolve(name: str, port: int, project_id: str) -> list[str]:
        return ["127.0.0.1"]

    with receiver(context) as secure:
        url = f"https://{host}:{secure.port}/"
        if said is None:
            assert post(url, resolve=resolve, make_context=trusting) == 204
        else:
            with pytest.raises(NotDelivered, match=said):
                post(url, resolve=resolve, make_context=trusting)
        assert len(secure.received) == (said is None)
    assert asked == [None if host == "127.0.0.1" else "hooks.example"]


def test_tls_without_a_known_authority_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path, "127.0.0.1"))
    with receiver(context) as secure:
        with pytest.raises(NotDelivered, match="certificate"):
            post(f"https://127.0.0.1:{secure.port}/")
        assert secure.received == []
