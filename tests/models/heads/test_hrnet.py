"""The mix of all maps."""

from tests.models.heads.pyramids import WITH_STRIDE_2, build, draw, pyramid_for


def test_the_map_has_the_size_of_the_finest_and_the_given_channels() -> None:
    pyramid = pyramid_for("hrnet")
    features = draw(pyramid, 64, 96)
    assert build("hrnet", pyramid)[0](features).shape == (1, 16, 16, 24)
    assert build("hrnet", pyramid, channels=None)[0](features).shape == (1, sum(WITH_STRIDE_2[2:]), 16, 24)
    assert build("hrnet", pyramid, strides=[2, 8])[0](features).shape == (1, 16, 32, 48)
