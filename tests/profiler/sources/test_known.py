"""Which devices are known, here, and predicted: one list for the command line and the service."""

from autotune.devices.specs import known_devices
from autotune.profiler.sources.known import list_devices, table_owners
from autotune.profiler.sources.shipped import shipped_devices


def test_every_sheet_is_listed_with_who_measured_its_table():
    found = {known.spec.name: known for known in list_devices()}
    assert list(found) == list(known_devices())
    assert found["cpu"].here
    for name, known in found.items():
        assert known.predicted_from == table_owners().get(name)


def test_the_projects_own_measurements_go_before_third_partys():
    for name in shipped_devices():
        assert table_owners()[name] == "this project's database"
