"""What the OpenAPI document says, tried at random: no answer may be the server's own failure."""

import os

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

# The first prediction starts a process, which takes seconds on a busy machine.
_PATIENCE_S = 120
EXAMPLES = int(os.environ.get("AUTOTUNE_FUZZ_EXAMPLES", "30"))
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


@pytest.mark.slow
def test_no_request_makes_the_server_fail(client):
    document = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    tried = set()
    for found in document.exclude(path_regex="/events$").get_all_operations():
        operation = found.ok()
        strategy = operation.as_strategy()

        @hypothesis.given(case=strategy)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def try_it(case):
            case.call_and_validate(
                headers={"Host": "127.0.0.1"}, checks=CHECKS, timeout=_PATIENCE_S
            )

        try_it()
        tried.add(operation.label)
    assert len(tried) >= 13, tried
