from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import VGG

from models.network.strategies import FineTuner
from models.network.vgg19 import VGG19
from testing.images import write_image_folder
from testing.small_vgg import thin_vgg19
from training.data.batch import Batch
from training.data.sampling import Draw
from training.features.batches import CachedFeatures, FeatureError
from training.features.cache import FeatureFile, list_entries
from training.loop.accelerator import make_accelerator
from training.loop.config import TrainConfig
from training.loop.config_file import load_config
from training.loop.context import TrainContext, load_data
from training.loop.image_batches import ImageBatches
from training.loop.recipe import fine_tune
from training.reporter import SilentReporter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("thin_network")]

FC = {"classifier.0", "classifier.3", "classifier.6"}
FC1 = 39  # its index in the network's sequence
IMAGES = 10  # to train on; 2 to validate, 2 to test


@pytest.fixture(scope="module")
def network() -> VGG:
    torch.manual_seed(2)
    return thin_vgg19(num_classes=2).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("data"), {"blue": 7, "red": 7})


Make = Callable[..., tuple[CachedFeatures, TrainContext, SilentReporter]]


@pytest.fixture
def make(network: VGG, data: Path, tmp_path: Path) -> Make:
    """CachedFeatures of a run with the given configuration, whose model trains FC1 to the head."""

    def build(
        trainable: set[str] = FC, **changes: Any
    ) -> tuple[CachedFeatures, TrainContext, SilentReporter]:
        values = {
            "data": data, "output": tmp_path / "run", "image_size": 32, "batch_size": 4,
            "split_by": "exact",
            "cache_dir": tmp_path / "cache", "micro_batch_size": 3, "epochs": 4,
            "mixed_precision": "no",
        }  # fmt: skip
        config = load_config(None, values | changes).resolved(blocks=5)
        reporter = SilentReporter()
        context = TrainContext(
            config, load_data(config, reporter), make_accelerator("cpu", "no"), reporter
        )
        tuner = FineTuner(VGG19, network)
        tuner.set_trainable(trainable)
        features = CachedFeatures(context, tuner)
        features.plan([trainable] * config.epochs)
        return features, context, reporter

    return build


def by_image(batches: Any) -> dict[int, Batch]:
    """One batch for each image."""
    return {
        int(batch.indices[i]): Batch(
            batch.inputs[i], batch.targets[i], batch.indices[i], batch.weights[i], batch.start
        )
        for batch in batches
        for i in range(len(batch.indices))
    }


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The blocks that are computed, as DIRECTORY:BLOCK."""
    blocks: list[str] = []
    write = FeatureFile.write

    def spy(file: FeatureFile, block: int, features: Any) -> None:
        blocks.append(f"{file.path.name}:{block}")
        write(file, block, features)

    monkeypatch.setattr(FeatureFile, "write", spy)
    return blocks


class TestValues:
    @pytest.mark.parametrize(
        ("trainable", "layer", "shape"),
        [
            (FC, "classifier.0", (32 * 7 * 7,)),
            ({"classifier.6"}, "classifier.6", (32,)),
            (FC | {"features.34"}, "features.34", (32, 2, 2)),
            (FC | {"features.28"}, "features.28", (32, 2, 2)),
            (FC | {"features.10"}, "features.10", (8, 8, 8)),
        ],
    )
    def test_are_what_goes_into_the_first_layer_that_trains(
        self, make: Make, network: VGG, trainable: set[str], layer: str, shape: tuple[int, ...]
    ) -> None:
        features, context, _ = make(trainable, augment="none")
        batches = by_image(features.batches("train", 1))
        assert sorted(batches) == list(range(IMAGES))
        dataset = context.dataset("train")
        for image, batch in batches.items():
            assert VGG19.sequence(network)[batch.start][0] == layer
            assert batch.inputs.shape == shape
            assert batch.inputs.dtype == torch.float32
            assert batch.targets == dataset.targets[image]
            with torch.no_grad():
                pixels = context.normalize(dataset.pixels(image)[None])
                expected = VGG19.run(network, pixels, 0, batch.start)[0]
            torch.testing.assert_close(batch.inputs, expected, atol=1e-5, rtol=1e-4)

    def test_bf16_is_near_float32_and_kept_apart(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a processor without its instructions emulates it."""
        plain, *_ = make(augment="none")
        expected = by_image(plain.batches("train", 1))
        monkeypatch.setattr("training.loop.precision.cpu_computes_in_bf16", lambda: True)
        rounded, _, reporter = make(augment="none", mixed_precision="auto")
        found = by_image(rounded.batches("train", 1))
        assert any("computed in bf16" in line for line in reporter.messages)
        for image, batch in found.items():
            assert batch.inputs.dtype == torch.float32
            error = (batch.inputs - expected[image].inputs).norm() / expected[image].inputs.norm()
            assert 1e-4 < error < 2e-2

    def test_batches_are_those_of_training_without_them(self, make: Make) -> None:
        features, context, _ = make(augment="none", balanced_sampling=True)
        plain = list(ImageBatches(context).batches("train", 3, start=1))
        kept = list(features.batches("train", 3, start=1))
        assert [b.indices.tolist() for b in kept] == [b.indices.tolist() for b in plain]
        assert [b.targets.tolist() for b in kept] == [b.targets.tolist() for b in plain]
        assert [b.weights.tolist() for b in kept] == [b.weights.tolist() for b in plain]

    def test_views_are_augmented_differently_and_come_round_again(
        self, make: Make, network: VGG
    ) -> None:
        features, context, _ = make(views=2)
        first, second, third = (by_image(features.batches("train", epoch)) for epoch in (1, 2, 3))
        dataset = context.dataset("train")
        for image in range(IMAGES):
            assert torch.equal(first[image].inputs, third[image].inputs)
            assert not torch.equal(first[image].inputs, second[image].inputs)
            with torch.no_grad():
                pixels, *_ = dataset[Draw(image, IMAGES + image)]  # the second view's seed
                expected = VGG19.run(network, context.normalize(pixels[None]), 0, FC1)[0]
            torch.testing.assert_close(second[image].inputs, expected, atol=1e-5, rtol=1e-4)

    def test_without_augmentation_there_is_one_view(self, make: Make, tmp_path: Path) -> None:
        features, _, _ = make(views=4, augment="none")
        for epoch in (1, 2):
            list(features.batches("train", epoch))
        assert len(list_entries(tmp_path / "cache")) == 1

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_evaluation_gives_the_same_logits(self, make: Make, network: VGG, split: Any) -> None:
        features, context, _ = make()
        logits, targets = context.predict(features, network, split)
        expected, expected_targets = context.predict(ImageBatches(context), network, split)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(targets, expected_targets)

    def test_float16_when_asked(self, make: Make) -> None:
        exact = by_image(make(augment="none")[0].batches("train", 1))
        half = by_image(make(augment="none", cache_dtype="float16")[0].batches("train", 1))
        for image, batch in half.items():
            assert batch.inputs.dtype == torch.float16
            torch.testing.assert_close(
                batch.inputs.float(), exact[image].inputs, atol=1e-4, rtol=2**-10
            )

    def test_values_beyond_float16_are_an_error(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        features, _, _ = make(cache_dtype="float16")
        monkeypatch.setattr(
            TrainContext,
            "normalize",
            staticmethod(lambda pixels: pixels.permute(0, 3, 1, 2).float() * 1e7),
        )
        with pytest.raises(FeatureError, match="more than float16 holds; use cache_dtype float32"):
            list(features.batches("train", 1))


class TestReuse:
    def test_a_second_run_computes_nothing(self, make: Make, written: list[str]) -> None:
        options: dict[str, Any] = {"views": 2, "epochs": 2}
        features, _, _ = make(**options)
        list(features.batches("train", 1))
        list(features.batches("val"))
        assert len(written) == 4 + 1  # blocks of 3: of 10 images, of 2
        written.clear()
        again, _, reporter = make(learning_rate=0.5, batch_size=5, **options)
        list(again.batches("train", 1))
        list(again.batches("val"))
        assert written == []
        assert "features before classifier.0 of train, view 1: found" in reporter.messages

    def test_an_interrupted_extraction_goes_on(self, make: Make, written: list[str]) -> None:
        features, context, _ = make()
        load = type(context.dataset("train")).__getitem__

        def broken(dataset: Any, draw: Draw) -> Any:
            if draw.image == 7:  # in the third block
                raise KeyboardInterrupt
            return load(dataset, draw)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(context.dataset("train")), "__getitem__", broken)
            with pytest.raises(KeyboardInterrupt):
                list(features.batches("train", 1))
        assert [block[-1] for block in written] == ["0", "1"]
        list(make()[0].batches("train", 1))
        assert [block[-1] for block in written] == ["0", "1", "2", "3"]

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": 1},  # another augmentation, and another split
            {"crop_scale": 0.5},
            {"horizontal_flip": False},
            {"augment": "trivial"},
            {"augment": "none"},
            {"random_erasing": 0.1},
            {"image_size": 33},
            {"resize_size": 40},
            {"resize": "squash"},
            {"resize": "pad"},
            {"cache_dtype": "float16"},
            {"test_fraction": 0.3},
        ],
    )
    def test_whatever_changes_the_features_is_in_the_key(
        self, make: Make, change: dict[str, Any]
    ) -> None:
        before, after = (make(**options)[0]._key("train", FC1, 0) for options in ({}, change))
        assert before.digest() != after.digest()

    def test_weights_and_boundary_are_in_the_key(self, make: Make, network: VGG) -> None:
        features, _, _ = make()
        keys = {boundary: features._key("train", boundary).digest() for boundary in (28, 37, FC1)}
        assert len(set(keys.values())) == 3
        layer = network.features[30]
        with torch.no_grad():
            layer.weight[0, 0, 0, 0] += 1
        try:
            other, _, _ = make()
            changed = {b for b in keys if other._key("train", b).digest() != keys[b]}
        finally:
            with torch.no_grad():
                layer.weight[0, 0, 0, 0] -= 1
        assert changed == {37, FC1}  # what lies above the changed layer

    @pytest.mark.parametrize("what", ["rule", "resampler", "resampler's version", "libjpeg"])
    def test_what_decides_the_pixels_is_in_the_key(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        before = make()[0]._key("train", FC1)
        if what == "rule":
            monkeypatch.setattr("training.data.decoding.DECODE_RULE", 0)
        elif what == "resampler":
            monkeypatch.setattr("models.imaging.resampling.simd", None)
        elif what == "resampler's version":
            monkeypatch.setattr("training.data.decoding.version", lambda _: "0.1")
        else:
            monkeypatch.setattr("PIL.features.version", lambda _: "0.1")
        assert make()[0]._key("train", FC1).digest() != before.digest()

    def test_the_network_is_in_the_key(self, make: Make) -> None:
        """Two may have the same weights, and run them in another way."""
        features, context, _ = make()
        before = features._key("train", FC1).digest()
        context.__dict__["architecture"] = replace(VGG19, name="another")
        assert features._key("train", FC1).digest() != before

    def test_views_do_not_depend_on_how_many_there_are(self, make: Make) -> None:
        two, four = (make(views=views)[0]._key("train", FC1, 1) for views in (2, 4))
        assert two == four


# PyTorch warns of two loader processes where there is one core.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
class TestShared:
    """The work, with loader processes and with other runs."""

    def test_blocks_on_their_way_are_computed_once(self, make: Make, network: VGG) -> None:
        """Two loader processes ask for all four blocks before the first one is computed."""
        features, _, _ = make(num_workers=2)
        passes: list[int] = []
        relu = network.features[1]  # convolutions are copied, and run as the copies
        handle = relu.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
        try:
            assert len(by_image(features.batches("train", 1))) == IMAGES
        finally:
            handle.remove()
        assert passes == [3, 3, 3, 1]

    def test_who_waits_for_others_holds_no_block(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two that each hold what the other one waits for would wait for ever."""
        features, _, _ = make(num_workers=2)
        claim, write = FeatureFile.claim, FeatureFile.write
        held: set[int] = set()
        waits: list[set[int]] = []

        def watched(file: FeatureFile, blocks: Iterable[int], *, wait: bool) -> Iterator[int]:
            # Others are at 2 and 3 first, and die.
            for block in [block for block in blocks if wait or block < 2]:
                if wait:
                    waits.append(set(held))
                for claimed in claim(file, [block], wait=wait):
                    held.add(claimed)
                    yield claimed

        def release(file: FeatureFile, block: int, values: Any) -> None:
            write(file, block, values)
            held.discard(block)

        monkeypatch.setattr(FeatureFile, "claim", watched)
        monkeypatch.setattr(FeatureFile, "write", release)
        assert len(by_image(features.batches("train", 1))) == IMAGES
        assert waits == [set(), set()]


class TestWithout:
    def starts(self, features: CachedFeatures) -> set[int]:
        return {batch.start for batch in features.batches("train", 1)}

    def test_views_0_turns_it_off(self, make: Make, tmp_path: Path) -> None:
        features, _, reporter = make(views=0)
        assert self.starts(features) == {0}
        list(features.batches("val"))
        assert not (tmp_path / "cache").exists()
        assert not any("caching the inputs" in message for message in reporter.messages)

    def test_nothing_is_frozen_below(self, make: Make) -> None:
        features, _, reporter = make(FC | {"features.0"})
        assert self.starts(features) == {0}
        assert not any("caching the inputs" in message for message in reporter.messages)

    def test_mixing_is_of_images(self, make: Make, tmp_path: Path) -> None:
        features, _, _ = make(mixup=0.2)
        assert self.starts(features) == {0}
        list(features.batches("val"))  # what is evaluated is not mixed
        assert len(list_entries(tmp_path / "cache")) == 1

    def test_the_size_is_told_before_and_the_limit_kept(self, make: Make, tmp_path: Path) -> None:
        # 40 views of 10 images and 2 + 2 to evaluate, 1,568 values of 4 bytes each
        options: dict[str, Any] = {"views": 40, "epochs": 40}
        size = (40 * 10 + 4) * 1_568 * 4
        features, _, reporter = make(cache_limit=size, **options)
        told = next(message for message in reporter.messages if "caching the inputs" in message)
        assert "classifier.0" in told
        assert "1,568 values an image, 404 images and views, 3 MB" in told
        assert self.starts(features) == {FC1}
        features, _, reporter = make(cache_limit=size - 1, cache_dir=tmp_path / "other", **options)
        assert self.starts(features) == {0}
        assert "are more than cache_limit (3 MB) or the free disk" in reporter.warnings[-1]
        assert not (tmp_path / "other").exists()

    def test_a_cache_that_cant_be_written_is_told_and_done_without(
        self, make: Make, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        features, _, reporter = make(cache_dir=tmp_path / "file" / "cache")
        assert self.starts(features) == {0}
        assert "features can't be cached in" in reporter.warnings[-1]

    def test_a_full_disk_in_the_middle(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, network: VGG
    ) -> None:
        features, _, reporter = make()
        write = FeatureFile.write

        def full(file: FeatureFile, block: int, values: Any) -> None:
            if block == 2:
                raise OSError(28, "No space left on device")
            write(file, block, values)

        monkeypatch.setattr(FeatureFile, "write", full)
        assert self.starts(features) == {0}
        assert "No space left on device" in reporter.warnings[-1]
        assert by_image(features.batches("val")).keys() == {0, 1}


def config(tmp_path: Path, data: Path, **changes: Any) -> TrainConfig:
    values = {
        "data": data, "weights": "none", "image_size": 32, "batch_size": 4, "optimizer": "sgd",
        "split_by": "exact",
        "dropout": 0.0, "augment": "none", "learning_rate": 0.01, "cache_dir": tmp_path / "cache",
        "mixed_precision": "no",
    }  # fmt: skip
    return load_config(None, values | changes)


def test_losses_are_those_of_training_through_the_whole_network(
    tmp_path: Path, data: Path, written: list[str]
) -> None:
    """From the flatten, and from the block of convolutions that the second epoch unfreezes."""
    options: dict[str, Any] = {"strategy": "gradual", "epochs": 2, "unfreeze_epochs": (2,)}
    histories = []
    for name, views in (("through", 0), ("kept", 4)):
        run = fine_tune(
            config(tmp_path, data, output=tmp_path / name, views=views, **options),
            SilentReporter(),
        )
        histories.append(json.loads(run.metrics.read_text())["history"])
        assert bool(written) == (name == "kept")
    for through, kept in zip(*histories, strict=True):
        for key in ("train_loss", "val_loss"):
            assert kept[key] == pytest.approx(through[key], abs=1e-5)
        assert kept["train_accuracy"] == through["train_accuracy"]
    losses = [row["train_loss"] for row in histories[0]]
    assert abs(losses[1] - losses[0]) > 1e-3  # it has learned something
    befores = {entry.ingredients["before"] for entry in list_entries(tmp_path / "cache")}
    assert befores == {"classifier.0", "features.28"}
