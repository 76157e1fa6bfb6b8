"""When an answer is to be trusted: a confidence that is high enough, of an image that isn't unlike
those that the model was trained on."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import BundleError


class Acceptance(BaseModel):
    """`acceptance.json`.

    target_precision: how often accepted answers were to be right on the validation images, 0..1.
    min_confidence: the smallest probability of the first label that is accepted; None: no
    confidence reached the precision, so nothing is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_precision: float = Field(gt=0, le=1)
    min_confidence: float | None = Field(ge=0, le=1)

    def accepts(self, probability: float, distance: float | None) -> bool:
        """Whether to trust an answer.

        Args:
            probability: of the first label. distance: see `models.export.distance_graph`, 1 is the
                limit; None where the model has none.
        """
        if self.min_confidence is None or probability < self.min_confidence:
            return False
        return distance is None or distance <= 1

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Acceptance:
        """Read `acceptance.json`.

        Raises:
            BundleError: it is damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise BundleError(f"{path} is damaged; export the run again") from error
