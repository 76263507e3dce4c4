"""Forms as various clients write them, and the messages for refused forms."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from qinling_falcon.errors import BadRequest
from qinling_falcon.resources.multipart import read_parts
from tests.api.client import BOUNDARY, Client, assert_error, package

CODE = '{"source": "package"}'
# Headers of the parts of a text field and of the package, as clients write them; `{name}` is the field's name.
CLIENTS: dict[str, tuple[str, str]] = {
    "curl": (
        'Content-Disposition: form-data; name="{name}"',
        'Content-Disposition: form-data; name="{name}"; filename="p.zip"\r\nContent-Type: application/octet-stream',
    ),
    "a browser": (
        'Content-Disposition: form-data; name="{name}"',
        'Content-Disposition: form-data; name="{name}"; filename="a%22b\\c.zip"\r\nContent-Type: application/zip',
    ),
    "Apache HttpClient": (
        'Content-Disposition: form-data; name="{name}"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n'
        "Content-Transfer-Encoding: 8bit",
        'Content-Disposition: form-data; name="{name}"; filename="p.zip"\r\nContent-Type: application/octet-stream\r\n'
        "Content-Transfer-Encoding: binary",
    ),
    "JavaMail": (
        "Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n"
        'Content-Disposition: form-data; name="{name}"',
        'Content-Type: application/zip; \r\n\tname="a long name.zip"\r\nContent-Transfer-Encoding: BINARY\r\n'
        'Content-Disposition: form-data; name="{name}"; \r\n\tfilename="a long name.zip"',
    ),
    ".NET": (
        "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name={name}",
        "Content-Disposition: form-data; name={name}; filename=p.zip; filename*=utf-8''p.zip",
    ),
    "requests, with a name that is not ASCII": (
        'Content-Disposition: form-data; name="{name}"',
        "Content-Disposition: form-data; name=\"{name}\"; filename*=utf-8''p%C3%A4ckage.zip",
    ),
    "no space after the colon": (
        'Content-Disposition:form-data;name="{name}"',
        'content-disposition:form-data;filename="p.zip";name="{name}"\r\ncontent-type:application/zip',
    ),
    "a tab after the colon": (
        'Content-Disposition:\tform-data;\tname="{name}"',
        'CONTENT-DISPOSITION :\tFORM-DATA; NAME = "{name}" ; FILENAME=p.zip',
    ),
    "a file name in Latin-1": (
        'Content-Disposition: form-data; name="{name}"',
        'Content-Disposition: form-data; name="{name}"; filename="p\xe4ckage.zip"',
    ),
    "quotes in a file name": (
        'Content-Disposition: form-data; name="{name}"',
        'Content-Disposition: form-data; filename="a\\"; name=\\"b\\\\"; name="{name}"',
    ),
    "headers of its own": (
        'Content-Length: 7\r\nX-Trace: 1:2\r\nContent-Disposition: form-data; name="{name}"\r\nContent-ID: <{name}>',
        'MIME-Version: 1.0\r\nContent-Disposition: form-data; name="{name}"; filename="p.zip"; size=12',
    ),
}


def form_of(client: Client, text: str, file: str, *, line_end: str = "\r\n", **fields: Any) -> bytes:
    """The body of a form that creates a function; its parts have the given headers."""
    fields = {"name": "n", "runtime_id": client.runtime(), "code": CODE, "package": package()} | fields
    body = b""
    for name, value in fields.items():
        headers = (file if name == "package" else text).replace("{name}", name)
        body += f"--{BOUNDARY}\r\n{headers}\r\n\r\n".replace("\r\n", line_end).encode("latin-1")
        body += (value if isinstance(value, bytes) else str(value).encode()) + line_end.encode()
    return body + f"--{BOUNDARY}--{line_end}".encode()


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_form_is_read_as_a_client_writes_it(client: Client, kind: str) -> None:
    answer = client.form("POST", "/v1/functions", form_of(client, *CLIENTS[kind], cpu=200))
    assert answer.status_code == 201, answer.text
    assert (answer.json["name"], answer.json["cpu"]) == ("n", 200)


def test_lines_may_end_with_a_line_feed_alone(client: Client) -> None:
    body = form_of(client, *CLIENTS["curl"], line_end="\n", description="two\r\nlines\n")
    answer = client.form("POST", "/v1/functions", body)
    assert answer.status_code == 201, answer.text
    assert answer.json["description"] == "two\r\nlines\n"


def test_what_stands_before_the_first_boundary_and_after_the_last_is_skipped(client: Client) -> None:
    body = b"This is a form.\r\n\r\n" + form_of(client, *CLIENTS["curl"]) + b"\r\n--" + BOUNDARY.encode() + b"\r\nX"
    assert client.form("POST", "/v1/functions", body).status_code == 201
    body = form_of(client, *CLIENTS["curl"]).replace(f"--{BOUNDARY}".encode(), f"--{BOUNDARY} \t".encode(), 2)
    assert client.form("POST", "/v1/functions", body).status_code == 201


@pytest.mark.parametrize(
    "content_type", ['multipart/form-data; boundary="{0}"', "Multipart/Form-Data;Boundary={0};x=y"]
)
def test_the_boundary_may_be_quoted(client: Client, content_type: str) -> None:
    body = form_of(client, *CLIENTS["curl"])
    answer = client.send("POST", "/v1/functions", body, content_type.format(BOUNDARY))
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    ("charset", "encoding"), [("iso-8859-1", "latin-1"), ("Windows-1252", "cp1252"), ("UTF-8", "utf-8"), ("", "utf-8")]
)
def test_text_is_read_in_the_charset_that_its_part_names(client: Client, charset: str, encoding: str) -> None:
    text, file = CLIENTS["curl"]
    text += f'\r\nContent-Type: text/plain; charset="{charset}"'
    answer = client.form("POST", "/v1/functions", form_of(client, text, file, description="é".encode(encoding)))
    assert answer.status_code == 201, answer.text
    assert answer.json["description"] == "é"


def test_empty_fields_of_a_browsers_form_are_not_given(client: Client) -> None:
    numbers = {"cpu": "", "memory_size": "", "timeout": "", "memory": ""}
    row = client.function(**numbers, description="")
    assert (row["cpu"], row["memory_size"], row["timeout"], row["description"]) == (100, 33554432, 5, "")
    parts: list[tuple[str, str | bytes]] = [(name, "") for name in numbers]
    answer = client.form("PUT", f"/v1/functions/{row['id']}", [*parts, ("timeout", "7"), ("count", "")])
    assert (answer.status_code, answer.json["timeout"]) == (200, 7)
    plain = b"cpu=&timeout=8&memory_size=&runtime_id="
    answer = client.send("PUT", f"/v1/functions/{row['id']}", plain, "application/x-www-form-urlencoded")
    assert (answer.status_code, answer.json["timeout"]) == (200, 8)


@pytest.mark.parametrize("field", ["name", "entry"])
def test_empty_text_is_text(client: Client, field: str) -> None:
    assert_error(client.upload(**{field: ""}), 400, field)


def test_an_empty_number_in_json_is_refused(client: Client) -> None:
    function_id = client.function()["id"]
    assert_error(client.simulate_put(f"/v1/functions/{function_id}", json={"cpu": ""}), 400, "cpu")


def test_a_file_field_in_which_no_file_was_chosen_is_no_package(client: Client) -> None:
    image = json.dumps({"source": "image", "image": "registry.example/x"})
    file = 'Content-Disposition: form-data; name="{name}"; filename=""\r\nContent-Type: application/octet-stream'
    text, _ = CLIENTS["curl"]
    body = form_of(client, text, file, code=image, package=b"", runtime_id="")
    assert client.form("POST", "/v1/functions", body).status_code == 201
    body = form_of(client, text, file, package=b"")
    assert_error(client.form("POST", "/v1/functions", body), 400, "package's file is missing")
    assert client.stored() == set()


HEADERS = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="name"\r\n'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (HEADERS + "Content-Transfer-Encoding: base64\r\n\r\nbg==\r\n", ["'name'", "'base64'", "8bit"]),
        (HEADERS + "content-transfer-encoding:Quoted-Printable\r\n\r\nn\r\n", ["'name'", "'Quoted-Printable'"]),
        (HEADERS + "Content-Type: text/plain; charset=utf-7\r\n\r\nn\r\n", ["Field 'name'", "'utf-7'"]),
        (HEADERS + "\r\n\xff\r\n", ["Field 'name'", "UTF-8"]),
        (HEADERS + "\r\na\0b\r\n", ["Field 'name'", "NUL"]),
        (HEADERS + "no header\r\n\r\nn\r\n", ["part 1", "colon", "'no header'"]),
        (HEADERS + "X: " + "x" * 8200 + "\r\n\r\nn\r\n", ["headers of part 1", "8192"]),
        (HEADERS, ["headers of part 1", "empty line"]),
        (f"--{BOUNDARY}\r\n\r\nn\r\n", ["part 1", "no name", 'form-data; name="package"']),
        (f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nn\r\n", ["part 1", "no name"]),
        (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nn\r\n', ["name of part 1", "UTF-8"]),
        (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a\0b"\r\n\r\nn\r\n', ["name of part 1", "NUL"]),
        (f"--{BOUNDARY}x\r\n\r\n", ["boundary before part 1"]),
        ("no form", ["before its first part", "boundary"]),
        (HEADERS + "\r\nn\r\n" + f"--{BOUNDARY}", ["boundary before part 2"]),
    ],
)
def test_a_refused_form_names_the_wrong_part_and_the_reason(client: Client, body: str, words: list[str]) -> None:
    end = "" if body.endswith(BOUNDARY) or not body.startswith("--") else f"--{BOUNDARY}--\r\n"
    answer = client.form("POST", "/v1/functions", (body + end).encode("latin-1"))
    assert_error(answer, 400, *words)
    if "'name'" in words[0]:
        assert set(answer.json["errors"]) == {"name"}


def test_a_form_without_its_last_boundary_is_refused(client: Client) -> None:
    answer = client.form("POST", "/v1/functions", (HEADERS + "\r\nn\r\n").encode())
    assert_error(answer, 400, "after part 1", "boundary")


def test_no_more_of_endless_headers_is_read_than_their_bound() -> None:
    taken = io.BytesIO(HEADERS.encode() + b"X: " + b"x" * 4_000_000)
    with pytest.raises(BadRequest, match="8192"):
        next(read_parts(taken.read, len(taken.getvalue()), f"multipart/form-data; boundary={BOUNDARY}"))
    assert taken.tell() < 200_000


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "identity, gzip", "aes128gcm"])
def test_a_compressed_body_is_refused_as_such(client: Client, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    for method, path in (("POST", "/v1/functions"), ("PUT", f"/v1/functions/{client.function()['id']}")):
        assert_error(client.form(method, path, client.parts(), headers=headers), 415, "compressed", encoding)
        plain = client.send(method, path, b"name=n", "application/x-www-form-urlencoded", headers=headers)
        assert_error(plain, 415, "compressed", encoding)
        coded = client.send(method, path, b"{}", headers={"Transfer-Encoding": f"{encoding}, chunked"})
        assert_error(coded, 415, "compressed", encoding)
    for path in ("/v1/runtimes", "/v1/functions", "/v1/executions", "/v1/aliases", "/v1/webhooks", "/v1/jobs"):
        assert_error(client.send("POST", path, b"{}", headers=headers), 415, "compressed", encoding)
    assert len(client.simulate_get("/v1/functions").json) == 1


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_a_body_that_says_it_is_not_compressed_is_read(client: Client, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    assert client.upload(headers=headers).status_code == 201
    assert client.send("POST", "/v1/runtimes", b'{"image": "i"}', headers=headers).status_code == 201
    assert client.send("POST", "/v1/runtimes", b'\xef\xbb\xbf{"image": "i"}').status_code == 201


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/runtimes", '{"image": "\\u0000"}', "image"),
        ("/v1/executions", '{"function_id": "x", "input": {"a": {"b": "\\ud800"}}}', "input.a.b"),
        ("/v1/functions", '{"code": {"swift": {"container": "\\u0000"}}}', "code.swift.container"),
        ("/v1/functions", '{"code": "{\\"swift\\": {\\"container\\": \\"\\\\u0000\\"}}"}', "code.swift.container"),
        ("/v1/jobs", '{"function_input": [1, "\\udfff"]}', "function_input[1]"),
    ],
)
def test_text_that_can_not_be_stored_is_named(client: Client, path: str, body: str, field: str) -> None:
    answer = client.send("POST", path, body.encode())
    assert_error(answer, 400, f"{field} holds NUL")
    assert set(answer.json["errors"]) == {field}


def test_text_that_can_not_be_stored_is_named_in_the_code_of_a_form(client: Client) -> None:
    answer = client.upload(code='{"source": "package", "swift": {"object": "\\ud800"}}')
    assert_error(answer, 400, "code.swift.object holds NUL")
    assert set(answer.json["errors"]) == {"code.swift.object"}
    assert client.stored() == set()
