"""What workers offer is not taken as it is: each can claim whatever it wants."""

from autotune.farm.offers import offered_devices


def node(alive=True, **resources):
    offered = {f"device:{name}": count for name, count in resources.items()}
    return {"Alive": alive, "Resources": {"CPU": 4.0, "node:10.0.0.1": 1.0, **offered}}


def counts(*nodes, noted=None):
    found = offered_devices(nodes, set() if noted is None else noted)
    return {device.name: device.count for device in found}


def test_the_devices_of_all_living_workers_are_counted():
    gpus = {"h200-sxm": 2.0}
    assert counts(node(cpu=1.0, **gpus), node(**gpus), node(alive=False, **gpus), node()) == {
        "cpu": 1,
        "h200-sxm": 4,
    }


def test_a_device_that_is_not_known_is_passed_over_with_one_warning(caplog):
    noted = set()
    strange = {"x\x1b[31m": 1.0, "h200-sxm": 1.0}
    for _ in range(2):
        assert counts(node(**strange), node(cpu=1.0), noted=noted) == {"cpu": 1, "h200-sxm": 1}
    (record,) = caplog.records
    assert "offers the device 'x" in record.getMessage()
    assert "\x1b" not in record.getMessage()


def test_a_host_has_one_cpu_and_no_more_gpus_than_fit_into_one():
    offered = {"cpu": 1e6, "h200-sxm": 1e300}
    assert counts(node(**offered), node(cpu=1.0)) == {"cpu": 2, "h200-sxm": 64}
    assert counts(node(cpu=0.0)) == {}
