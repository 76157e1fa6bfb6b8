"""MLServer: a custom runtime with adaptive batching; JPEGs as BYTES of the v2 protocol."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.common import decode, load


class Classifier(MLModel):
    async def load(self) -> bool:
        self.model = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        # Base64 over HTTP, the bytes themselves over gRPC: the codec takes both.
        images = self.decode(payload.inputs[0], default_codec=Base64Codec)
        probabilities = self.model.run([decode(image) for image in images])
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output("probabilities", probabilities)],
        )
