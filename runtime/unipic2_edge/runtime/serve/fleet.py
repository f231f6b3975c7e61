"""A fleet: the same server as replicas behind Ray Serve, which starts, scales, replaces and balances them.

    serve run unipic2_edge.runtime.serve.fleet:application bundle=/models/my-bundle gpus=1 max_replicas=4 key=KEY

Jobs are left out: they live in one process, and Ray sends the next request to another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from ..bundle import Bundle
from ..errors import DeviceLostError, RequestError
from ..pipeline import Pipeline
from .app import make_app
from .guard import ANY, LOOPBACK, App
from .limits import Limits
from .pictures import Pictures
from .state import State


class FleetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a fleet is made of.

    Attributes:
        bundle: the folder, readable on every machine.
        device, memory, threads: see `Pipeline.load`.
        gpus: of each replica; a fraction lets several share one.
        cpus: of each replica.
        min_replicas, max_replicas: between which Ray scales with the load.
        batch: pictures at once, at most.
        waiting: requests in a replica's queue.
        timeout: seconds from a request's arrival to its pictures.
        key: clients must send it; needed unless Ray's proxy listens on loopback alone.
        allow_host: names under which the fleet may be asked, with commas between.
    """

    bundle: str
    device: str = "auto"
    memory: str | None = None
    threads: int | None = None
    gpus: float = 0
    cpus: float = 1
    min_replicas: int = 1
    max_replicas: int = 1
    batch: int = Limits.batch
    waiting: int = Limits.waiting
    timeout: float = Limits.seconds
    key: str | None = None
    allow_host: str = ""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names under which it may be asked: any, where a key is asked for."""
        given = tuple(name for name in self.allow_host.lower().split(",") if name)
        return (*LOOPBACK, *given) if given or self.key is None else (ANY,)

    @property
    def limits(self) -> Limits:
        """Of each replica."""
        return replace(Limits(), batch=self.batch, waiting=self.waiting, seconds=self.timeout)


#: The state of the replica that this process is.
_running: list[State] = []


def application(arguments: dict[str, Any]) -> Any:
    """Ray Serve's application, from `KEY=VALUE` words or a config file.

    Raises:
        RequestError: an argument that is unknown or wrong.
        BundleError: the folder is no bundle.
    """
    from ray import serve

    settings = fleet_settings(arguments)
    Bundle(settings.bundle)

    class Replica:
        """One process with one pipeline."""

        def check_health(self) -> None:
            """Ray replaces a replica whose device is lost for good."""
            if _running and _running[0].worker.lost:
                raise DeviceLostError("the device is lost", "Ray starts another replica")

    def build() -> App:
        return replica_app(settings)

    deployment = serve.deployment(
        name="pictures",
        ray_actor_options={"num_gpus": settings.gpus, "num_cpus": settings.cpus},
        max_ongoing_requests=settings.waiting + settings.batch,
        graceful_shutdown_timeout_s=settings.limits.drain_seconds,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": 2 * settings.batch,
        },
    )
    return deployment(serve.ingress(build)(Replica)).bind()


def fleet_settings(arguments: dict[str, Any]) -> FleetSettings:
    """Checked settings.

    Raises:
        RequestError: an argument that is unknown or wrong; or fewer replicas at most than at least.
    """
    try:
        settings = msgspec.convert(arguments, FleetSettings, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(f"the fleet's arguments: {error}", "see FleetSettings for what there is") from error
    if not 1 <= settings.min_replicas <= settings.max_replicas:
        raise RequestError(
            f"{settings.min_replicas} to {settings.max_replicas} replicas cannot be", "give 1 or more, the larger last"
        )
    return settings


def replica_app(settings: FleetSettings) -> App:
    """What a replica serves; called in its process."""

    def load() -> Pictures:
        return Pipeline.load(settings.bundle, settings.device, settings.threads, settings.memory)

    state = State(Bundle(settings.bundle).manifest, load, settings.limits)
    _running[:] = [state]
    return make_app(state, settings.hosts, settings.key, jobs=False)
