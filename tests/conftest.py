"""Settings of all tests."""

import pytest
from hypothesis import HealthCheck, settings

# Machines that run tests are shared: a slow example is no failure. A failing one is printed to be repeated.
settings.register_profile(
    "bitq", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bitq")


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory):
    """Keep what the tests compute, in this process and in those they start, out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITQ_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
