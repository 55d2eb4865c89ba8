"""The name of an uploaded model has one owner, whatever happens during its removal."""

from starlette.testclient import TestClient

from autotune.service import removal
from autotune.service.app import create_app
from autotune.service.keys import create_key
from tests.autotune.service.test_http import message
from tests.waiting import wait_for


def two_users(client, database):
    """For each, a function that uploads a file as that user."""

    def puts(name):
        headers = {"Authorization": f"Bearer {create_key(database, name)[1]}"}
        return headers, lambda path: client.put(
            f"/v1/models/{path}", content=b"{}", headers=headers
        )

    return puts("alice"), puts("bob")


def test_a_name_belongs_to_who_took_it_first(client, database):
    (headers, alice), (_, bob) = two_users(client, database)
    assert alice("mine/config.json").status_code == 201
    answer = bob("mine/tokenizer.json")
    assert answer.status_code == 409
    assert "taken by a model of another user" in message(answer)
    assert alice("mine/tokenizer.json").status_code == 201
    assert client.delete("/v1/models/mine", headers=headers).status_code == 204
    assert bob("mine/config.json").status_code == 201


def test_a_name_taken_again_during_its_removal_keeps_its_owner(client, database, monkeypatch):
    (headers, alice), (_, bob) = two_users(client, database)
    remove = removal.shutil.rmtree

    def remove_slowly(path, *arguments, **more):
        if ".removed-mine" in str(path):
            assert alice("mine/config.json").status_code == 201
        remove(path, *arguments, **more)

    assert alice("mine/config.json").status_code == 201
    monkeypatch.setattr(removal.shutil, "rmtree", remove_slowly)
    assert client.delete("/v1/models/mine", headers=headers).status_code == 204
    assert bob("mine/tokenizer.json").status_code == 409


def test_a_name_is_free_after_a_removal_that_was_cut_off(client, database, settings, monkeypatch):
    (headers, alice), (_, bob) = two_users(client, database)
    assert alice("mine/config.json").status_code == 201

    def fail(path):
        raise OSError(f"{path} cannot be deleted")

    with monkeypatch.context() as patch:
        patch.setattr(removal.shutil, "rmtree", fail)
        assert client.delete("/v1/models/mine", headers=headers).status_code == 500
    assert bob("mine/config.json").status_code == 201
    # A server was killed between renaming the folder and removing the mark.
    (settings.uploads / "mine").rename(settings.uploads / ".removed-mine-00")
    assert alice("mine/config.json").status_code == 201


def test_names_without_files_are_free_again_at_start(settings, database, client):
    _, (_, bob) = two_users(client, database)
    assert bob("mine/config.json").status_code == 201
    (settings.uploads / "empty" / "1_Pooling").mkdir(parents=True)
    for name in ("empty", "gone"):
        (settings.uploads / ".owners" / name).write_text("alice")
    assert bob("empty/config.json").status_code == 409
    with TestClient(create_app(settings, database)):
        wait_for(lambda: [each.name for each in settings.uploads.glob(".owners/*")] == ["mine"], 60)
    assert bob("empty/config.json").status_code == 201


def test_a_refused_file_takes_no_name(client, database):
    headers = {"Authorization": f"Bearer {create_key(database, 'alice')[1]}"}
    assert client.put("/v1/models/m/config.json", content=b"{", headers=headers).status_code == 422
    assert client.get("/v1/models", headers=headers).json() == []
    headers = {"Authorization": f"Bearer {create_key(database, 'bob')[1]}"}
    assert client.put("/v1/models/m/config.json", content=b"{}", headers=headers).status_code == 201
