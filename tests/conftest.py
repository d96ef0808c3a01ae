"""Fixtures that several files share."""

import pytest

from support.processes import Processes


@pytest.fixture(scope="module", params=[2, 4])
def processes(request):
    group = Processes(request.param)
    yield group
    group.close()


@pytest.fixture(scope="module")
def pair():
    group = Processes(2)
    yield group
    group.close()


@pytest.fixture(scope="module")
def four():
    group = Processes(4)
    yield group
    group.close()
