"""Device profiles: found by name, read strictly, and complete in what they claim."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit_benchmarks.features import FEATURES
from edgekit_benchmarks.profile import (
    Profile,
    list_profiles,
    load_profiles,
    parse_profile,
    profile_files,
)
from edgekit_benchmarks.profile_text import format_profile
from edgekit_runtime.errors import UsageError

RASPBERRIES = ["raspberrypi-zero2w", "raspberrypi3b-plus", "raspberrypi4", "raspberrypi5"]


def test_a_family_is_all_its_boards() -> None:
    assert [profile.name for profile in load_profiles("raspberrypi")] == RASPBERRIES


def test_a_board_on_which_nothing_was_measured_must_be_named() -> None:
    (board,) = load_profiles("raspberrypi-cm4")
    assert board.family == "raspberrypi"
    assert board.taken_from == "Raspberry Pi 4 Model B"
    assert {c.taken_from for c in board.calibrations} == {board.taken_from}
    (measured,) = load_profiles("raspberrypi4")
    assert measured.taken_from == ""
    assert board.hardware.core == measured.hardware.core


def test_a_board_is_itself() -> None:
    (board,) = load_profiles("raspberrypi4")
    assert board.title == "Raspberry Pi 4 Model B"
    assert board in list_profiles()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("rasberrypi4", "raspberrypi4"),
        ("raspberry-pi", "raspberrypi"),
        ("RaspberryPi5", "raspberrypi5"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match="no device profile") as caught:
        load_profiles(name)
    assert caught.value.fix is not None
    assert "did you mean" in caught.value.fix
    assert near in caught.value.fix


def test_a_name_near_nothing_lists_them_all() -> None:
    with pytest.raises(UsageError) as caught:
        load_profiles("zzzzzz")
    assert all(name in str(caught.value.fix) for name in RASPBERRIES)


@pytest.mark.parametrize("profile", list_profiles(), ids=lambda profile: profile.name)
def test_every_figure_has_its_origin(profile: Profile) -> None:
    assert profile.hardware.sources
    for calibration in profile.calibrations:
        assert len(calibration.coefficients_ns) == len(FEATURES)
        # A kind of layer without a price would run for nothing; microcontrollers are priced by
        # their products alone.
        assert min(calibration.coefficients_ns) > 0 or calibration.runtime == "tinyml"
        assert calibration.sources
        assert all(source.startswith("https://") for source in calibration.sources)
        assert calibration.threads <= profile.hardware.cores
        assert calibration.least_macs < calibration.most_macs
        assert 0 < calibration.lofo_mape < 1
        assert calibration.band > 1
        assert 0 < calibration.coverage <= 1
        assert all(band > 1 for band in calibration.anchored_bands)
        assert not calibration.anchored
    for substitution in profile.substitutions:
        assert substitution.low <= substitution.factor <= substitution.high
        assert set(substitution.boards) <= {board.name for board in list_profiles()}


def test_a_file_is_named_after_its_board() -> None:
    for file in profile_files():
        assert file.name == f"{parse_profile(file.read_text(), where=file.name).name}.toml"


@pytest.mark.parametrize("profile", list_profiles(), ids=lambda profile: profile.name)
def test_what_is_written_is_read_back(profile: Profile) -> None:
    assert parse_profile(format_profile(profile), where="test") == profile


def test_text_that_toml_must_escape_is_read_back() -> None:
    profile = replace(list_profiles()[0], title='a "quoted" \\ title\nof two lines — μs')
    assert parse_profile(format_profile(profile), where="test") == profile


def test_every_fault_is_named() -> None:
    text = format_profile(load_profiles("raspberrypi4")[0])
    text = text.replace("cores = 4", 'cores = "four"').replace("band = ", "bond = ", 1)
    text = text.replace('counting = "winograd"', 'counting = "sheep"', 1)
    with pytest.raises(UsageError) as caught:
        parse_profile(text, where="broken.toml")
    assert caught.value.where == "broken.toml"
    for field in ("hardware.cores", "calibration[0].band", "calibration[0].counting"):
        assert field in caught.value.what


def test_another_format_version_is_refused() -> None:
    text = format_profile(list_profiles()[0]).replace("format_version = 2", "format_version = 3")
    with pytest.raises(UsageError, match="format_version"):
        parse_profile(text, where="newer.toml")


def test_what_is_no_toml_is_refused() -> None:
    with pytest.raises(UsageError, match="no TOML"):
        parse_profile("= nothing", where="broken.toml")
