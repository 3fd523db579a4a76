"""The bundle's bill of materials: CycloneDX 1.6 with a machine-learning model as its subject."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence


def ml_bom(
    *,
    name: str,
    version: str,
    task: str,
    created: str,
    files: Mapping[str, str],
    tools: Mapping[str, str],
    licences: Sequence[str],
    data: tuple[str, str],
    accuracies: Mapping[str, tuple[str, float]],
) -> bytes:
    """Write the document.

    Args:
        name: Of the bundle.
        version: Of the bundle.
        task: What the model does.
        created: RFC 3339, UTC.
        files: SHA-256 of each model file, by its path in the bundle.
        tools: Name to version of what made it.
        licences: SPDX expressions or names.
        data: Name and SHA-256 of what the golden samples and the accuracy come from.
        accuracies: Metric and value, by the path of the model file, where it was measured.

    Source: https://cyclonedx.org/docs/1.6/json/
    """
    reference = f"{name}@{version}"
    data_reference = f"{reference}/data"
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "tools": {
                "components": [
                    {"type": "application", "name": tool, "version": number}
                    for tool, number in sorted(tools.items())
                ]
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": reference,
                "name": name,
                "version": version,
                "licenses": [{"license": {"name": licence}} for licence in licences],
                "modelCard": {
                    "modelParameters": {"task": task, "datasets": [{"ref": data_reference}]},
                    "quantitativeAnalysis": {
                        "performanceMetrics": [
                            {"type": metric, "value": f"{value:.6g}", "slice": path}
                            for path, (metric, value) in sorted(accuracies.items())
                        ]
                    },
                },
            },
        },
        "components": [
            {
                "type": "file",
                "bom-ref": f"{reference}/{path}",
                "name": path,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for path, digest in sorted(files.items())
        ]
        + [
            {
                "type": "data",
                "bom-ref": data_reference,
                "name": data[0],
                "hashes": [{"alg": "SHA-256", "content": data[1]}],
                # Not in the bundle: it names what the figures rest on.
                "scope": "excluded",
            }
        ],
        "dependencies": [
            {"ref": reference, "dependsOn": [f"{reference}/{path}" for path in sorted(files)]}
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"
