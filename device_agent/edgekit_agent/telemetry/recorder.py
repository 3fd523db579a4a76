"""Windows of what models and device did, out of counters that only rise; in the supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit_agent.live_stats import LiveStats
from edgekit_agent.plans import ModelPlan
from edgekit_agent.slot_files import SlotFiles
from edgekit_agent.telemetry.gauges import DeviceProbe
from edgekit_agent.telemetry.references import Reference, load_references
from edgekit_agent.telemetry.watching import Drift, DriftWatch
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.shadow import ShadowCounts
from edgekit_runtime.telemetry import DeviceGauges, FeatureCounts, ModelCounts, Window

Totals = Mapping[str, tuple[ModelPlan, LiveStats]]
# By digest, run and version that serves.
ShadowTotals = Mapping[tuple[str, str, str], tuple[ModelPlan, ShadowCounts]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftChange:
    """A version's features began or ceased to be drifted.

    Attributes:
        plan: Which version.
        drifted: Those that are now, with how far; empty when all are well again.
    """

    plan: ModelPlan
    drifted: Mapping[str, Drift]


@dataclass(slots=True)
class _Watched:
    plan: ModelPlan
    references: dict[str, Reference]
    counted: LiveStats = field(default_factory=LiveStats)
    watch: DriftWatch = field(default_factory=DriftWatch)
    drift: dict[str, Drift] = field(default_factory=dict)


class Recorder:
    """Turns totals into windows, a span of time each."""

    def __init__(self, probe: DeviceProbe, *, now: float) -> None:
        """Begin the first window at `now`, in seconds since 1970."""
        self._probe = probe
        self._since = now
        self._gauges: DeviceGauges | None = None
        self._watched: dict[str, _Watched] = {}
        # What was told of each already.
        self._shadowed: dict[tuple[str, str, str], ShadowCounts] = {}

    @property
    def drift(self) -> dict[str, dict[str, Drift]]:
        """Each bundle's drift by feature, as last judged."""
        return {each.plan.bundle: each.drift for each in self._watched.values() if each.drift}

    def features_of(self, plan: ModelPlan, stats: LiveStats) -> Mapping[str, FeatureCounts]:
        """Counters of a version, in the bins of its reference; zeros before it is asked."""
        references = self._watch(plan).references
        unseen = {name: each.counted([0] * len(each.expected)) for name, each in references.items()}
        return unseen | dict(_counts(stats, references).features)

    def look(self, *, agent_rss_bytes: int) -> None:
        """Measure the device once more in this window."""
        seen = self._probe.look(agent_rss_bytes=agent_rss_bytes)
        self._gauges = self._gauges.merge(seen) if self._gauges else seen

    def close_window(
        self, totals: Totals, *, now: float, shadows: ShadowTotals | None = None
    ) -> tuple[tuple[Window, ...], tuple[DriftChange, ...]]:
        """End the window and begin the next one.

        Args:
            totals: By digest, what each version has done since its processes began.
            now: Seconds since 1970; a clock that was set back ends the window where it began.
            shadows: What versions did beside others, since the agent started.

        Returns:
            The windows, and whose drift has changed.
        """
        start, end = self._since, max(now, self._since)
        self._since = now
        windows, changes = [], []
        if self._gauges:
            windows.append(Window(start=start, end=end, device=self._gauges))
            self._gauges = None
        for plan, total in totals.values():
            watched = self._watch(plan)
            done = total.since(watched.counted)
            watched.counted = total
            if not (done.requests or done.busy):
                continue
            model = _counts(done, watched.references)
            windows.append(
                Window(start=start, end=end, bundle=plan.bundle, version=plan.version, model=model)
            )
            change = _judge(watched, model)
            # Judged last: what is said of the bundle is of this version.
            self._watched[plan.digest] = self._watched.pop(plan.digest)
            if change:
                changes.append(change)
        self._watched = {d: each for d, each in self._watched.items() if d in totals}
        for key, (plan, counts) in (shadows or {}).items():
            earlier = self._shadowed.get(key)
            mine = counts if earlier is None else counts.since(earlier)
            if mine.compared or mine.dropped:
                bundle, version = plan.bundle, plan.version
                windows.append(
                    Window(start=start, end=end, bundle=bundle, version=version, shadows=(mine,))
                )
        self._shadowed = {key: counts for key, (_, counts) in (shadows or {}).items()}
        return tuple(windows), tuple(changes)

    def _watch(self, plan: ModelPlan) -> _Watched:
        watched = self._watched.get(plan.digest)
        if watched is None:
            watched = self._watched[plan.digest] = _Watched(plan=plan, references=_references(plan))
        return watched


def _judge(watched: _Watched, model: ModelCounts) -> DriftChange | None:
    before = {name for name, each in watched.drift.items() if each.drifted}
    watched.watch.add(model)
    judged = watched.watch.judge()
    if not judged:
        return None
    watched.drift = judged
    drifted = {name: each for name, each in judged.items() if each.drifted}
    return None if set(drifted) == before else DriftChange(plan=watched.plan, drifted=drifted)


def _counts(stats: LiveStats, references: Mapping[str, Reference]) -> ModelCounts:
    return ModelCounts(
        requests=stats.requests,
        errors=stats.errors,
        insane=stats.insane,
        busy=stats.busy,
        latency=dict(stats.latency.counts),
        features={
            name: references[name].counted(counts, stats.nonfinite.get(name, 0))
            for name, counts in stats.values.items()
            if name in references and len(counts) == len(references[name].expected)
        },
    )


def _references(plan: ModelPlan) -> dict[str, Reference]:
    files = SlotFiles(plan)
    try:
        manifest = files.manifest()
    except (EdgekitError, OSError):
        # The slot has just been given up; its server counts on without being compared.
        return {}
    return load_references(files.read, manifest)
