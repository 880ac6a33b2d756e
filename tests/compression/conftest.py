"""The small codec, with one pass and with two."""

import pytest
from tiny import tiny


@pytest.fixture(scope="session", params=[False, True], ids=["one pass", "checkerboard"])
def codec(request):
    return tiny(request.param)
