"""Settings of all tests."""

from hypothesis import HealthCheck, settings

# Machines that run tests are shared: a slow example is no failure. A failing one is printed to be repeated.
settings.register_profile(
    "bitq", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bitq")
