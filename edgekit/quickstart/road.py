"""The road itself: ten steps, in order, each for real."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.fleet.broker import Choice, RunningBroker, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import director_root, image_root, init_keys
from edgekit.fleet.ordering import order_device
from edgekit.fleet.publisher import packed_order, publish
from edgekit.fleet.release import release_bundle
from edgekit.fleet.watch import FleetWatcher
from edgekit.quickstart import models, protection
from edgekit.quickstart.assets import DigitsAssets, digits_assets
from edgekit.quickstart.client import Answer, DigitsClient, Traffic
from edgekit.quickstart.device import Device
from edgekit.quickstart.figures import (
    Moment,
    PredictionFigures,
    ProtectionFigures,
    QuickstartFigures,
    Request,
    ServingFigures,
    UpdateFigures,
    VariantFigures,
)
from edgekit.quickstart.workspace import Workspace
from edgekit_benchmarks.profile import load_profiles
from edgekit_converters.report import tool_versions
from edgekit_runtime.errors import EnvironmentLackError, GateFailedError
from edgekit_runtime.orders import BundleOrder, Gates
from edgekit_runtime.reports import DeviceState, Phase

FLEET_ID: Final = "quickstart"
DEVICE_ID: Final = "device-1"
MODEL: Final = "digits"
_GATES: Final = Gates(min_requests=20, min_seconds=1.0, deadline_seconds=60.0)
_WAIT_SECONDS: Final = 30.0
_TRAFFIC_AFTER_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose.

    Attributes:
        folder: Where to work.
        profile: For which boards to predict.
        http_port: Of the agent; 0 for any free one.
        broker: Which broker to start.
    """

    folder: Path
    profile: str = "raspberrypi"
    http_port: int = 0
    broker: Choice = "auto"


@dataclass(slots=True, kw_only=True)
class Reporter:
    """How the road tells where it is.

    Attributes:
        step: Told the title of each step when it begins.
        say: Told plain sentences in between.
    """

    step: Callable[[str], None]
    say: Callable[[str], None]


@dataclass(slots=True)
class Road:
    """The road with what runs on it; `close` ends every process."""

    options: Options
    reporter: Reporter
    workspace: Workspace
    assets: DigitsAssets
    images: NDArray[Any]
    labels: NDArray[Any]
    seconds: dict[str, float] = field(default_factory=dict)
    serving: list[ServingFigures] = field(default_factory=list)
    _device: Device | None = None
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _watch: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @classmethod
    def open(cls, options: Options, reporter: Reporter) -> Road:
        """Make the folder and find the example.

        Raises:
            UsageError: If the folder is somebody's, or the profile is unknown.
            EnvironmentLackError: If the folder cannot be written, or the example is missing.
        """
        if sys.platform != "linux":
            raise EnvironmentLackError(
                "the device agent runs on Linux only, and the quickstart runs one",
                where=sys.platform,
                fix="run it on Linux; converting, benchmarking and the fleet commands work here",
            )
        load_profiles(options.profile)
        assets = digits_assets()
        with np.load(assets.test) as arrays:
            images, labels = arrays["image"], arrays["labels"]
        return cls(options, reporter, Workspace.make(options.folder), assets, images, labels)

    def close(self) -> None:
        """Stop the agent and the broker, whatever state they are in."""
        self._watch.close()
        self._open.close()

    def run(self) -> QuickstartFigures:
        """Walk all ten steps.

        Raises:
            EdgekitError: If a step does not do what it must; nothing is skipped over.
        """
        converted, variants, predictions = self._prepare_models()
        fleet, bundles = self._make_fleet(converted, variants)
        with self._step("Start a broker and a device that knows only its trusted roots"):
            broker, watcher, device = self._start(fleet)
            self.reporter.say(f"broker {broker.name} {broker.version} at {broker.address}")
        recorded = packed_order(fleet, DEVICE_ID)
        install_seconds = self._install(fleet, broker, watcher, device)
        with self._step("Classify the held-out digits through the device's HTTP interface"):
            self._classify(device)
        update, traffic = self._update(fleet, broker, watcher, device, bundles)
        with self._step("Show what protects the device"):
            protections = self._protect(
                fleet, broker, watcher, device, converted["2.0.0"], bundles, recorded
            )
        moments = tuple(
            Moment(at=e.time, kind=e.kind, version=e.version, detail=e.detail)
            for e in watcher.events()
        )
        rss = self._supervisor_rss(device)
        with self._step("Stop the broker, restart the device: it still answers"):
            self._watch.close()
            broker.stop()
            device.stop()
            device.start()
            self._classify(device, note="without a broker, after a restart")
        return QuickstartFigures(
            variants=tuple(item for version in variants.values() for item in version),
            predictions=predictions,
            install_seconds=install_seconds,
            serving=tuple(self.serving),
            update=update,
            protections=protections,
            supervisor_rss_bytes=rss,
            broker=f"{broker.name} {broker.version}",
            seconds=self.seconds,
            moments=moments,
            requests=tuple(
                Request(at=a.at, latency_ms=a.latency_ms, version=a.version)
                for a in traffic.answers
            ),
            tools=tool_versions(),
        )

    def _prepare_models(
        self,
    ) -> tuple[
        dict[str, models.Converted],
        dict[str, tuple[VariantFigures, ...]],
        tuple[PredictionFigures, ...],
    ]:
        say = self.reporter.say
        sources = {"1.0.0": self.assets.model_v1, "2.0.0": self.assets.model_v2}
        with self._step("Convert and quantize the model"):
            converted = {}
            for version, source in sources.items():
                output = self.workspace.folder("models") / version
                made = models.convert_digits(version, source, self.assets, output, say=say)
                converted[version] = made
                for artifact in made.artifacts:
                    accuracy = artifact.accuracy if artifact.accuracy else 0.0
                    say(
                        f"{MODEL} {version} as {models.title(artifact)}: {artifact.size_bytes:,} "
                        f"bytes, {accuracy:.2%} of {len(self.labels)} held-out digits right"
                    )
        with self._step("Benchmark here, predict for the device"):
            variants = {}
            variants["1.0.0"], predictions = models.bench_digits(
                converted["1.0.0"], profiles=[self.options.profile], say=say
            )
            variants["2.0.0"], _ = models.bench_digits(converted["2.0.0"], say=say)
            for prediction in predictions:
                say(
                    f"{prediction.board}, {prediction.variant}: {prediction.latency_ms:.3g} ms "
                    f"({prediction.low_ms:.2g} to {prediction.high_ms:.2g}), {prediction.kind}"
                )
        return converted, variants, predictions

    def _make_fleet(
        self,
        converted: dict[str, models.Converted],
        variants: dict[str, tuple[VariantFigures, ...]],
    ) -> tuple[Fleet, dict[str, Path]]:
        with self._step("Make bundles, create keys, sign a release"):
            bundles = {
                version: models.bundle_digits(
                    made,
                    self.assets,
                    self.workspace.folder("bundles") / f"digits-{version}.ekb",
                    measured=variants[version],
                )
                for version, made in converted.items()
            }
            fleet = Fleet.create(self.workspace.fleet, FLEET_ID)
            init_keys(fleet)
            first = release_bundle(fleet, bundles["1.0.0"])
            self._order(fleet, "1.0.0")
            self.reporter.say(
                f"released {MODEL} 1.0.0: {first.chunks} chunks, {first.wire_bytes:,} bytes"
            )
        return fleet, bundles

    def _install(
        self, fleet: Fleet, broker: RunningBroker, watcher: FleetWatcher, device: Device
    ) -> float:
        with self._step("Publish; the device fetches, verifies, proves, activates"):
            began = time.time()
            publish(fleet, broker.address)
            # A version counts as installed only when it has served: here are requests for it.
            watcher.wait_for(DEVICE_ID, _serves("1.0.0"), timeout_s=_WAIT_SECONDS)
            with self._traffic(device):
                watcher.wait_for(DEVICE_ID, _active("1.0.0"), timeout_s=_WAIT_SECONDS)
            seconds = time.time() - began
            self.reporter.say(f"{MODEL} 1.0.0 is active after {seconds:.1f} s")
        return seconds

    def _update(
        self,
        fleet: Fleet,
        broker: RunningBroker,
        watcher: FleetWatcher,
        device: Device,
        bundles: dict[str, Path],
    ) -> tuple[UpdateFigures, Traffic]:
        with self._step("Release version 2, and move to it under traffic"):
            release = release_bundle(fleet, bundles["2.0.0"])
            self._order(fleet, "2.0.0")
            with self._traffic(device) as traffic:
                time.sleep(_TRAFFIC_AFTER_SECONDS)
                began = time.time()
                publish(fleet, broker.address)
                watcher.wait_for(DEVICE_ID, _active("2.0.0"), timeout_s=_WAIT_SECONDS)
                seconds = time.time() - began
                time.sleep(_TRAFFIC_AFTER_SECONDS)
            update = self._judge_update(traffic, seconds, release.new_wire_bytes)
            self._classify(device)
        return update, traffic

    def http_address(self) -> tuple[str, int]:
        """Where the device's models are served, host and port."""
        if self._device is None:
            raise GateFailedError("the device was not started", where="quickstart")
        return self._address(self._device)

    def restart_broker(self) -> RunningBroker:
        """Start the broker again on its old port, with everything published."""
        fleet = Fleet.open(self.workspace.fleet)
        port = fleet.broker.port if fleet.broker else 0
        broker = self._open.enter_context(
            start_broker(self.workspace.folder("broker"), port=port, prefer=self.options.broker)
        )
        publish(fleet, broker.address)
        return broker

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.reporter.step(name)
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began

    def _order(self, fleet: Fleet, version: str) -> None:
        order = BundleOrder(bundle=MODEL, version=version, gates=_GATES)
        order_device(fleet, DEVICE_ID, [order])

    def _start(self, fleet: Fleet) -> tuple[RunningBroker, FleetWatcher, Device]:
        broker = self._open.enter_context(
            start_broker(self.workspace.folder("broker"), prefer=self.options.broker)
        )
        watcher = self._watch.enter_context(FleetWatcher(fleet.id, broker.address))
        device = Device.install(
            self.workspace.device,
            DEVICE_ID,
            fleet=fleet.id,
            broker=broker.address,
            image_root=image_root(fleet),
            director_root=director_root(fleet),
            http_port=self.options.http_port,
        )
        self._device = device
        self._open.callback(device.stop)
        device.start()
        device.wait_until(
            lambda status: bool(status.get("connected")),
            what="it reaches the broker",
            timeout_s=_WAIT_SECONDS,
        )
        return broker, watcher, device

    def _address(self, device: Device) -> tuple[str, int]:
        status = device.wait_until(
            lambda found: bool(found.get("port")),
            what="its HTTP interface is open",
            timeout_s=_WAIT_SECONDS,
        )
        return str(status["host"]), int(status["port"])

    def _traffic(self, device: Device) -> Traffic:
        host, port = self._address(device)
        return Traffic(host=host, port=port, images=self.images)

    def _classify(self, device: Device, *, note: str = "") -> None:
        host, port = self._address(device)
        self._wait_ready(host, port)
        with DigitsClient(host, port, model=MODEL) as client:
            answers = [client.classify(image) for image in self.images]
        refused = [answer for answer in answers if not answer.ok]
        if refused:
            raise GateFailedError(
                f"{len(refused)} of {len(answers)} requests were not served: {refused[0].error}",
                where=f"http://{host}:{port}",
            )
        right = np.mean([a.label for a in answers] == self.labels)
        latencies = [answer.latency_ms for answer in answers]
        variant = self._variant(device)
        self.serving.append(
            ServingFigures(
                version=answers[-1].version + (f" ({note})" if note else ""),
                variant=variant,
                requests=len(answers),
                accuracy=float(right),
                median_ms=float(np.median(latencies)),
                p90_ms=float(np.quantile(latencies, 0.9)),
            )
        )
        self.reporter.say(
            f"{MODEL} {answers[-1].version} ({variant}) answered {len(answers)} requests: "
            f"{right:.2%} right, median {np.median(latencies):.2f} ms as the client sees it"
        )

    def _wait_ready(self, host: str, port: int) -> Answer:
        deadline = time.monotonic() + _WAIT_SECONDS
        last: Answer | None = None
        while time.monotonic() < deadline:
            with DigitsClient(host, port, model=MODEL) as client:
                last = client.classify(self.images[0])
            if last.ok:
                return last
            time.sleep(0.1)
        raise GateFailedError(
            f"no answer within {_WAIT_SECONDS:g} s: {last.error if last else ''}",
            where=f"http://{host}:{port}",
        )

    def _variant(self, device: Device) -> str:
        bundles = device.status().get("state", {}).get("bundles", {})
        return str(bundles.get(MODEL, {}).get("variant", ""))

    def _judge_update(self, traffic: Traffic, seconds: float, wire_bytes: int) -> UpdateFigures:
        refused = traffic.refused
        if refused:
            raise GateFailedError(
                f"{len(refused)} of {len(traffic.answers)} requests were refused during the "
                f"update: {refused[0].error}",
                where="quickstart",
            )
        versions = [answer.version for answer in traffic.answers]
        if (versions[0], versions[-1]) != ("1.0.0", "2.0.0"):
            raise GateFailedError(
                f"version {versions[0]} answered first and {versions[-1]} last",
                where="quickstart",
            )
        self.reporter.say(
            f"moved from {versions[0]} to {versions[-1]} in {seconds:.1f} s; "
            f"{len(versions)} requests meanwhile, none refused"
        )
        return UpdateFigures(
            before=versions[0],
            after=versions[-1],
            seconds=seconds,
            wire_bytes=wire_bytes,
            requests=len(versions),
            refused=len(refused),
        )

    def _protect(
        self,
        fleet: Fleet,
        broker: RunningBroker,
        watcher: FleetWatcher,
        device: Device,
        converted: models.Converted,
        bundles: dict[str, Path],
        recorded: bytes,
    ) -> tuple[ProtectionFigures, ...]:
        host, port = self._address(device)

        def serving() -> str:
            return self._wait_ready(host, port).version

        folder = self.workspace.folder("attacks")
        stage = protection.Stage(
            fleet=fleet,
            broker=broker.address,
            watcher=watcher,
            device=DEVICE_ID,
            gates=_GATES,
            folder=folder,
            serving=serving,
        )
        revised = models.bundle_digits(
            converted, self.assets, folder / "digits-2.1.0.ekb", golden_samples=24, version="2.1.0"
        )
        attempts: tuple[Callable[[], ProtectionFigures], ...] = (
            lambda: protection.tampered_chunk(stage, revised, version="2.1.0"),
            lambda: protection.wrong_key(stage, bundles["1.0.0"], version="1.0.0"),
            lambda: protection.replayed_order(stage, recorded),
            lambda: protection.wrong_golden(
                stage, bundles["2.0.0"], bundles["1.0.0"], version="2.2.0"
            ),
            lambda: protection.broken_in_use(
                stage, converted.source, self.assets.test, version="2.3.0"
            ),
        )
        results = []
        # Live traffic goes on all the while: the gates judge by it.
        with self._traffic(device):
            for attempt in attempts:
                result = attempt()
                results.append(result)
                self.reporter.say(f"{result.threat}: {result.outcome}. {result.reason}")
        return tuple(results)

    def _supervisor_rss(self, device: Device) -> int:
        rss = int(device.status()["supervisor_rss_bytes"])
        self.reporter.say(f"the agent's supervisor takes {rss / 1e6:.1f} MB, connected and idle")
        return rss


def _serves(version: str) -> Callable[[DeviceState], bool]:
    def reached(state: DeviceState) -> bool:
        bundle = state.bundles.get(MODEL)
        return (
            bundle is not None
            and version in (bundle.active, bundle.candidate)
            and (bundle.phase in {Phase.TRYING, Phase.ACTIVE})
        )

    return reached


def _active(version: str) -> Callable[[DeviceState], bool]:
    def reached(state: DeviceState) -> bool:
        bundle = state.bundles.get(MODEL)
        return bundle is not None and bundle.phase is Phase.ACTIVE and bundle.active == version

    return reached
