"""What the supervisor tells a process that it starts: one JSON object on the command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edgekit_agent.settings import SampleSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model to load.

    Attributes:
        bundle: Its name.
        version: Its version.
        digest: Of its bundle index.
        folder: Its slot.
        variant: Which variant.
        runtime: Which engine.
        threads: How many threads one inference may use.
        data: The agent's folder around the slot; empty for a slot that stands alone.
        encryption: How files are kept there, as `Encryption.to_text` gives it.
    """

    bundle: str
    version: str
    digest: str
    folder: str
    variant: str
    runtime: str
    threads: int
    data: str = ""
    encryption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """What a server process needs; the numbers are inherited file descriptors.

    Attributes:
        models: What to hold.
        newcomers: Bundles among them that no server held beside the others yet.
        listeners: The listening sockets.
        handover_in: Where a draining server puts idle connections.
        handover_out: Where a serving one takes them from.
        reports: A pipe to the supervisor, one JSON object a line.
        life: A pipe whose other end only the supervisor holds.
        running: Shared memory, a byte for each model: whether it is computing just now.
        queue_requests: How many requests may wait for each model.
        request_bytes: The largest request body.
        ram_bytes: The most memory that all models together may take; 0 for any.
        data: The agent's folder.
        samples: Which requests are kept for retraining.
        encryption: How files are kept in that folder, as `Encryption.to_text` gives it.
    """

    models: tuple[ModelPlan, ...]
    newcomers: tuple[str, ...]
    listeners: tuple[int, ...]
    handover_in: int
    handover_out: int
    reports: int
    life: int
    running: int
    queue_requests: int
    request_bytes: int
    ram_bytes: int
    data: str
    samples: SampleSettings
    encryption: str = ""

    def to_json(self) -> str:
        """The plan as an argument."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """What a trial process needs; the numbers are inherited file descriptors.

    Attributes:
        model: What to prove.
        reports: A pipe to the supervisor for the one line of result.
        life: A pipe whose other end only the supervisor holds.
    """

    model: ModelPlan
    reports: int
    life: int

    def to_json(self) -> str:
        """The plan as an argument."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyPlan:
    """What a verifying process needs.

    Attributes:
        folder: Where trusted metadata is kept.
        device: This device's id.
        image_root: Path of the image repository's initial `root.json`.
        director_root: Path of the director's initial `root.json`.
        now: Seconds since 1970, by which expiry is judged.
        life: A pipe, inherited, whose other end only the supervisor holds.
    """

    folder: str
    device: str
    image_root: str
    director_root: str
    now: float
    life: int

    def to_json(self) -> str:
        """The plan as an argument."""
        return json.dumps(asdict(self), separators=(",", ":"))


def read_verify_plan(text: str) -> VerifyPlan:
    """Read what `VerifyPlan.to_json` made; it comes from our own supervisor."""
    return VerifyPlan(**json.loads(text))


def read_server_plan(text: str) -> ServerPlan:
    """Read what `ServerPlan.to_json` made; it comes from our own supervisor."""
    document = json.loads(text)
    models = tuple(ModelPlan(**model) for model in document.pop("models"))
    listeners, newcomers = (tuple(document.pop(name)) for name in ("listeners", "newcomers"))
    return ServerPlan(
        models=models,
        listeners=listeners,
        newcomers=newcomers,
        samples=SampleSettings(**document.pop("samples")),
        **document,
    )


def read_trial_plan(text: str) -> TrialPlan:
    """Read what `TrialPlan.to_json` made; it comes from our own supervisor."""
    document = json.loads(text)
    return TrialPlan(model=ModelPlan(**document.pop("model")), **document)
