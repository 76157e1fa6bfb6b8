"""The JSON bodies of the HTTP interface, as pydantic models: what OpenAPI shows and tests check."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.core import tensors
from serving.http.drift_schema import DriftReply as DriftReply  # one of the bodies, too
from serving.http.overview_schema import DifferingReply as DifferingReply  # bodies, too
from serving.http.overview_schema import OverviewReply as OverviewReply
from serving.http.overview_schema import RollbackReply as RollbackReply
from serving.http.overview_schema import RollbackRequest as RollbackRequest
from serving.observability.telemetry import REQUEST_ID


def _inputs(schema: dict[str, Any]) -> None:
    schema["enum"] = [tensor.name for tensor in tensors.INPUTS]


def _outputs(schema: dict[str, Any]) -> None:
    schema["enum"] = tensors.output_names()


# Of the tables, when the document is made.
InputName = Annotated[str, Field(json_schema_extra=_inputs)]
OutputName = Annotated[str, Field(json_schema_extra=_outputs)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class LabelProbability(_Body):
    label: str
    index: int = Field(ge=0, description="column of the model's output")
    probability: float = Field(ge=0, le=1)


class HeatMapReply(_Body):
    """How much each place of the model's input speaks for a label (Grad-CAM)."""

    label: str
    index: int = Field(ge=0, description="column of the model's output")
    values: list[list[float]] = Field(
        description="rows from the top, 0..1; each value is for 32 x 32 pixels of the input"
    )


class ImageReply(_Body):
    """One image: its `predictions`, best first, or why it has none."""

    filename: str | None = Field(description="of the form's part; null for a raw body")
    predictions: list[LabelProbability] = Field(default_factory=list)
    accepted: bool | None = Field(
        default=None, description="whether to trust the first label; not where there is an error"
    )
    distance: float | None = Field(
        default=None,
        ge=0,
        description="from the training images; beyond 1 the image is unlike them",
    )
    heatmap: HeatMapReply | None = Field(default=None, description="where explain=true asks for it")
    error: str = ""


class StageTimings(_Body):
    """Where the time of this request went, in ms."""

    decode: float
    queue: float
    inference: float
    explain: float = Field(default=0.0, description="where explain=true asks for it")
    run: float = Field(deprecated=True, description="the old name of inference; read that")


class ClassifyReply(_Body):
    model_name: str
    model_version: str
    images: list[ImageReply]
    timings_ms: StageTimings


class FailedLoadReply(_Body):
    version: str
    reason: str


class AcceptanceReply(_Body):
    target_precision: float = Field(
        gt=0, le=1, description="of accepted answers, on the validation images"
    )
    min_confidence: float | None = Field(
        ge=0, le=1, description="smallest probability that is accepted; null: none reached it"
    )


class RerunReply(_Body):
    precision: Literal["float32", "bf16"] = Field(description="of the second run")
    margin: float = Field(
        ge=0,
        le=1,
        description="up to which between its two best probabilities an image runs again",
    )


class ModelReply(_Body):
    name: str
    version: str
    loaded_versions: list[str] = Field(description="the current one first")
    failed_load: FailedLoadReply | None = Field(
        description="a promoted version that couldn't be loaded; the one before it goes on serving"
    )
    device: Literal["cpu", "gpu"]
    provider: str = Field(description="ONNX Runtime's execution provider, OpenVINO or ncnn")
    variant: str = Field(description="the graph that answers: float32, or a variant's name")
    rerun: RerunReply | None = Field(
        description="images that run again, since the variant can't tell; null: none do"
    )
    acceptance: AcceptanceReply | None = Field(
        description="which answers are accepted; null: all, the model doesn't say"
    )
    heat_maps: bool = Field(description="whether explain=true can be asked for")
    spec: dict[str, Any] = Field(description="labels, preprocessing and names of the ONNX graph")
    metrics: dict[str, Any] = Field(description="what training measured")


class LabelsReply(_Body):
    labels: list[str] = Field(description="in the order of the model's output")


class FeedbackRequest(BaseModel):
    request_id: str = Field(
        pattern=f"^{REQUEST_ID.pattern}$", description="the X-Request-Id of the answer"
    )
    label: str = Field(pattern=r"\S", max_length=200, description="the right one")
    image: int = Field(default=0, ge=0, lt=1000, description="its place in a request of several")


class FeedbackReply(_Body):
    stored: bool


class Problem(_Body):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="what is wrong, and the way out")
    error: str = Field(default="", description="the same, where the v2 protocol asks for it")


class ServerReply(_Body):
    name: str
    version: str
    extensions: list[str]


class LiveReply(_Body):
    live: bool


class ReadyReply(_Body):
    ready: bool


class TensorMetadata(_Body):
    name: str
    datatype: tensors.Datatype
    shape: list[int] = Field(description="-1: any number of images")


class ModelMetadataReply(_Body):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InputTensor(BaseModel):
    """`image`: BYTES[N] of encoded images, base64 in JSON. `pixels`: UINT8[N,S,S,3], RGB."""

    name: InputName
    datatype: tensors.Datatype
    shape: list[int]
    parameters: dict[str, Any] | None = Field(
        default_factory=dict, description="binary_data_size: the data follows the JSON"
    )
    data: list[Any] | None = None


class RequestedOutput(BaseModel):
    name: OutputName
    parameters: dict[str, Any] | None = Field(
        default_factory=dict,
        description="binary_data: answer behind the JSON; classification: so many best classes as "
        '"probability:index:label"; target: the label that a heatmap is of',
    )


class InferRequest(BaseModel):
    """See the Open Inference Protocol, version 2."""

    id: str | None = Field(default="", max_length=1024, description="echoed in the reply")
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = Field(
        default_factory=list,
        max_length=tensors.MAX_OUTPUTS,
        description="none: probabilities and label",
    )
    parameters: dict[str, Any] | None = Field(
        default_factory=dict, description="binary_data_output: all outputs behind the JSON"
    )


class OutputTensor(_Body):
    name: OutputName
    datatype: tensors.Datatype
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferReply(_Body):
    model_name: str
    model_version: str
    id: str = ""
    outputs: list[OutputTensor]


class IndexRequest(BaseModel):
    ready: bool | None = Field(default=False, description="only versions that are loaded")


class IndexEntryReply(_Body):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class RepositoryRequest(BaseModel):
    parameters: dict[str, Any] | None = Field(
        default_factory=dict,
        description="version: which. Without one, load takes what is promoted, and unload drops "
        "every version beside the current one",
    )


class ModelConfigReply(BaseModel):
    """In the terms of Triton's model configuration."""

    name: str
    platform: str
    max_batch_size: int
    backend: str
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    dynamic_batching: dict[str, Any]


class StatisticsReply(BaseModel):
    """In the terms of Triton's statistics extension, of this worker."""

    model_stats: list[dict[str, Any]]
