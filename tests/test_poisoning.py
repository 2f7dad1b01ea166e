"""Attacks on data: which items are changed, how, and what their success is measured on.

M items of images [M, C, height, width] or tables [M, F].
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from attack_scenes import forged, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.integrate import solve_ivp

from gossamer.attacks import Array, Attack
from gossamer.attacks.backdoor import Backdoor
from gossamer.attacks.label_flip import LabelFlip
from gossamer.attacks.shifted_data import ShiftedData, flowed, warped
from gossamer.errors import ExperimentError
from gossamer.randomness import generator

Mode = Literal["all", "targeted", "swap"]


def images(items: int = 40, channels: int = 3, height: int = 8, width: int = 10, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((items, channels, height, width)).astype(np.float32)


def labels(items: int = 40, classes: int = 5, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, classes, items)


def poisoned(attack: Attack, inputs_M: Array, labels_M: Array, classes: int = 5, seed: int = 0) -> tuple[Array, Array]:
    """What the attack makes of copies, as it is promised to get them."""
    return attack.poison(inputs_M.copy(), labels_M.copy(), classes, generator(seed, "poison"))


class TestLabelFlip:
    @pytest.mark.parametrize(
        ("attack", "expected"),
        [
            (LabelFlip(), [4, 3, 2, 1, 0]),
            (LabelFlip(mode="targeted", first=3, second=1), [0, 1, 2, 1, 4]),
            (LabelFlip(mode="swap"), [1, 0, 2, 3, 4]),
            (LabelFlip(mode="swap", first=4, second=2), [0, 1, 4, 3, 2]),
        ],
    )
    def test_what_each_class_is_called(self, attack: LabelFlip, expected: list[int]) -> None:
        inputs_M, labels_M = images(), labels()
        new_inputs_M, new_labels_M = poisoned(attack, inputs_M, labels_M)
        np.testing.assert_array_equal(new_inputs_M, inputs_M)
        assert new_labels_M.tolist() == [expected[y] for y in labels_M]
        assert new_labels_M.dtype == labels_M.dtype

    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10**6), first=st.integers(0, 4), offset=st.integers(1, 4))
    def test_flipping_twice_is_nothing_unless_classes_were_merged(self, seed: int, first: int, offset: int) -> None:
        labels_M = labels(seed=seed)
        for mode in ("all", "swap"):
            attack = LabelFlip(mode=mode, first=first, second=(first + offset) % 5)  # type: ignore[arg-type]
            once_M = poisoned(attack, images(), labels_M)[1]
            np.testing.assert_array_equal(poisoned(attack, images(), once_M)[1], labels_M)

    @pytest.mark.parametrize("mode", ["all", "targeted", "swap"])
    def test_success_is_being_taught(self, mode: Mode) -> None:
        """A model that says what poisoned labels say of every test item succeeds fully, one that is right never."""
        attack = LabelFlip(mode=mode)
        inputs_M, labels_M = images(), labels()
        taught_M = poisoned(attack, inputs_M, labels_M)[1]
        measured = attack.succeeded(inputs_M, labels_M, 5)
        assert measured is not None
        changed = np.flatnonzero(taught_M != labels_M)
        for found, expected in zip(measured, (inputs_M, labels_M, taught_M), strict=True):
            np.testing.assert_array_equal(found, expected[changed])
        assert not (measured[1] == measured[2]).any()

    @pytest.mark.parametrize(("mode", "classes"), [("all", {0, 1, 2, 3, 4}), ("targeted", {0}), ("swap", {0, 1})])
    def test_recruits_are_all_items_that_it_flips(self, mode: Mode, classes: set[int]) -> None:
        labels_M = labels()
        assert LabelFlip(mode=mode).recruits(labels_M).size == 0
        found = LabelFlip(mode=mode, extra=True).recruits(labels_M)
        assert found.dtype == np.int64
        assert found.tolist() == [i for i, y in enumerate(labels_M) if y in classes]

    def test_bad_input(self) -> None:
        with pytest.raises(ValidationError, match="first and second are both 2: give two classes"):
            LabelFlip(mode="swap", first=2, second=2)
        with pytest.raises(ExperimentError, match=r"attack\.second = 7, but there are 5 classes: use 0 to 4"):
            poisoned(LabelFlip(mode="targeted", second=7), images(), labels())
        with pytest.raises(ExperimentError, match="one label each, not for sequences"):
            poisoned(LabelFlip(), np.zeros((4, 6)), np.zeros((4, 6), np.int64))
        assert LabelFlip().succeeded(np.zeros((4, 6)), np.zeros((4, 6), np.int64), 10) is None


class TestBackdoor:
    @pytest.mark.parametrize(("share", "count"), [(1.0, 40), (0.5, 20), (0.1, 4)])
    def test_a_share_of_the_items_gets_the_patch_and_the_class(self, share: float, count: int) -> None:
        inputs_M, labels_M = images(), labels()
        attack = Backdoor(size=2, value=9.0, target=3, share=share)
        new_inputs_M, new_labels_M = poisoned(attack, inputs_M, labels_M)
        touched = (new_inputs_M[:, :, :2, :2] == 9.0).all((1, 2, 3))
        assert touched.sum() == count
        assert (new_labels_M[touched] == 3).all()
        np.testing.assert_array_equal(new_labels_M[~touched], labels_M[~touched])
        # Nothing but the corner of those items is another.
        restored = new_inputs_M.copy()
        restored[touched, :, :2, :2] = inputs_M[touched, :, :2, :2]
        np.testing.assert_array_equal(restored, inputs_M)
        assert new_inputs_M.dtype == np.float32

    def test_the_default_brightness_is_white_in_each_channel(self) -> None:
        """Pixels 0 to 1, normalised with another mean and deviation in each channel: the patch is what 1 became."""
        mean_C, std_C = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
        pixels = np.random.default_rng(0).uniform(0, 1, (40, 3, 8, 8))
        pixels[7, :, 5, 5] = 1.0
        inputs_M = (pixels - mean_C[:, None, None]) / std_C[:, None, None]
        patch = poisoned(Backdoor(), inputs_M, labels())[0][:, :, :3, :3]
        np.testing.assert_allclose(patch, np.broadcast_to(((1 - mean_C) / std_C)[:, None, None], patch.shape))

    def test_success_is_the_target_class_for_triggered_images_of_others(self) -> None:
        inputs_M, labels_M = images(), labels()
        before = inputs_M.copy()
        triggered, truth, goals = Backdoor(value=5.0, target=2).succeeded(inputs_M, labels_M, 10)
        others = np.flatnonzero(labels_M != 2)
        np.testing.assert_array_equal(truth, labels_M[others])
        assert (goals == 2).all()
        assert (triggered[:, :, :3, :3] == 5.0).all()
        np.testing.assert_array_equal(triggered[:, :, 3:], inputs_M[others][:, :, 3:])
        np.testing.assert_array_equal(inputs_M, before)

    def test_boost_replaces_the_model(self) -> None:
        seen = scene(base=2.0)
        expected = seen.own_base_HD + 6 * (seen.own_HD - seen.own_base_HD)
        torch.testing.assert_close(forged(Backdoor(boost=6.0), seen), expected)
        assert forged(Backdoor(), seen).equal(seen.own_HD)

    def test_bad_input(self) -> None:
        with pytest.raises(ExperimentError, match="'backdoor' needs images; for other data use 'label_flip'"):
            poisoned(Backdoor(), np.zeros((40, 6)), labels())
        with pytest.raises(ExperimentError, match=r"attack\.size = 9 is larger than the images \(8 x 10\)"):
            poisoned(Backdoor(size=9), images(), labels())
        with pytest.raises(ExperimentError, match=r"attack\.target = 5, but there are 5 classes: 0 to 4"):
            poisoned(Backdoor(target=5), images(), labels())


class TestShiftedData:
    @pytest.mark.parametrize("shift", ["noise", "warp"])
    @pytest.mark.parametrize("share", [1.0, 0.25])
    def test_labels_stay_and_a_share_of_the_inputs_changes(self, shift: Literal["noise", "warp"], share: float) -> None:
        inputs_M, labels_M = images(height=28, width=28), labels()
        new_inputs_M, new_labels_M = poisoned(ShiftedData(shift=shift, share=share), inputs_M, labels_M)
        np.testing.assert_array_equal(new_labels_M, labels_M)
        assert (new_inputs_M != inputs_M).any((1, 2, 3)).sum() == 40 * share
        assert new_inputs_M.dtype == np.float32

    def test_noise_has_the_strength_asked_for(self) -> None:
        inputs_M = np.zeros((400, 50))
        noise = poisoned(ShiftedData(shift="noise", strength=0.3), inputs_M, labels(400))[0]
        assert noise.std() == pytest.approx(0.3, rel=0.03)
        assert abs(noise.mean()) < 0.01

    def test_the_flow_solves_the_equations(self) -> None:
        """Against an adaptive solver with a tolerance of 1e-10, from corners of the image to its middle."""
        for start in ([16.0, 16.0], [-16.0, 16.0], [16.0, -16.0], [-16.0, -16.0], [3.0, -5.0], [0.0, 0.0]):
            exact = solve_ivp(
                lambda t, p: [2 / 3 * p[0] - 4 / 3 * p[0] * p[1], p[0] * p[1] - p[1]],
                [0, 0.01],
                start,
                rtol=1e-10,
                atol=1e-10,
            ).y[:, -1]
            np.testing.assert_allclose(flowed(np.array(start), 0.01), exact, rtol=1e-6)

    def test_no_time_is_no_change_and_little_time_little(self) -> None:
        smooth = np.fromfunction(lambda m, c, y, x: np.sin(y / 5) + np.cos(x / 7), (1, 1, 32, 32))
        np.testing.assert_allclose(warped(smooth, 0.0), smooth, atol=1e-12)
        changes = [np.abs(warped(smooth, t) - smooth).mean() for t in (1e-4, 1e-3, 1e-2)]
        assert changes[0] < changes[1] < changes[2]
        assert changes[0] < 0.002

    def test_pixels_come_from_where_the_flow_carries_them(self) -> None:
        """An image of its own coordinates shows, at each pixel, where that pixel was taken from."""
        rows, columns = np.mgrid[:20, :30].astype(float)
        found = warped(np.stack([rows, columns])[None], 0.01)[0]
        for i, j in [(10, 15), (9, 14), (12, 20), (4, 25)]:
            away = np.array([9.5 - i, 14.5 - j]) / np.array([20, 30]) * 32
            expected = np.array([9.5, 14.5]) - flowed(away, 0.01) * np.array([20, 30]) / 32
            np.testing.assert_allclose(found[:, i, j], expected.clip(0, [19, 29]), atol=1e-9)

    def test_bad_input(self) -> None:
        with pytest.raises(ExperimentError, match=r"attack\.shift = 'warp' needs images; for other data use 'noise'"):
            poisoned(ShiftedData(), np.zeros((40, 6)), labels())
        with pytest.raises(ExperimentError, match="needs inputs that are numbers, not tokens"):
            poisoned(ShiftedData(shift="noise"), np.zeros((40, 6), np.int64), labels())


@pytest.mark.parametrize("attack", [Backdoor(share=0.5), ShiftedData(share=0.5), ShiftedData(shift="noise")])
def test_the_generator_alone_decides(attack: Attack) -> None:
    first, again, other = (poisoned(attack, images(), labels(), seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
