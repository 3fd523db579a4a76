"""What the quickstart found out; every figure was read from what ran."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantFigures:
    """One model file.

    Attributes:
        model: "digits 1.0.0".
        variant: "LiteRT int8".
        file: Its name.
        size_bytes: Of the file.
        accuracy: On the held-out digits, 0 to 1.
        median_ms: Latency of one inference, measured here.
        p90_ms: The same, 90th percentile.
        peak_memory_bytes: Peak of the process above the engine's own, measured here; None where
            this system cannot tell.
    """

    model: str
    variant: str
    file: str
    size_bytes: int
    accuracy: float
    median_ms: float
    p90_ms: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFigures:
    """A latency predicted for a board.

    Attributes:
        board: The profile's name.
        variant: Which model file.
        kind: "predicted" or "estimate only".
        latency_ms: The prediction.
        low_ms: Lower end of the band.
        high_ms: Upper end of the band.
        provenance: What it rests on.
    """

    board: str
    variant: str
    kind: str
    latency_ms: float
    low_ms: float
    high_ms: float
    provenance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingFigures:
    """Held-out digits classified through the agent's HTTP interface.

    Attributes:
        version: Of the model that answered.
        variant: Which variant of it the device chose.
        requests: How many.
        accuracy: 0 to 1.
        median_ms: As the client sees it.
        p90_ms: As the client sees it.
    """

    version: str
    variant: str
    requests: int
    accuracy: float
    median_ms: float
    p90_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFigures:
    """An update under traffic.

    Attributes:
        before: The version that served.
        after: The version that serves.
        seconds: From publishing to success reported.
        wire_bytes: What the new version added to the fleet's chunks.
        requests: Asked meanwhile.
        refused: Of them not served.
    """

    before: str
    after: str
    seconds: float
    wire_bytes: int
    requests: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionFigures:
    """Something bad that was tried.

    Attributes:
        threat: What was done.
        outcome: "refused" or "rolled back".
        reason: In the agent's own words.
        still_serving: The version that answers afterwards.
    """

    threat: str
    outcome: str
    reason: str
    still_serving: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """An event on the device.

    Attributes:
        at: Seconds since 1970.
        kind: As the device reports it.
        version: Of the bundle concerned.
        detail: For people.
    """

    at: float
    kind: str
    version: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request during the update.

    Attributes:
        at: Seconds since 1970.
        latency_ms: As the client sees it.
        version: Of the model that answered; empty if refused.
    """

    at: float
    latency_ms: float
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartFigures:
    """All of it.

    Attributes:
        variants: Every model file.
        predictions: For the boards of the profile.
        install_seconds: From publishing to the first version's success.
        serving: For each version, and without the broker.
        update: The move to version 2.
        protections: What was tried against the device.
        supervisor_rss_bytes: Resident memory of the agent's supervisor, connected and idle.
        broker: Name and version.
        seconds: By step.
        moments: The device's events.
        requests: During the update.
        tools: Versions.
    """

    variants: tuple[VariantFigures, ...]
    predictions: tuple[PredictionFigures, ...]
    install_seconds: float
    serving: tuple[ServingFigures, ...]
    update: UpdateFigures
    protections: tuple[ProtectionFigures, ...]
    supervisor_rss_bytes: int
    broker: str
    seconds: dict[str, float]
    moments: tuple[Moment, ...]
    requests: tuple[Request, ...]
    tools: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)
