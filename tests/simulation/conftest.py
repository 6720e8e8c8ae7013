"""One small minimum-bias pool for all tests: Pythia takes seconds to set up such collisions."""

import pytest

from e2evit.simulation import SimulationSettings
from e2evit.simulation.shards import make_pool


@pytest.fixture(scope="session")
def pool():
    return make_pool(SimulationSettings(pool_size=60))
