"""What a browser is told and given: where a sign-in leads, the session, what it may keep."""

import re

import pytest

from autotune.service.keys import create_key, revoke_key
from autotune.service.sessions import COOKIE, key_of_session, remove_expired_sessions
from autotune.service.sign_in import router
from tests.autotune.service.conftest import TUNE

HTML = {"Accept": "text/html"}


@pytest.fixture
def token(database):
    return create_key(database, "alice")[1]


def sign_in(client, token):
    answer = client.post("/login", json={"key": token})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example/x",
        "/\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/\r\n/evil.example",
        "\t//evil.example",
        "/\x00/evil.example",
        "/ /evil.example",
        "\\\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "evil.example",
        "/\u2028/evil.example",
        "/\x7f/evil.example",
        "",
    ],
)
def test_a_sign_in_leads_nowhere_else(client, target):
    page = client.get("/login", params={"next": target}).text
    assert 'data-next="/"' in page


@pytest.mark.parametrize("target", ["/", "/jobs/0123", "/compare?job=1&job=2", "/devices/h200"])
def test_a_sign_in_leads_back(client, target):
    page = client.get("/login", params={"next": target}).text
    assert f'data-next="{target.replace("&", "&amp;")}"' in page


def test_a_page_without_a_session_leads_to_the_sign_in(client, token):
    answer = client.get("/devices", headers=HTML, follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login?next=%2Fdevices")


def test_the_cookie_is_a_session_and_no_key(client, database, token):
    answer = sign_in(client, token)
    cookie = answer.headers["Set-Cookie"]
    session = re.match(rf"{COOKIE}=([^;]+);", cookie)[1]
    assert token not in cookie
    assert token.split("_", 2)[2] not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Max-Age=43200" in cookie
    assert "Secure" not in cookie
    client.cookies.clear()
    secure = client.post("https://testserver/login", json={"key": token})
    assert "Secure" in secure.headers["Set-Cookie"]
    client.cookies.clear()
    assert client.get("/", headers={"Cookie": f"{COOKIE}={session}"}).status_code == 200
    with database.transaction() as connection:
        kept = str(connection.exec_driver_sql("SELECT * FROM session").all())
    assert session not in kept
    # Neither is a session a key, nor a key a session.
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {session}"}).status_code == 401
    assert client.get("/v1/jobs", headers={"Cookie": f"{COOKIE}={token}"}).status_code == 401
    assert client.get("/v1/jobs", headers={"Cookie": f"autotune_key={token}"}).status_code == 401


def test_a_session_ends_with_the_sign_out(client, token):
    sign_in(client, token)
    session = client.cookies[COOKIE]
    assert "Sign out" in client.get("/", headers=HTML).text
    answer = client.post("/logout", follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert COOKIE not in client.cookies
    assert client.get("/v1/jobs", headers={"Cookie": f"{COOKIE}={session}"}).status_code == 401
    client.cookies.clear()
    assert client.post("/logout", follow_redirects=False).status_code == 303


def test_other_sites_cannot_sign_anybody_out(client, token):
    sign_in(client, token)
    assert client.post("/logout", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/v1/jobs").status_code == 200


def test_a_session_ends_with_its_key_and_with_time(client, database):
    (first, one), (_, two) = (create_key(database, name) for name in ("a", "b"))
    sign_in(client, one)
    assert client.get("/v1/jobs").status_code == 200
    revoke_key(database, first.id)
    assert client.get("/v1/jobs").status_code == 401
    client.cookies.clear()
    sign_in(client, two)
    session = client.cookies[COOKIE]
    key_of_session(database, session)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE session SET expires_at = 1")
    assert client.get("/v1/jobs").status_code == 401
    remove_expired_sessions(database)
    with database.transaction() as connection:
        assert connection.exec_driver_sql("SELECT * FROM session").all() == []


def test_a_wrong_key_begins_no_session(client, token):
    for wrong in ("x", token[:-1] + "_", "", "é" * 40):
        answer = client.post("/login", json={"key": wrong})
        assert answer.status_code == 401, answer.text
        assert "Set-Cookie" not in answer.headers


def test_nothing_but_scripts_and_styles_may_be_kept(client, database):
    job_id = client.post("/v1/jobs", json={"kind": "tune", "spec": TUNE}).json()["id"]
    paths = ("/", f"/jobs/{job_id}", f"/v1/jobs/{job_id}", "/v1/jobs", "/login", "/nowhere")
    for path in paths:
        assert client.get(path).headers["Cache-Control"] == "no-store", path
    assert client.get("/static/style.css").headers["Cache-Control"] == "no-cache"
    assert "max-age" in client.get("/static/plotly.min.js").headers["Cache-Control"]
    create_key(database, "alice")
    assert client.get("/v1/jobs").headers["Cache-Control"] == "no-store"


def test_the_pages_of_signing_in_are_the_only_public_ones():
    assert {route.path for route in router.routes} == {"/login", "/logout"}


def test_a_page_offers_to_delete_what_has_ended(client, database):
    job_id = client.post("/v1/jobs", json={"kind": "tune", "spec": TUNE}).json()["id"]
    assert 'id="delete"' not in client.get(f"/jobs/{job_id}").text
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert 'id="delete"' in client.get(f"/jobs/{job_id}").text
    assert "Uploaded models" not in client.get("/").text
    client.put("/v1/models/mine/config.json", content=b"{}")
    page = client.get("/").text
    assert 'data-name="upload:mine"' in page
    assert ".owners" not in page
