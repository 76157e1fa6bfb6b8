"""The service's settings: environment variables `VGG19_<FIELD>`, each described here."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator

from models.bundle.variants import CpuEngine
from models.errors import UserError
from models.events.config import EventsError, from_environment
from models.imaging.image import FORMATS, MAX_PIXELS
from models.monitoring.features import NAMES
from serving.admission.proxies import Networks, parse_networks
from serving.core.inflight import MAX_INFLIGHT_BYTES
from serving.engine.providers import Precision
from serving.environment import PREFIX, misspelt
from serving.setting_types import (
    Digests,
    FileName,
    FromEnvironment,
    OneDigest,
    Proxies,
    explain,
)

# As browsers write it: without a path, and without the port that goes with the scheme.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

# The service tells BentoML to wait longer than this, so that the answer in time is ours.
MAX_REQUEST_TIMEOUT_MS = 600_000
# Room for what a request holds beside its image.
ENVELOPE_BYTES = 1_000_000


class SettingsError(UserError):
    """An environment variable has a value that isn't allowed."""


class Settings(FromEnvironment):
    """Read once at start; a wrong value stops the start."""

    model: str = Field(default="production", description="production, latest, a version or a tag")

    store: FileName | None = Field(
        default=None,
        description="directory of the model store; default: that of the Bento, or BentoML's own "
        "($BENTOML_HOME/models). An empty one gets the Bento's model",
    )
    watch_interval_s: float = Field(
        default=2.0,
        ge=1,
        description="how often to check for a promotion and for changed key and certificate files",
    )
    ready_while_stale: bool = Field(
        default=True,
        description="answer /readyz with 200 while a promoted model can't be loaded and the "
        "previous one keeps serving, or after background work (watching for promotions, capture, "
        "loading heat maps) has failed three times in a row; false: with 503",
    )

    require_signature: bool = Field(
        default=False,
        description="serve only models whose signature matches VGG19_SIGNATURE_KEY",
    )
    signature_key: FileName | None = Field(
        default=None, description="PEM file with the public key that signatures are checked with"
    )

    grpc_host: str = Field(default="127.0.0.1", description="address of the gRPC server")
    grpc_port: int = Field(default=3001, ge=0, le=65535, description="port of the gRPC server")
    grpc_tls_cert: FileName | None = Field(
        default=None, description="PEM file with the certificate chain of the gRPC server"
    )
    grpc_tls_key: FileName | None = Field(default=None, description="PEM file with its private key")
    grpc_tls_client_ca: FileName | None = Field(
        default=None,
        description="PEM file with the CAs that client certificates are checked against (mutual "
        "TLS)",
    )
    grpc_max_concurrent_calls: int = Field(
        default=1024, ge=1, description="concurrent gRPC calls; more are refused, probes included"
    )
    grpc_keepalive_s: float = Field(
        default=60.0,
        ge=1,
        le=86_400,
        description="how often an idle gRPC connection is pinged",
    )
    grpc_max_connection_age_s: float = Field(
        default=0,
        ge=0,
        le=2_000_000,  # gRPC keeps milliseconds in an int32
        description="age at which a gRPC client has to reconnect, so that load balancers spread "
        "connections anew; 0: never",
    )

    keep_alive_s: int = Field(
        default=65,
        ge=1,
        le=3600,
        description="how long an idle HTTP connection stays open; must exceed the idle timeout of "
        "the load balancer in front",
    )
    cors_origins: str = Field(
        default="",
        description="origins whose pages may call this service, separated by commas "
        "(https://app.example.org); *: any; empty: only its own page",
    )

    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="worker processes, each with its own model and its share of the cores; with "
        "several GPUs at least their number",
    )
    access_log: bool = Field(
        default=True, description="one line of JSON on stdout for each request except probes"
    )

    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto",
        description="cuda: fail if CUDA doesn't work; auto: fall back to the CPU then, and log it",
    )
    precision: Precision = Field(
        default="float32",
        description="tf32 and float16 need a GPU; bf16, fc8, fc4 and int8 are variants made by "
        "`vgg19 export --variant`; auto takes what that recommended (on another kind of "
        "processor: what is measured there before the first start), on a GPU fp16 or else tf32; "
        "int8 runs images again that it can't tell, if the model needs that",
    )
    cpu_engine: CpuEngine = Field(
        default="onnxruntime",
        description="what runs the model on the CPU; openvino has bf16 and the fastest int8, ncnn "
        "the fastest float32, see docs/benchmarks.md",
    )
    tensorrt: bool = Field(
        default=False, description="use TensorRT, whose engines take minutes to build"
    )
    tensorrt_cache: FileName | None = Field(
        default=None, description="folder that keeps TensorRT's engines between starts"
    )
    gpu_mem_limit: int = Field(
        default=0, ge=0, description="bytes of ONNX Runtime's arena on a GPU; 0: unlimited"
    )
    intra_op_threads: int = Field(
        default=0,
        ge=0,
        description="threads that compute one batch on the CPU; 0: the cores of this process",
    )
    decode_threads: int = Field(
        default=0, ge=0, description="threads that decode images; 0: the cores of this process"
    )

    max_batch_size: int = Field(
        default=0,
        ge=0,
        description="images in one batch; 0: 32 on a GPU; on the CPU two per thread, at "
        "most 16, and more if images are smaller than 224 px",
    )
    max_delay_ms: float = Field(
        default=5.0,
        ge=0,
        description="how long an image waits for others while one batch runs and another may start",
    )
    max_concurrent_batches: int = Field(
        default=0,
        ge=0,
        le=16,
        description="batches that run concurrently; 0: 1 on the CPU, 2 on a GPU, where one is "
        "copied while the other runs",
    )
    max_queue_images: int = Field(
        default=256,
        ge=1,
        description="images that wait for a batch, and as many that wait to be decoded; more are "
        "refused at once",
    )
    request_timeout_ms: float = Field(
        default=30_000,
        gt=0,
        le=MAX_REQUEST_TIMEOUT_MS,
        description="time limit of a request, including waiting",
    )
    session_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="a batch or a heat map that takes longer counts as hung, and the service as "
        "not live",
    )
    shutdown_grace_s: float = Field(
        default=20.0,
        ge=0,
        le=25,
        description="time to finish accepted requests at shutdown; BentoML kills the process after "
        "30",
    )

    api_keys: Digests = Field(
        default=SecretStr(""),
        description="SHA-256 of each API key, separated by commas (`vgg19 key` makes one); empty: "
        "no key is required",
    )
    api_keys_file: FileName | None = Field(
        default=None,
        description="file with the same, separated by lines or commas, instead of VGG19_API_KEYS; "
        "changes apply without a restart",
    )
    admin_key: OneDigest = Field(
        default=SecretStr(""),
        description="SHA-256 of the key that may load and unload models; empty: nobody may",
    )
    admin_key_file: FileName | None = Field(
        default=None,
        description="file with the same, instead of VGG19_ADMIN_KEY; changes apply without a "
        "restart",
    )
    trusted_proxies: Proxies = Field(
        default="",
        description="addresses or networks of proxies, separated by commas, whose X-Forwarded-For "
        "is trusted; empty: the client is whoever connects",
    )
    rate_limit: float = Field(
        default=0,
        ge=0,
        description="requests per second of one client (key or address); 0: unlimited",
    )
    rate_limit_burst: int = Field(
        default=20, ge=1, description="requests that a client may send at once"
    )

    capture: Literal["off", "uncertain", "sample", "all"] = Field(
        default="off",
        description="which images are kept with their predictions, for labelling and retraining; "
        "tell the people whose images they are",
    )
    capture_url: str = Field(
        default="",
        repr=False,  # it may hold a password
        description="where they are kept: a directory, or a URL that fsspec knows (s3://...)",
    )
    capture_threshold: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="for uncertain: keep images whose best probability is below this",
    )
    capture_rate: float = Field(
        default=0.01, gt=0, le=1, description="for sample: the fraction of images to keep"
    )
    capture_limit: int = Field(
        default=1_000_000_000,
        ge=1,
        description="bytes to keep; beyond this the oldest images are deleted",
    )
    capture_waiting_bytes: int = Field(
        default=64_000_000,
        ge=1,
        description="bytes of images that wait to be written there; more are not kept",
    )

    review: FileName | None = Field(
        default=None,
        description="folder that keeps what people answer on the page /review/ about captured "
        "images, behind the admin key (docs/review.md); default: there is no such page",
    )
    review_hosts: str = Field(
        default="",
        description="names that this page is reached by, separated by commas "
        "(vgg19.example.org), besides IP addresses and localhost",
    )

    drift: bool = Field(
        default=True,
        description="compare images and answers with the validation images (docs/drift.md)",
    )
    drift_window: int = Field(
        default=1000,
        ge=100,
        le=1_000_000,
        description="number of latest images that distances are computed on",
    )
    drift_false_alarm_rate: float = Field(
        default=0.01,
        gt=0,
        le=0.5,
        description="probability of ever raising an alarm if nothing has changed",
    )
    drift_features: str = Field(
        default=",".join(NAMES),
        description="features that may raise an alarm, separated by commas; others are only shown",
    )
    drift_dir: FileName | None = Field(
        default=None,
        description="folder that keeps the counts between starts and joins replicas; default: a "
        "temporary one",
    )

    events_url: str = Field(
        default="",
        repr=False,  # its path may hold a secret
        description="where events about models are sent (docs/events.md): an https URL, or http "
        "on this machine; empty: nowhere",
    )
    events_key_file: FileName | None = Field(
        default=None,
        description="file with the keys that sign events, one per line (`vgg19 events key FILE` "
        "makes one); read again for each event",
    )
    events_allow_http: bool = Field(
        default=False,
        description="allow VGG19_EVENTS_URL to be http on another machine, unencrypted",
    )
    events_queue: FileName | None = Field(
        default=None,
        description="directory where events wait until they are delivered; default: "
        ".vgg19-events beside the store",
    )
    events_source: str = Field(
        default="/vgg19",
        description="the `source` attribute of events, which identifies this installation",
    )

    heat_maps: bool = Field(
        default=True,
        description="make heat maps on request (`explain=true`); the first one loads a second "
        "graph, 0.1 GB on the CPU and another model's memory on a GPU",
    )

    image_formats: str = Field(
        default="JPEG,PNG,WEBP",
        description="formats that are opened, separated by commas; GIF, BMP and TIFF are available,"
        " too",
    )
    max_image_bytes: int = Field(default=10_000_000, ge=1, description="bytes of one encoded image")
    max_image_pixels: int = Field(
        default=MAX_PIXELS,
        ge=1,
        le=2 * MAX_PIXELS,  # above that, Pillow refuses by itself
        description="width x height of one image, checked before it is decoded",
    )
    max_request_images: int = Field(default=64, ge=1, description="images in one request")
    # gRPC copies a message in the event loop, at a millisecond a megabyte
    # (docs/architecture/transports.md): above 90 MB that would take more than 100 ms.
    max_request_bytes: int = Field(
        default=64_000_000,
        ge=1,
        le=2**31 - 1,  # gRPC keeps it in an int32
        description="bytes of a body or a gRPC message, with all its images",
    )

    max_inflight_bytes: int = Field(
        default=MAX_INFLIGHT_BYTES,
        ge=1,
        description="bytes of all HTTP bodies and gRPC messages at once, and of all images that "
        "wait to be decoded; more are refused at once. In memory: nothing is written to /tmp",
    )
    max_decode_pixels: int = Field(
        default=100_000_000,
        ge=1,
        description="pixels of images above 2 megapixels that are decoded at once; 4 to 8 bytes of "
        "memory each",
    )

    @model_validator(mode="after")
    def _keys_have_one_source(self) -> Self:
        for name, file in (("api_keys", self.api_keys_file), ("admin_key", self.admin_key_file)):
            if file is not None and getattr(self, name).get_secret_value():
                variable = PREFIX + name.upper()
                raise ValueError(f"{variable} and {variable}_FILE are both set; unset one of them")
        return self

    @model_validator(mode="after")
    def _formats_are_known(self) -> Self:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown:
            raise ValueError(
                f"VGG19_IMAGE_FORMATS is '{self.image_formats}': '{unknown[0]}' is not a format "
                f"that can be opened; choose from {', '.join(FORMATS)}"
            )
        return self

    @model_validator(mode="after")
    def _origins_are_origins(self) -> Self:
        for origin in self.origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"VGG19_CORS_ORIGINS is '{self.cors_origins}': '{origin}' is not an origin: "
                    "scheme, lower-case host and optionally a port, without a path or a trailing "
                    "slash (https://app.example.org), or * for any"
                )
        return self

    @model_validator(mode="after")
    def _an_image_fits_a_request(self) -> Self:
        if self.max_request_bytes < self.max_image_bytes + ENVELOPE_BYTES:
            raise ValueError(
                f"VGG19_MAX_REQUEST_BYTES is {self.max_request_bytes}, it must be at least "
                f"VGG19_MAX_IMAGE_BYTES ({self.max_image_bytes}) plus {ENVELOPE_BYTES} for "
                "headers and form fields"
            )
        return self

    @model_validator(mode="after")
    def _a_request_fits_in_flight(self) -> Self:
        if self.max_inflight_bytes < self.max_request_bytes:
            raise ValueError(
                f"VGG19_MAX_INFLIGHT_BYTES is {self.max_inflight_bytes}, it must be at least "
                f"VGG19_MAX_REQUEST_BYTES ({self.max_request_bytes})"
            )
        return self

    @model_validator(mode="after")
    def _a_request_fits_the_queue(self) -> Self:
        if self.max_queue_images < self.max_request_images:
            raise ValueError(
                f"VGG19_MAX_QUEUE_IMAGES is {self.max_queue_images}, it must be at least "
                f"VGG19_MAX_REQUEST_IMAGES ({self.max_request_images}): a request waits as a whole"
            )
        return self

    @model_validator(mode="after")
    def _tls_files_belong_together(self) -> Self:
        if (self.grpc_tls_cert is None) != (self.grpc_tls_key is None):
            raise ValueError("VGG19_GRPC_TLS_CERT and VGG19_GRPC_TLS_KEY must be set together")
        if self.grpc_tls_client_ca is not None and self.grpc_tls_cert is None:
            raise ValueError("VGG19_GRPC_TLS_CLIENT_CA needs VGG19_GRPC_TLS_CERT as well")
        return self

    @model_validator(mode="after")
    def _signatures_need_a_key(self) -> Self:
        if self.require_signature != (self.signature_key is not None):
            raise ValueError("VGG19_REQUIRE_SIGNATURE and VGG19_SIGNATURE_KEY must be set together")
        return self

    @model_validator(mode="after")
    def _capture_needs_a_place(self) -> Self:
        if self.capture != "off" and not self.capture_url:
            raise ValueError(f"VGG19_CAPTURE is '{self.capture}', so VGG19_CAPTURE_URL must be set")
        return self

    @model_validator(mode="after")
    def _reviews_have_images_and_a_key(self) -> Self:
        if self.review is None:
            return self
        if not self.capture_url:
            raise ValueError(
                "VGG19_REVIEW is set, so VGG19_CAPTURE_URL must be set too: captured images are "
                "reviewed"
            )
        if not (self.admin_key.get_secret_value() or self.admin_key_file):
            raise ValueError(
                "VGG19_REVIEW is set, so VGG19_ADMIN_KEY or VGG19_ADMIN_KEY_FILE must be set too: "
                "who reviews sends that key (`vgg19 key` makes one)"
            )
        return self

    @property
    def review_names(self) -> frozenset[str]:
        """Of `review_hosts`."""
        names = (name.strip().lower() for name in self.review_hosts.split(","))
        return frozenset(filter(None, names))

    @model_validator(mode="after")
    def _features_are_measured(self) -> Self:
        unknown = sorted(set(self.watched_features) - set(NAMES))
        if unknown:
            raise ValueError(
                f"VGG19_DRIFT_FEATURES is '{self.drift_features}': '{unknown[0]}' isn't measured; "
                f"there are {', '.join(NAMES)}"
            )
        return self

    @property
    def watched_features(self) -> tuple[str, ...]:
        """Of `drift_features`."""
        return tuple(name.strip().lower() for name in self.drift_features.split(","))

    @model_validator(mode="after")
    def _events_can_be_sent(self) -> Self:
        try:
            from_environment()
        except EventsError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def formats(self) -> tuple[str, ...]:
        """Of `image_formats`, by Pillow's names."""
        return tuple(name.strip().upper() for name in self.image_formats.split(","))

    @property
    def origins(self) -> tuple[str, ...]:
        """Of `cors_origins`."""
        return tuple(filter(None, (origin.strip() for origin in self.cors_origins.split(","))))

    @property
    def proxies(self) -> Networks:
        """Of `trusted_proxies`."""
        return parse_networks(self.trusted_proxies)


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: a value isn't allowed, or a variable's name isn't one of a setting.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = misspelt(known)
    if unknown is not None:
        names = ", ".join(sorted(known))
        raise SettingsError(f"{unknown} is not a setting; the settings are {names}")
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(explain(error.errors(include_url=False)[0])) from None


def worker_count() -> int:
    """`Settings.workers`, for BentoML, which wants it before anything can be checked."""
    try:
        return load_settings().workers
    except SettingsError:
        return 1  # told at the start, by `check_start`


def cors_origins() -> tuple[str, ...]:
    """`Settings.origins`, for the start of the application, before anything can be checked."""
    try:
        return load_settings().origins
    except SettingsError:
        return ()
