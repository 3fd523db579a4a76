"""Whatever the published schema allows, and much that it does not, is answered as it says."""

from __future__ import annotations

import pytest

from edgekit.fleet.access import Role
from edgekit.fleet.audit import verify_audit
from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.folder import BrokerAddress
from edgekit.fleet.keys import init_keys
from edgekit.fleet.rollouts.plan import FORMAT, FORMAT_VERSION, plan_from_json

schemathesis = pytest.importorskip("schemathesis")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_api_keeps_what_its_schema_promises(populated, plan) -> None:
    # A control plane that lacks nothing: what it could not do now it would answer with 503.
    fleet = populated.plane.fleet
    init_keys(fleet)
    FleetAuthority.create(fleet)
    fleet.with_broker(BrokerAddress("broker.example", 8883))
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    token = populated.tokens[Role.ADMIN]
    made = {"format": FORMAT, "format_version": FORMAT_VERSION, "created_by": "x", "created": 1.0}
    populated.plane.rollouts.create(plan_from_json(made | plan, where="here"))
    headers = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_url(f"{populated.url}/api/v1/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 30
    for operation in operations:
        modes = [
            operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode
        ]

        @settings(
            max_examples=6,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=st.one_of(modes))
        def fuzz(case) -> None:
            case.call_and_validate(headers=headers, excluded_checks=UNWANTED)

        fuzz()
    verify_audit(populated.plane.database)


UNWANTED: list[object] = []
if schemathesis:
    from schemathesis.specs.openapi.checks import (
        ignored_auth,
        missing_required_header,
        negative_data_rejection,
        positive_data_acceptance,
        unsupported_method,
    )

    UNWANTED = [
        # A query that fits the schema may still break the query language: 400.
        positive_data_acceptance,
        # A query parameter that nobody knows is not read; bodies are checked by tests of ours.
        negative_data_rejection,
        # Checked by tests of their own, without a second request for each.
        ignored_auth,
        missing_required_header,
        unsupported_method,
    ]
